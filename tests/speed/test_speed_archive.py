"""Where measurements are kept, and found again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import variant_of
from measurements import measurement, of_processes
from pfstudy import files, store
from pfstudy.speed import archive
from pfstudy.speed.archive import find_measured, take_results
from pfstudy.speed.results import Network, network_of
from pfstudy.speed.setting import setting_of
from pfstudy.variant import Variant

PLACE = {"host": "here", "device": "Some CPU", "device_kind": "cpu"}
MAXPOOL = "block.spatial=maxpool"


def variant_below(directory: Path, *settings: str) -> Variant:
    variant = variant_of(MAXPOOL, *settings)
    return replace(variant, config=replace(variant.config, runs_dir=str(directory)))


def here(*settings: str) -> dict[str, Any]:
    """The setting of a config, with the library that is installed."""
    return {**setting_of(variant_of(*settings).config.speed), "device_kind": "cpu"}


def saved(directory: Path, *settings: str) -> Variant:
    """A variant in a directory of its own, with a measurement."""
    variant = variant_below(directory, *settings)
    archive.save(variant, of_processes(0.5, 0.5, **here(*settings)))
    return variant


class TestFindMeasured:
    def test_finds_what_was_saved(self, tmp_path: Path) -> None:
        variant = saved(tmp_path)
        for place in ({"host": "here"}, {"host": "here", "device_kind": "cpu"}, PLACE):
            found = find_measured(variant, place)
            assert found is not None
            assert (found["relative_latency"], found["baseline_latency_ms"]) == (0.5, 2)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"host": "elsewhere"}, id="host"),
            pytest.param({"device": "Another CPU"}, id="device"),
            pytest.param({"device_kind": "gpu"}, id="kind"),
            pytest.param({"driver": "580.65.06"}, id="driver"),
        ],
    )
    def test_not_of_another_place(self, tmp_path: Path, change: Any) -> None:
        assert find_measured(saved(tmp_path), {**PLACE, **change}) is None

    def test_not_of_another_setting(self, tmp_path: Path) -> None:
        variant = saved(tmp_path)
        changes: list[dict[str, Any]] = [
            *({"batch_size": 2}, {"num_threads": 2}, {"layout": "channels_last"}),
            *({"dtype": "bfloat16"}, {"backend": "compile"}, {"passes": "forward_backward"}),
            *({"cache": "cold"}, {"cuda_graph": True}),
        ]
        for change in changes:
            speed = replace(variant.config.speed, **change)
            other = replace(variant, config=replace(variant.config, speed=speed))
            assert find_measured(other, PLACE) is None

    def test_several_settings_stand_side_by_side(self, tmp_path: Path) -> None:
        one, other = saved(tmp_path), saved(tmp_path, "speed.batch_size=8")
        assert one.hash == other.hash
        assert len(store.read_speeds(store.variant_directory(one))) == 2
        found = [find_measured(variant, PLACE) for variant in (one, other)]
        assert [measured and measured["batch_size"] for measured in found] == [1, 8]

    @pytest.mark.parametrize("version", [None, "torch1.0"])
    def test_not_of_another_library(self, tmp_path: Path, version: str | None) -> None:
        variant = variant_below(tmp_path)
        archive.save(variant, measurement(0.5, version=version))
        assert find_measured(variant, PLACE) is None

    def test_that_fell_back_where_that_is_allowed_alone(self, tmp_path: Path) -> None:
        settings = ("speed.backend=compile", "speed.fallback=true")
        variant = variant_below(tmp_path, *settings)
        archive.save(variant, measurement(0.5, **here(*settings), fell_back=True))
        assert find_measured(variant, PLACE) is not None
        strict = replace(variant.config, speed=replace(variant.config.speed, fallback=False))
        assert find_measured(replace(variant, config=strict), PLACE) is None


OLD_KEYS = (
    *("device", "host", "batch_size", "layout", "dtype", "backend", "num_threads"),
    *("latency_ms", "baseline_latency_ms", "relative_latency", "device_kind"),
)
OLD = {key: value for key, value in measurement(0.5).items() if key in OLD_KEYS}
"""As it was written before there were passes, caches, CUDA graphs and so on."""


class TestFromBeforeSomeSettings:
    def test_is_found(self, tmp_path: Path) -> None:
        variant = variant_below(tmp_path)
        old = {**OLD, "version": here()["version"]}
        archive.save(variant, old)
        assert find_measured(variant, PLACE) == old

    def test_gives_way_to_one_of_processes(self, tmp_path: Path) -> None:
        directory = store.variant_directory(saved(tmp_path))
        (path,) = (directory / "speed").iterdir()
        files.write_json(path, OLD)
        variant = saved(tmp_path)
        assert list((directory / "speed").iterdir()) == [path]
        assert files.read_json(path)["num_processes"] == 2
        assert find_measured(variant, PLACE) is not None


class TestSweepsAndSpeed:
    """What `pfstudy speed` adds and what a sweep saves beside its runs is one measurement."""

    def test_a_sweep_finds_what_speed_has_measured(self, tmp_path: Path) -> None:
        measured = of_processes(0.8, 0.8, **here())
        archive.add(variant_below(tmp_path), measured)
        variant = variant_below(tmp_path, "recipe.lr=0.3")  # the same network
        assert find_measured(variant, PLACE) == measured
        assert store.read_speeds(store.variant_directory(variant)) == []
        archive.place_beside(variant, PLACE)
        assert store.read_speeds(store.variant_directory(variant)) == [measured]

    def test_speed_finds_what_a_sweep_has_saved(self, tmp_path: Path) -> None:
        saved(tmp_path)
        for path in (tmp_path / "speed").iterdir():
            path.unlink()  # as of a sweep before there was one file for both
        run = store.make_run(variant_below(tmp_path), 0)
        store.prepare(run)
        asked = variant_below(tmp_path, "recipe.lr=0.3")
        found = find_measured(asked, PLACE, archive.list_directories(tmp_path))
        assert found is not None
        assert found["relative_latency"] == 0.5

    def test_all_that_is_known_is_pooled(self, tmp_path: Path) -> None:
        variant = variant_below(tmp_path)
        archive.save(variant, of_processes(*[0.8] * 10, **here()))
        network = archive.add(variant, of_processes(0.7, 0.9, 0.6, 1.0, first=10, **here()))
        assert network.measured["num_processes"] == 14
        assert len(store.read_speeds(store.variant_directory(variant))[0]["processes"]) == 10
        found = find_measured(variant, PLACE)
        assert found == network.measured

    def test_what_is_known_is_not_written_again(self, tmp_path: Path) -> None:
        variant = saved(tmp_path)
        (path,) = (tmp_path / "speed").glob("*.json")
        before = path.stat().st_mtime_ns
        network = archive.add(variant, of_processes(0.5, 0.5, **here()))
        assert path.stat().st_mtime_ns == before
        assert network.measured["num_processes"] == 2

    def test_what_is_replaced_is_gone(self, tmp_path: Path) -> None:
        variant = saved(tmp_path)
        new = of_processes(0.9, 0.9, first=5, **here())
        assert archive.add(variant, new, replace=True).measured == new


def networks(**relative: float) -> list[Network]:
    return [
        network_of(variant_of(f"block.spatial={label}"), measurement(time))
        for label, time in relative.items()
    ]


def results_of(device: str = "Some CPU", **relative: float) -> list[Network]:
    return [
        replace(network, measured={**network.measured, "device": device})
        for network in networks(**relative)
    ]


class TestTakeResults:
    @pytest.fixture
    def prepare(self, make_run: Callable[..., store.Run]) -> Callable[..., Path]:
        """Make the directory of a run; returns that of its variant."""

        def prepared(*overrides: str) -> Path:
            run = make_run(*overrides)
            store.prepare(run)
            return run.directory.parent

        return prepared

    def test_go_beside_every_variant_with_the_network(self, tmp_path: Path, prepare: Any) -> None:
        maxpool = [
            prepare("block.spatial=maxpool"),
            prepare("block.spatial=maxpool", "recipe.lr=0.3"),
        ]
        prepare("block.spatial=maxpool", "seed=1")  # of the first variant
        avgpool = prepare("block.spatial=avgpool")
        taken = take_results(results_of(maxpool=0.8, identity=0.5), tmp_path / "runs")
        assert list(taken.written) == ["resnet_digits maxpool"]
        written = taken.written["resnet_digits maxpool"]
        assert {path.parent.parent for path in written} == set(maxpool)
        assert len(written) == 2
        assert [store.read_speeds(directory) for directory in maxpool] == [[measurement(0.8)]] * 2
        assert store.read_speeds(avgpool) == []

    def test_are_found_afterwards(self, tmp_path: Path, make_run: Callable[..., store.Run]) -> None:
        run = make_run("block.spatial=maxpool")
        store.prepare(run)
        here = setting_of(run.variant.config.speed)["version"]
        network = replace(*networks(maxpool=0.8), measured=measurement(0.8, version=here))
        take_results([network], tmp_path / "runs")
        assert find_measured(run.variant, {"device": "Some CPU"}) == network.measured

    @pytest.mark.parametrize("again", [False, True])
    def test_replace_those_of_the_same_setting_if_asked(
        self, tmp_path: Path, prepare: Any, again: bool
    ) -> None:
        directory = prepare("block.spatial=maxpool")
        for results in (results_of(maxpool=0.8), results_of("Another CPU", maxpool=0.7)):
            take_results(results, tmp_path / "runs")
        new = results_of(maxpool=0.6)
        taken = take_results(new, tmp_path / "runs", replace=again)
        found = {m["device"]: m["relative_latency"] for m in store.read_speeds(directory)}
        assert found == {"Some CPU": 0.6 if again else 0.8, "Another CPU": 0.7}
        assert list(taken.written if again else taken.kept) == ["resnet_digits maxpool"]
        assert list(take_results(results_of("Another CPU", maxpool=0.7), tmp_path / "runs").same) == ["resnet_digits maxpool"]  # fmt: skip  # noqa: E501

    def test_without_runs_write_nothing(self, tmp_path: Path) -> None:
        taken = take_results(results_of(maxpool=0.8), tmp_path / "runs")
        assert (taken.written, taken.kept, taken.same) == ({}, {}, {})
        assert list(tmp_path.iterdir()) == []

    def test_are_pooled_with_what_is_there(self, tmp_path: Path, prepare: Any) -> None:
        directory = prepare(MAXPOOL)
        (network,) = networks(maxpool=0.8)
        for number, outcome in ((0, "written"), (10, "written"), (0, "same")):
            measured = of_processes(0.8, 0.8, first=number)
            taken = take_results([replace(network, measured=measured)], tmp_path / "runs")
            assert list(getattr(taken, outcome)) == ["resnet_digits maxpool"]
        (found,) = store.read_speeds(directory)
        assert found["num_processes"] == 4
