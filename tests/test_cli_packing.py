"""`pfstudy pack`, and a run from what it makes, as they are typed."""

from __future__ import annotations

import signal
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfstudy.files import read_json

Call = Callable[..., tuple[int | str | None, str, str]]
Pfstudy = Callable[..., subprocess.CompletedProcess[str]]

OF_FOLDER = (
    *("data=imagefolder", "data.num_classes=2", "data.num_validation=8", "data.image_size=8"),
    *("data.channels=1", "data.mean=[0.449]", "data.std=[0.226]", "data.num_workers=1"),
    *("recipe.epochs=2", "recipe.batch_size=8", "speed=none", "logger=none"),
    "trainer.accelerator=cpu",
)


def write_folder(root: Path, num_train: int = 16) -> None:
    """Two classes that are told apart by their brightness."""
    rng = np.random.default_rng(0)
    for part, count in (("train", num_train), ("val", 8)):
        for name, grey in (("dark", 60), ("light", 180)):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(rng.normal(grey, 40, (20, 30, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{number:05d}.jpg")


def test_packs_a_folder(call_here: Call) -> None:
    write_folder(Path("photos"))
    code, out, err = call_here("pack", "photos", "packed")
    assert (code, err) == (0, "")
    assert out.startswith("packed: 48 images in 2 files, 0.1 MB")
    assert sorted(path.name for path in Path("packed").iterdir()) == [
        *("packed.npz", "train-000000.tar", "val-000000.tar")
    ]
    code, out, err = call_here("pack", "photos", "small", "--side", "10", "--quality", "50")
    assert (code, err) == (0, "")
    for name, size in (("packed", (30, 20)), ("small", (15, 10))):
        with tarfile.open(Path(name, "val-000000.tar")) as shard:
            assert shard.getnames()[0] == "val/dark/00000.jpg"
            content = shard.extractfile("val/light/00007.jpg")
            assert content is not None
            assert Image.open(content).size == size


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param(("photos", "photos2"), "photos2 is there already; remove it, or choose "
                     "another place.", id="out is there"),
        pytest.param(("nowhere", "packed"), "nowhere cannot be read: No such file or "
                     "directory.", id="no folder"),
        pytest.param(("photos2", "packed"), "photos2 has no class folders: expected "
                     "train/CLASS/ and val/CLASS/, or CLASS/ alone.", id="no classes"),
        pytest.param(("photos", "packed", "--quality", "50"), "--quality is for images that are "
                     "shrunk; give --side, too.", id="quality alone"),
        pytest.param(("photos", "packed", "--bit-depth", "12"), "--bit-depth is for images that "
                     "are shrunk; give --side, too.", id="bit depth alone"),
    ],
)  # fmt: skip
def test_what_cannot_be_packed(call_here: Call, arguments: tuple[str, ...], sentence: str) -> None:
    write_folder(Path("photos"), 1)
    Path("photos2").mkdir()
    code, out, err = call_here("pack", *arguments)
    assert (code, out, err) == (2, "", f"pfstudy: {sentence}\n")
    assert not Path("packed").exists()


def test_what_is_asked_to_end_leaves_nothing(executable: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "photos", 2000)
    arguments = [executable, "pack", "photos", "packed", "--side", "10"]
    process = subprocess.Popen(arguments, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob(".packed.draft-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


@pytest.mark.slow
def test_run_from_what_is_packed_is_that_from_the_folder(pfstudy: Pfstudy, tmp_path: Path) -> None:
    write_folder(tmp_path / "photos")
    packed = pfstudy(tmp_path, "pack", "photos", "packed")
    assert packed.returncode == 0
    done = pfstudy(tmp_path, *OF_FOLDER, "data.path=packed")
    assert done.returncode == 0, done.stderr
    again = pfstudy(tmp_path, *OF_FOLDER, "data.path=photos")
    assert "1 run, 1 done before" in again.stderr
    (path,) = tmp_path.glob("runs/*/seed0/record.json")
    assert read_json(path)["metrics"]["test_top1_percent"] > 50
