"""What a sweep says of the identities of its variants, and how often it reads a dataset."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import compose
from pfstudy.data import digests
from pfstudy.launch.sweep import identify_variants

FOLDER = (
    *("data=imagefolder", "data.path=images", "data.image_size=8", "data.channels=1"),
    *("data.num_classes=2", "data.num_validation=2"),
)


@pytest.fixture
def _images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        for part in ("train", "val"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            (folder / "0.png").write_bytes(b"an image" * 4000)


@pytest.mark.usefixtures("_images")
def test_a_dataset_is_read_once_for_all_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    compute = digests.digest_images

    def count(stored: digests.Stored) -> object:
        read.append(stored.root)
        return compute(stored)

    monkeypatch.setattr("pfstudy.data.imagefolder.digest_images", count)
    configs = [compose(*FOLDER, f"block.spatial={name}") for name in ("original", "maxpool")]
    variants, notes = identify_variants(configs)
    assert len({variant.hash for variant in variants}) == 2
    assert read == [Path("images")]
    assert not notes


@pytest.mark.usefixtures("_images")
def test_it_says_once_that_large_datasets_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "WHOLE_BYTES", 1000)
    configs = [compose(*FOLDER, f"block.spatial={name}") for name in ("original", "maxpool")]
    _, (note,) = identify_variants(configs)
    assert "three blocks of 4096 bytes of each" in note


def test_it_says_once_what_of_an_operation_cannot_be_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_dynamic_ops.py").write_text(
        "from importlib import import_module\n"
        "from pfstudy import Operation, register\n"
        "def build(layer, name='math'):\n"
        "    import_module(name)\n"
        "register(Operation('dynamic', build, trainable=False))\n"
    )
    own = ("imports=[my_dynamic_ops]", "block.spatial=dynamic")
    _, (note,) = identify_variants([compose(*own), compose(*own, "recipe.lr=0.3")])
    assert note == (
        "the identity of dynamic does not cover what these run: my_dynamic_ops.py, line 4: "
        "import_module(name)"
    )
