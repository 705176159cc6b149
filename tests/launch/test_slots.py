from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import pytest

from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.launch.slots import (
    available_cores,
    choose_number,
    devices_per_run,
    make_slots,
    most_to_try,
)
from pfstudy.schema.config import Config
from pfstudy.tasks import Device

CPU = (Device("cpu", "cpu", "Some CPU"),)
GPUS = tuple(Device("gpu", f"GPU-{letter}", "Some GPU") for letter in "abcd")


def config_with(**changes: Any) -> Config:
    """A config with other values of ``trainer`` and ``launcher``."""
    config = compose()
    trainer = {key: value for key, value in changes.items() if hasattr(config.trainer, key)}
    launcher = {key: value for key, value in changes.items() if key not in trainer}
    return replace(
        config,
        trainer=replace(config.trainer, **trainer),
        launcher=replace(config.launcher, **launcher),
    )


class TestCpu:
    @pytest.mark.parametrize(
        ("changes", "num_cores", "expected"),
        [
            pytest.param({}, 2, [("cpu 0", (0,)), ("cpu 1", (1,))], id="a-core-each"),
            pytest.param({}, 1, [("cpu 0", (0,))], id="one-core"),
            pytest.param({"num_threads": 2}, 4, [("cpu 0-1", (0, 1)), ("cpu 2-3", (2, 3))]),
            pytest.param(
                {"num_threads": 3}, 8, [("cpu 0-3", (0, 1, 2, 3)), ("cpu 4-7", (4, 5, 6, 7))]
            ),
            pytest.param({"num_workers": 1}, 4, [("cpu 0-3", (0, 1, 2, 3))], id="one-has-all"),
            pytest.param({"num_workers": 2}, 5, [("cpu 0-1", (0, 1)), ("cpu 2-3", (2, 3))]),
            pytest.param({"num_workers": 3}, 2, [("cpu", ())] * 3, id="more-runs-than-cores"),
            pytest.param({"num_threads": 4}, 2, [("cpu", ())], id="more-threads-than-cores"),
            pytest.param({"num_threads": 2, "num_workers": 2}, 3, [("cpu", ())] * 2),
        ],
    )
    def test_cores_are_divided_or_nobodys(
        self, changes: Mapping[str, Any], num_cores: int, expected: list[Any]
    ) -> None:
        slots = make_slots(config_with(**changes), CPU, range(num_cores))
        assert [(slot.name, slot.cores) for slot in slots] == expected
        assert all(slot.devices == CPU for slot in slots)

    def test_cores_are_those_that_it_may_use(self) -> None:
        slots = make_slots(config_with(num_threads=2), CPU, (1, 3, 8, 9))
        assert [(slot.name, slot.cores) for slot in slots] == [
            ("cpu 1,3", (1, 3)),
            ("cpu 8-9", (8, 9)),
        ]

    @pytest.mark.parametrize("num_workers", [1, 2, 3, 5, 8, 13])
    def test_no_core_is_given_twice(self, num_workers: int) -> None:
        slots = make_slots(config_with(num_workers=num_workers), CPU, range(13))
        given = list(chain.from_iterable(slot.cores for slot in slots))
        assert len(slots) == num_workers
        assert len(set(given)) == len(given) == num_workers * (13 // num_workers)

    @pytest.mark.parametrize(
        ("most", "expected"),
        [
            pytest.param(1, [(0, 1, 2, 3, 4)], id="one-has-all"),
            pytest.param(2, [(0, 1), (2, 3)], id="two"),
            pytest.param(9, [(0,), (1,), (2,), (3,), (4,)], id="more-than-slots"),
        ],
    )
    def test_cores_go_to_the_runs_that_there_are(
        self, most: int, expected: list[tuple[int, ...]]
    ) -> None:
        slots = make_slots(config_with(), CPU, range(5), most)
        assert [slot.cores for slot in slots] == expected

    def test_several_ranks_share_the_cores_of_their_run(self) -> None:
        config = config_with(devices=2, num_threads=2)
        slots = make_slots(config, CPU, range(8))
        assert [slot.devices for slot in slots] == [CPU * 2, CPU * 2]
        assert [slot.cores for slot in slots] == [(0, 1, 2, 3), (4, 5, 6, 7)]

    def test_more_ranks_than_cores_are_one_run_at_a_time(self) -> None:
        (slot,) = make_slots(config_with(devices=3), CPU, range(2))
        assert (slot.devices, slot.cores) == (CPU * 3, ())

    def test_auto_devices_are_the_one_cpu(self) -> None:
        slots = make_slots(config_with(devices="auto"), CPU, range(2))
        assert [slot.devices for slot in slots] == [CPU, CPU]


class TestGpu:
    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            pytest.param({}, ["gpu 0", "gpu 1", "gpu 2", "gpu 3"], id="one-each"),
            pytest.param({"devices": 2}, ["gpu 0,1", "gpu 2,3"], id="two-each"),
            pytest.param({"devices": 3}, ["gpu 0,1,2"], id="one-is-left-over"),
            pytest.param({"devices": 4}, ["gpu 0,1,2,3"], id="all"),
            pytest.param({"devices": "auto"}, ["gpu 0,1,2,3"], id="auto"),
            pytest.param({"slots_per_gpu": 2}, [f"gpu {i}" for i in (0, 1, 2, 3)] * 2),
            pytest.param({"devices": 2, "slots_per_gpu": 2}, ["gpu 0,1", "gpu 2,3"] * 2),
            pytest.param({"num_workers": 1}, [f"gpu {i}" for i in range(4)], id="no-num_workers"),
        ],
    )
    def test_groups(self, changes: Mapping[str, Any], expected: list[str]) -> None:
        slots = make_slots(config_with(**changes), GPUS, range(16))
        assert [slot.name for slot in slots] == expected
        for slot in slots:
            numbers = [int(number) for number in slot.name.removeprefix("gpu ").split(",")]
            assert slot.devices == tuple(GPUS[number] for number in numbers)

    def test_runs_that_share_a_gpu_have_cores_of_their_own(self) -> None:
        slots = make_slots(config_with(slots_per_gpu=2), GPUS[:2], range(8))
        assert [slot.cores for slot in slots] == [(0, 1), (2, 3), (4, 5), (6, 7)]

    def test_few_runs_have_a_gpu_each_and_all_cores(self) -> None:
        slots = make_slots(config_with(slots_per_gpu=2), GPUS, range(8), 2)
        assert [slot.name for slot in slots] == ["gpu 0", "gpu 1"]
        assert [slot.cores for slot in slots] == [(0, 1, 2, 3), (4, 5, 6, 7)]

    def test_too_few_cores_are_nobodys(self) -> None:
        slots = make_slots(config_with(num_threads=3), GPUS, range(8))
        assert [slot.cores for slot in slots] == [()] * 4

    def test_the_first_runs_go_to_different_gpus(self) -> None:
        slots = make_slots(config_with(slots_per_gpu=3), GPUS, range(12))
        assert len({slot.devices for slot in slots[:4]}) == 4


class TestErrors:
    def test_more_gpus_than_there_are(self) -> None:
        with pytest.raises(PfstudyError, match=r"trainer\.devices is 5, but there are 4 GPUs"):
            make_slots(config_with(devices=5), GPUS, range(16))

    @pytest.mark.parametrize("devices", [CPU, GPUS], ids=["cpu", "gpu"])
    def test_several_machines(self, devices: tuple[Device, ...]) -> None:
        with pytest.raises(PfstudyError, match=r"trainer\.num_nodes is 2.*hydra/launcher=slurm"):
            devices_per_run(config_with(num_nodes=2), devices)


class TestChooseNumber:
    @pytest.mark.parametrize(
        ("rates", "most", "number", "tried"),
        [
            pytest.param({1: 100, 2: 200, 4: 400, 8: 800}, 8, 8, [1, 2, 4, 8], id="scales"),
            pytest.param({1: 100, 2: 103, 4: 105}, 4, 2, [1, 2, 4], id="just-3-percent"),
            pytest.param({1: 100, 2: 102.9, 4: 999}, 4, 1, [1, 2], id="not-quite-3-percent"),
            pytest.param({1: 100, 2: 60}, 4, 1, [1, 2], id="slower"),
            pytest.param({1: 100, 2: 0}, 4, 1, [1, 2], id="cannot"),
            pytest.param({1: 100, 2: 180}, 3, 2, [1, 2], id="most-is-not-passed"),
            pytest.param({1: 100}, 1, 1, [1], id="one-core"),
        ],
    )
    def test_takes_the_next_number_only_if_it_pays(
        self, rates: Mapping[int, float], most: int, number: int, tried: list[int]
    ) -> None:
        asked: list[int] = []

        def measure(count: int) -> float:
            asked.append(count)
            return rates[count]

        assert choose_number(measure, most) == number
        assert asked == tried


@pytest.mark.parametrize(
    ("devices", "num_cores", "threads", "expected"),
    [
        pytest.param(CPU, 8, 1, 8, id="a-run-per-core"),
        pytest.param(CPU, 8, 3, 2, id="threads"),
        pytest.param(CPU, 2, 4, 1, id="too-few-cores"),
        pytest.param(GPUS, 2, 1, 8, id="gpu"),
    ],
)
def test_most_to_try(
    devices: tuple[Device, ...], num_cores: int, threads: int, expected: int
) -> None:
    assert most_to_try(devices, range(num_cores), threads) == expected


def test_available_cores_are_in_order() -> None:
    cores = available_cores()
    assert cores
    assert list(cores) == sorted(set(cores))
