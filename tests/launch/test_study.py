"""Studies through the console: what constraints drop, and every shipped preset."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from configs import compose, compose_sweep
from pfstudy import store
from pfstudy.inventory import find_runs
from pfstudy.launch.check import check_variants
from pfstudy.schema.config import Study
from pfstudy.schema.models import conf_directory
from pfstudy.variant import make_variant

Ended = subprocess.CompletedProcess[str]
Pfstudy = Callable[..., Ended]

QUICK = ("recipe.epochs=1", "speed=none", "logger=none")
SMALL = (*QUICK, "data=synthetic")
PRESETS = {
    path.stem: path
    for path in sorted((conf_directory() / "study").glob("*.yaml"))
    if path.stem != "default"
}
BY_DEFAULT = "depthwise"


FOUR = (
    (),
    ("block.stage1.block1.spatial=maxpool",),
    ("block.stage1.spatial=maxpool",),
    ("block.spatial=maxpool",),
)
SUBSTITUTED = ("stage1.block1=maxpool", "stage1=maxpool", "maxpool")


def labels_below(directory: Path) -> set[str]:
    """The variants that have a run directory."""
    records = store.read_records(find_runs(directory / "runs"))
    found = {record["variant"]["label"] for record in records}
    assert len(found) == len(list(directory.glob("runs/*/seed*")))
    return found


@pytest.fixture(scope="module")
def ended(
    tmp_path_factory: pytest.TempPathFactory,
    pfstudy_together: Callable[..., Mapping[str, Ended]],
) -> Mapping[str, tuple[Path, Ended]]:
    """Sweeps with constraints, and a preset."""
    commands = {
        # only the wide stage saves enough; the backbone itself saves nothing
        "constrained": ("study=one_stage", "study.constraints=['params <= 0.7x']", *SMALL),
        "nothing left": (
            *("-m", "block.spatial=maxpool,avgpool", "study.constraints=['sites <= 3']"),
            *SMALL,
        ),
        "preset": (f"study={BY_DEFAULT}", *SMALL),
    }
    directories = {name: tmp_path_factory.mktemp("study") for name in commands}
    done = pfstudy_together({name: (directories[name], commands[name]) for name in commands})
    return {name: (directories[name], done[name]) for name in commands}


class TestConstraints:
    @pytest.mark.slow
    def test_what_is_left_is_trained(self, ended: Mapping[str, tuple[Path, Ended]]) -> None:
        directory, done = ended["constrained"]
        assert done.returncode == 0, done.stderr
        kept = {"original", "stage2=maxpool", "stage2=avgpool", "stage2=dwconv"}
        assert labels_below(directory) == kept
        assert "7 variants, 7 runs, 0 done before" in done.stderr
        assert "train  4 runs" in done.stderr

    @pytest.mark.slow
    def test_what_is_dropped_is_counted_and_leaves_nothing(
        self, ended: Mapping[str, tuple[Path, Ended]]
    ) -> None:
        directory, done = ended["constrained"]
        notes = [line.strip() for line in done.stderr.splitlines() if "drop" in line]
        assert notes == ["params <= 0.7x drops 3 variants"]
        assert not list(directory.glob("runs/*stage1*"))
        assert "stage1" not in done.stdout

    @pytest.mark.slow
    def test_the_study_has_what_is_left(self, ended: Mapping[str, tuple[Path, Ended]]) -> None:
        directory, _ = ended["constrained"]
        (path,) = directory.glob("runs/studies/one_stage-resnet_digits-synthetic-*.json")
        members = store.read_study(directory / "runs", path.stem)
        assert {f"runs/{member}" for member in members} == {
            str(run.relative_to(directory)) for run in directory.glob("runs/*/seed0")
        }

    @pytest.mark.slow
    def test_where_nothing_is_left_nothing_is_written(
        self, ended: Mapping[str, tuple[Path, Ended]]
    ) -> None:
        directory, done = ended["nothing left"]
        assert (done.returncode, done.stdout) == (2, "")
        *said, sentence = done.stderr.splitlines()
        assert sentence == "pfstudy: study.constraints leave no variant to train; loosen them."
        assert said[-1].strip() == "sites <= 3 drops 2 variants"
        assert list(directory.iterdir()) == []

    def test_one_that_cannot_be_read_is_refused_before_anything_starts(
        self, pfstudy: Pfstudy, tmp_path: Path
    ) -> None:
        done = pfstudy(tmp_path, "-m", "block.spatial=maxpool,avgpool", "study.constraints=[few]")
        assert (done.returncode, done.stdout) == (2, "")
        (sentence,) = done.stderr.splitlines()
        assert sentence.startswith("pfstudy: study.constraints: 'few' cannot be read; write ")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("constraints", "dropped"),
        [
            pytest.param(
                ["sites <= 1"],
                {"stage1=maxpool": "sites <= 1", "maxpool": "sites <= 1"},
                id="sites",
            ),
            pytest.param(
                ["params >= 1x"],
                dict.fromkeys(SUBSTITUTED, "params >= 1x"),
                id="the backbone satisfies it",
            ),
            pytest.param(
                ["params > 1x"],
                dict.fromkeys(SUBSTITUTED, "params > 1x"),
                id="the backbone does not",
            ),
            pytest.param(["params < 1e5", "macs < 1x"], {}, id="all satisfy both"),
            pytest.param(
                ["sites >= 2", "params > 30000"],
                {"stage1.block1=maxpool": "sites >= 2", "maxpool": "params > 30000"},
                id="the first that is not satisfied",
            ),
        ],
    )
    def test_the_backbone_is_never_dropped(
        self, constraints: list[str], dropped: dict[str, str]
    ) -> None:
        study = Study(constraints=tuple(constraints))
        configs = [replace(compose(*overrides), study=study) for overrides in FOUR]
        variants = [make_variant(config, "content") for config in configs]
        found = check_variants(variants, lambda kind, details: None).dropped
        assert {v.label: found[v.hash] for v in variants if v.hash in found} == dropped

    def test_a_multiple_is_that_of_the_backbone_of_each(self) -> None:
        """A max-pool leaves 0.59, 0.41, 0.52 and 0.46 of their parameters."""
        configs = compose_sweep(
            "model=bottleneck1,bottleneck4",
            "model.args.channels=[16],[64]",
            "block.spatial=original,maxpool",
            "study.constraints=['params <= 0.5x']",
        )
        variants = [make_variant(config, "content") for config in configs]
        dropped = check_variants(variants, lambda kind, details: None).dropped
        found = [
            (v.config.model.name, v.config.model.args["channels"])
            for v in variants
            if v.hash in dropped
        ]
        assert found == [("bottleneck1", [16]), ("bottleneck4", [16])]


def check_preset(preset: str, directory: Path, done: Ended) -> None:
    (stated,) = re.findall(r"(\d+) variants\b", PRESETS[preset].read_text())
    assert done.returncode == 0, done.stderr
    assert f"{stated} variants, {stated} runs, 0 done before" in done.stderr
    records = list(store.read_records(find_runs(directory / "runs")))
    assert len(records) == int(stated)
    assert any(record["variant"]["is_baseline"] for record in records)
    (study,) = (directory / "runs" / "studies").glob("*.json")
    assert study.name.startswith(f"{preset}-")
    assert len((study.with_suffix("") / "table.csv").read_text().splitlines()) == 1 + int(stated)


@pytest.mark.slow
def test_a_preset_runs(ended: Mapping[str, tuple[Path, Ended]]) -> None:
    check_preset(BY_DEFAULT, *ended["preset"])


@pytest.mark.slow
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != BY_DEFAULT])
def test_every_preset_runs(preset: str, pfstudy: Pfstudy, tmp_path: Path) -> None:
    check_preset(preset, tmp_path, pfstudy(tmp_path, f"study={preset}", *QUICK))
