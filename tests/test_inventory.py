from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import variant_of
from pfstudy import files, inventory, store
from pfstudy.errors import PfstudyError
from pfstudy.inventory import describe, describe_run, find_runs, name_runs
from run_directories import write_run

MAXPOOL = "block.spatial=maxpool"


def names_of(*runs: Path) -> list[str]:
    return list(name_runs([describe(run) for run in runs]).values())


class TestFindRuns:
    def test_of_a_directory_of_runs_in_the_order_of_their_seeds(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path, MAXPOOL, seed=seed) for seed in (10, 2, 0)]
        other = write_run(tmp_path, "block.spatial=avgpool")
        assert find_runs(tmp_path) == [other, *reversed(runs)]

    def test_of_a_variant_and_of_one_run(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path, MAXPOOL, seed=seed) for seed in (0, 1)]
        write_run(tmp_path, "block.spatial=avgpool")
        assert find_runs(runs[0].parent) == runs
        assert find_runs(runs[1]) == [runs[1]]

    def test_nothing_else_is_a_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, MAXPOOL)
        store.add_to_study(tmp_path, "mine", [])
        for name in ("forgotten/a/seed0", "b/seed0", "b/speed", "b/seedling"):
            (tmp_path / name).mkdir(parents=True)
        (tmp_path / "forgotten/a/seed0/state.json").touch()
        (tmp_path / "b/seedling/state.json").touch()
        assert find_runs(tmp_path) == [run]

    def test_of_an_empty_directory(self, tmp_path: Path) -> None:
        assert find_runs(tmp_path) == []

    def test_of_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"there is no directory .*none"):
            find_runs(tmp_path / "none")


class TestDescribe:
    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param([], id="baseline"),
            pytest.param([MAXPOOL], id="everywhere"),
            pytest.param(["block.stage2.spatial=dwconv"], id="stage"),
            pytest.param(["block.stage1.block2.spatial=avgpool"], id="block"),
            pytest.param([MAXPOOL, "block.downsample=avgpool_conv"], id="downsample"),
            pytest.param([MAXPOOL, "block.kernel_size=5"], id="kernel"),
            pytest.param([MAXPOOL, "block.norm_act=keep"], id="norm-kept"),
            pytest.param(["block.spatial=dwconv", "block.norm_act=drop"], id="norm-dropped"),
            pytest.param(["block.spatial=conv"], id="what-it-has-anyway"),
            pytest.param(["model=vit_digits", MAXPOOL], id="tokens"),
        ],
    )
    def test_is_that_of_the_variant(self, tmp_path: Path, overrides: list[str]) -> None:
        variant = variant_of(*overrides)
        directory = write_run(tmp_path, *overrides, seed=3)
        found = describe(directory)
        assert found == describe_run(store.Run(variant, 3, directory))
        assert (found.label, found.operations) == (variant.label, variant.operations)
        assert (found.hash, found.seed) == (variant.hash, 3)

    def test_operation_that_is_not_registered_here(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, "block.stage2.spatial=avgpool", "block.kernel_size=5")
        path = directory / store.CONFIG
        path.write_text(path.read_text().replace('"avgpool"', '"mine"'))
        assert describe(directory).label == "stage2=mine5x5"

    def test_config_that_was_written_anew(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, MAXPOOL)
        assert describe(directory).seed == 0
        path = directory / store.CONFIG
        files.write_text(path, path.read_text().replace('"seed": 0', '"seed": 5'))
        assert describe(directory).seed == 5

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            pytest.param(None, "cannot be read", id="missing"),
            pytest.param('{"identity": {', "is damaged", id="half-written"),
            pytest.param("{}", "not written by this version", id="empty"),
            pytest.param('{"identity": [], "config": {}}', "not written by this", id="other-type"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, content: str | None, says: str) -> None:
        directory = write_run(tmp_path, MAXPOOL)
        path = directory / store.CONFIG
        if content is None:
            path.unlink()
        else:
            path.write_text(content)
        with pytest.raises(PfstudyError, match=rf"config\.json .*{says}"):
            describe(directory)

    def test_model_of_another_version(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, MAXPOOL)
        written = files.read_json(directory / store.CONFIG)
        written["config"]["model"]["flavour"] = "new"
        files.write_json(directory / store.CONFIG, written)
        with pytest.raises(PfstudyError, match="not written by this version"):
            describe(directory)


class TestNameRuns:
    def test_one_is_its_label_and_seed(self, tmp_path: Path) -> None:
        assert names_of(write_run(tmp_path, MAXPOOL, seed=2)) == ["maxpool seed2"]

    def test_what_differs_is_in_the_name(self, tmp_path: Path) -> None:
        runs = [
            write_run(tmp_path, MAXPOOL, "recipe.lr=0.1"),
            write_run(tmp_path, MAXPOOL, "recipe.lr=0.3"),
            write_run(tmp_path, "recipe.lr=0.3"),
        ]
        expected = ["maxpool lr=0.1 seed0", "maxpool lr=0.3 seed0", "original lr=0.3 seed0"]
        assert names_of(*runs) == expected

    def test_model_is_named_where_there_are_several(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path, f"model={name}") for name in ("resnet_digits", "vit_digits")]
        names = names_of(*runs)
        assert [name.split()[0] for name in names] == ["resnet_digits", "vit_digits"]

    def test_runs_that_would_be_called_the_same_have_their_identity_in_the_name(
        self, tmp_path: Path
    ) -> None:
        run = describe(write_run(tmp_path, MAXPOOL))
        other = replace(run, directory=tmp_path / "other", hash="0123456789")
        names = list(name_runs([run, other]).values())
        assert names == [f"maxpool seed0 ({run.hash})", "maxpool seed0 (0123456789)"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("6ebb3d2fee" + "0" * 54, "6ebb3d2fee", id="digest"),
        pytest.param("one_cycle", "one_cycle", id="word"),
        pytest.param(0.1, "0.1", id="number"),
        pytest.param(True, "true", id="flag"),
        pytest.param([2, 2], "[2, 2]", id="list"),
    ],
)
def test_shorten(value: Any, expected: str) -> None:
    assert inventory.shorten(value) == expected
