"""`measure_networks`, with measurements made by hand in place of processes."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs import compose
from measurements import of_processes
from pfstudy import store
from pfstudy.launch import speed
from pfstudy.launch.speed import Measured, measure_networks
from pfstudy.speed import archive
from pfstudy.speed.setting import setting_of
from pfstudy.tasks import Device, place_of
from pfstudy.variant import Variant

CPU = Device("cpu", "cpu", "Some CPU")
SWEPT = {"original": 1.0, "maxpool": 0.8, "dwconv": 0.7}
"""Relative times by a sweep of ten processes."""


class FakeMeasuring:
    """Stands for fresh processes: each measuring is of some more of them, with wild ratios."""

    def __init__(self) -> None:
        self.measured: list[list[str]] = []
        self.number = 100

    def __call__(
        self,
        pool: object,
        display: object,
        device: Device,
        variants: Sequence[Variant],
        keep: Callable[[Variant, Mapping[str, Any]], object],
        among: Sequence[Variant],
    ) -> dict[str, str]:
        self.measured.append([variant.label for variant in variants])
        baselines = {v.baseline().architecture_hash: v.baseline() for v in variants}
        for variant in (*baselines.values(), *variants):
            ratios = (1.0,) * 4 if variant.is_baseline else (0.3, 3.0, 0.9, 0.5)
            keep(variant, self.measure(variant, *ratios))
        return {}

    def measure(self, variant: Variant, *ratios: float) -> dict[str, Any]:
        setting = {**place_of(CPU), **setting_of(variant.config.speed)}
        self.number += len(ratios)
        return of_processes(*ratios, first=self.number, environment={}, **setting)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMeasuring:
    measuring = FakeMeasuring()
    monkeypatch.setattr(speed, "measure_speed", measuring)
    monkeypatch.setattr(speed, "check_networks", lambda *_: {"cpu": CPU, "auto": CPU})
    return measuring


@pytest.fixture
def swept(
    fake: FakeMeasuring, make_run: Callable[..., store.Run], tmp_path: Path
) -> dict[str, Path]:
    """Directories of variants by their labels, measured by a sweep that only wrote beside them."""
    found = {}
    for label, ratio in SWEPT.items():
        run = make_run(f"block.spatial={label}")
        store.prepare(run)
        found[label] = run.directory.parent
        archive.save(run.variant, fake.measure(run.variant, *[ratio] * 10))
    for path in (tmp_path / "runs" / "speed").iterdir():
        path.unlink()
    return found


def measure(directory: Path, *overrides: str, **options: bool) -> Measured:
    runs = f"runs_dir={directory / 'runs'}"
    batches = [text for text in overrides if "batch_size" in text] or ["speed.batch_size=1"]
    labels = [text for text in overrides if "batch_size" not in text]
    configs = [compose(f"block.spatial={o}", b, runs) for b in batches for o in labels]
    return measure_networks(configs, **options)


def known(directory: Path, batch_size: int = 1) -> dict[str, Any]:
    (found,) = (m for m in store.read_speeds(directory) if m["batch_size"] == batch_size)
    return found


def test_what_a_sweep_has_measured_is_not_measured_again(
    tmp_path: Path, fake: FakeMeasuring, swept: dict[str, Path]
) -> None:
    before = {label: known(directory) for label, directory in swept.items()}
    measured = measure(tmp_path, "maxpool", "dwconv", "speed.batch_size=1", "speed.batch_size=8")
    assert fake.measured == [["maxpool", "dwconv"]]  # with batch 8
    assert {label: known(directory) for label, directory in swept.items()} == before
    ratios = {(n.label, n.measured["batch_size"]): n.measured for n in measured.networks}
    assert ratios["maxpool", 1] == before["maxpool"]
    assert known(swept["maxpool"], 8) == ratios["maxpool", 8]


def test_more_processes_are_pooled_with_those_before(
    tmp_path: Path, fake: FakeMeasuring, swept: dict[str, Path]
) -> None:
    before = known(swept["dwconv"])
    measured = measure(tmp_path, "maxpool", again=True)
    (network,) = measured.networks
    assert network.measured["num_processes"] == 14
    assert network.measured["relative_latency"] == pytest.approx(0.8)
    assert known(swept["maxpool"]) == network.measured
    assert known(swept["original"])["num_processes"] == 14
    assert known(swept["dwconv"]) == before
    measure(tmp_path, "maxpool", again=True)
    assert known(swept["maxpool"])["num_processes"] == 18


def test_replacing_forgets_what_was_known_of_the_networks_asked_for(
    tmp_path: Path, fake: FakeMeasuring, swept: dict[str, Path]
) -> None:
    measured = measure(tmp_path, "maxpool", replace=True)
    (network,) = measured.networks
    assert network.measured["num_processes"] == 4
    assert known(swept["maxpool"]) == network.measured
    assert known(swept["original"])["num_processes"] == 14  # was not asked for
    assert measure(tmp_path, "maxpool").networks == (network,)


def test_a_sweep_finds_what_was_measured(
    tmp_path: Path, fake: FakeMeasuring, make_run: Callable[..., store.Run]
) -> None:
    (network,) = measure(tmp_path, "maxpool").networks
    run = make_run("block.spatial=maxpool", "recipe.lr=0.3")
    assert archive.find_measured(run.variant, {"host": platform.node()}) == network.measured
