"""Architectures that were found: written, and composed by ``+found=NAME`` like anything else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import pfstudy
from pfstudy.errors import PfstudyError
from pfstudy.found import found_path, overrides_of, write_found
from pfstudy.schema.config import SiteSetting

Call = Callable[..., tuple[int | str | None, str, str]]

SITES = (
    SiteSetting("stage1.block1", "maxpool", None, "keep"),
    SiteSetting("stage1.block2", "original", None, "auto"),
    SiteSetting("stage2.block1", "avgpool", 5, "auto"),
    SiteSetting("stage2.block2", "dwconv", None, "auto"),
)
LABEL = "stage1.block1=maxpool+norm, stage2.block1=avgpool5x5, stage2.block2=dwconv"


@pytest.fixture(autouse=True)
def _in_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def found() -> Path:
    """``runs/found/mine.yaml``."""
    return write_found(Path("runs"), "mine", "resnet_digits", SITES, ["By hand.", "And twice."])


def label(config: Any) -> str:
    from pfstudy.variant import make_variant

    return make_variant(config, "0").label


def refusal(*overrides: str) -> str:
    with pytest.raises(PfstudyError) as caught:
        pfstudy.compose(overrides)
    return str(caught.value)


def test_the_file_is_one_that_people_read(found: Path) -> None:
    assert found == Path("runs/found/mine.yaml")
    assert found.read_text() == (
        "# @package _global_\n"
        "# By hand.\n"
        "# And twice.\n"
        "# As overrides: pfstudy model=resnet_digits block.stage1.block1.spatial=maxpool "
        "block.stage1.block1.norm_act=keep block.stage2.block1.spatial=avgpool "
        "block.stage2.block1.kernel_size=5 block.stage2.block2.spatial=dwconv\n"
        "defaults:\n"
        "  - override /model: resnet_digits\n"
        "block:\n"
        "  stage1:\n"
        "    block1:\n"
        "      spatial: maxpool\n"
        "      norm_act: keep\n"
        "  stage2:\n"
        "    block1:\n"
        "      spatial: avgpool\n"
        "      kernel_size: 5\n"
        "    block2:\n"
        "      spatial: dwconv\n"
    )


@pytest.mark.usefixtures("found")
def test_it_composes_as_its_overrides_do() -> None:
    config = pfstudy.compose(["+found=mine"])
    assert label(config) == LABEL
    assert config == pfstudy.compose(overrides_of("resnet_digits", SITES))
    assert pfstudy.compose(["+found=mine", "seeds=3"]).seeds == 3
    changed = pfstudy.compose(["+found=mine", "block.stage1.block1.spatial=original"])
    assert changed.sites[0].operation == "original"
    assert changed.sites[2:] == config.sites[2:]


def test_its_model_is_its_own() -> None:
    site = SiteSetting("stage1.block3", "avgpool", None, "auto")
    write_found(Path("runs"), "of_vit", "vit_digits", [site], [])
    config = pfstudy.compose(["+found=of_vit"])
    assert config.model.name == "vit_digits"
    assert label(config) == "stage1.block3=avgpool"


def test_the_backbone_itself_may_be_what_was_found() -> None:
    write_found(Path("runs"), "none", "resnet_digits", SITES[1:2], [])
    assert label(pfstudy.compose(["+found=none"])) == "original"


def test_other_directories_of_runs() -> None:
    write_found(Path("else where"), "there", "resnet_digits", SITES, [])
    assert label(pfstudy.compose(["+found=there", "runs_dir='else where'"])) == LABEL
    assert "runs_dir=DIRECTORY" in refusal("+found=there")


@pytest.mark.usefixtures("found")
@pytest.mark.slow
def test_a_sweep_over_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from pfstudy.cli.overrides import compose

    monkeypatch.setattr(sys, "argv", ["pfstudy"])
    write_found(Path("runs"), "of_vit", "vit_digits", SITES[:1], [])
    for names in ("mine,of_vit", "glob(*)"):
        configs = compose(["-m", f"+found={names}", "recipe.epochs=1,2"])
        assert [c.model.name for c in configs] == ["resnet_digits"] * 2 + ["vit_digits"] * 2
        assert [c.recipe.epochs for c in configs] == [1, 2, 1, 2]
    both = compose(["-m", "+found=mine,of_vit", "site=glob(*.block2)", "swap=identity"])
    assert [len(config.model.depths) for config in both] == [2, 2, 1]  # each has its own sites
    around = compose(["-m", "+found=mine", "site=glob(stage2*)", "swap=identity"])
    assert [label(config).partition(",")[0] for config in around] == [
        "stage1.block1=maxpool+norm"
    ] * 3


@pytest.mark.usefixtures("found")
def test_the_command_line_knows_it(call_here: Call) -> None:
    code, out, err = call_here("+found=mine", "--cfg", "job", "--resolve", "--package", "block")
    assert (code, err) == (0, "")
    block = yaml.safe_load(out)
    assert block["stage1"]["block1"]["spatial"] == "maxpool"
    assert block["stage1"]["block2"]["spatial"] == "original"
    assert call_here("+found=other") == (
        *(2, ""),
        "pfstudy: +found: the architecture 'other' does not exist; choose from: mine.\n",
    )


def test_a_file_of_the_users_own_directory(call_here: Call, found: Path) -> None:
    own = Path("my_conf/found/own.yaml")
    own.parent.mkdir(parents=True)
    own.write_text(found.read_text())
    found.unlink()
    show = ("--cfg", "job", "--package", "block.stage2.block1.kernel_size")
    assert call_here("+found=own", "--config-dir", "my_conf", *show)[0] == 0
    assert label(pfstudy.compose(["+found=own"], "my_conf")) == LABEL


def test_one_name_is_of_one_architecture(found: Path) -> None:
    own = Path("my_conf/found/mine.yaml")
    own.parent.mkdir(parents=True)
    own.write_text(found.read_text())
    assert label(pfstudy.compose(["+found=mine"], "my_conf")) == LABEL
    own.write_text(found.read_text().replace("maxpool", "minpool"))
    with pytest.raises(PfstudyError, match="rename it"):
        pfstudy.compose(["+found=mine"], "my_conf")


def test_it_is_never_overwritten_by_another(found: Path) -> None:
    before = found.read_text()
    with pytest.raises(PfstudyError, match="give this one another name"):
        write_found(Path("runs"), "mine", "resnet_digits", SITES[:1], [])
    assert found.read_text() == before
    again = write_found(Path("runs"), "mine", "resnet_digits", SITES[::-1], ["Found again."])
    assert again.read_text() == before.replace("# By hand.\n# And twice.", "# Found again.")
    found.write_text("a: [")
    with pytest.raises(PfstudyError, match="give this one another name"):
        write_found(Path("runs"), "mine", "resnet_digits", SITES, [])


@pytest.mark.parametrize(
    "name", ["", "a/b", "../a", ".a", "a b", "a,b", "1", "1e5", "1_0.5", "true", "Null"]
)
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(PfstudyError, match="cannot be that of an architecture"):
        found_path(Path("runs"), name)


@pytest.mark.parametrize("name", ["design-resnet_digits-0.8-1a2b", "0.8x", "A", "v1.2"])
def test_names_that_are_some(name: str) -> None:
    write_found(Path("runs"), name, "resnet_digits", SITES, [])
    assert label(pfstudy.compose([f"+found={name}"])) == LABEL


def test_operations_of_ones_own_come_along() -> None:
    Path("found_ops.py").write_text(
        "from pfstudy import Operation, register\n"
        "register(Operation('found_op', 'torch.nn:Identity', trainable=False))\n"
    )
    site = SiteSetting("stage1.block1", "found_op", None, "auto")
    write_found(Path("runs"), "own", "resnet_digits", [site], [], ["found_ops.py"])
    config = pfstudy.compose(["+found=own"])
    assert config.imports == ("found_ops.py",)
    assert label(config) == "stage1.block1=found_op"
    assert "'imports=[found_ops.py]'" in overrides_of("resnet_digits", [site], ["found_ops.py"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", "cannot be read"),
        ("", "is damaged"),
        ("defaults: []", "is damaged"),
        ("defaults:\n  - override /model: resnet_digits\nblock: 1", "is damaged"),
        ("defaults:\n  - override /model: resnet_digits\nblock: {stage1: 1}", "is damaged"),
        ("defaults:\n  - override /model: resnet_digits\nblock: {stage1: {block1: 1}}", "damaged"),
        (
            "defaults:\n  - override /model: resnet_digits\nblock: {stage1: {block1: {op: conv}}}",
            "is damaged",
        ),
        ("defaults:\n  - override /model: resnet", "model 'resnet' does not exist; choose from"),
        (
            "defaults:\n  - override /model: resnet_digits\nblock: {stage9: {block1: {}}}",
            "names stage9, which is no site of resnet_digits, whose sites are "
            "stage1.block1-2, stage2.block1-2.",
        ),
    ],
)
def test_damaged_files(found: Path, text: str, sentence: str) -> None:
    damaged = found.with_name("damaged.yaml")
    damaged.write_text(text)
    said = refusal("+found=damaged")
    assert sentence in said
    assert str(damaged) in said
    assert label(pfstudy.compose(["+found=mine"])) == LABEL  # the others are none the worse
