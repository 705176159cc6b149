"""Measurements that are pooled, against ratios of all processes taken together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from measurements import measurement, of_processes
from pfstudy.speed.pooling import PROCESSES, figures_of_processes, pool
from pfstudy.speed.summary import paired_ratio

SWEEP = (0.80, 0.81, 0.79, 0.80, 0.82, 0.78, 0.80, 0.81, 0.79, 0.80)
QUICK = (0.7, 0.95, 0.8, 0.6)


def ids(measured: Any) -> list[str]:
    return [each["id"] for each in measured[PROCESSES]]


def test_processes_of_both_are_taken_together() -> None:
    pooled = pool(of_processes(*SWEEP), of_processes(*QUICK, first=10))
    rounds = [[2 * ratio] * 40 for ratio in (*SWEEP, *QUICK)]
    expected = paired_ratio(rounds, [[2.0] * 40] * 14)
    assert pooled["num_processes"] == len(ids(pooled)) == 14
    found = [pooled[f"relative_latency{end}"] for end in ("", "_low", "_high")]
    assert found == pytest.approx([expected.value, expected.low, expected.high], rel=1e-12)
    assert pooled["latency_ms"] == np.median([2 * ratio for ratio in (*SWEEP, *QUICK)])
    assert pooled["throughput_images_per_s"] == pytest.approx(1e3 / pooled["latency_ms"])


def test_a_process_counts_once() -> None:
    first, second = of_processes(*SWEEP), of_processes(*QUICK, first=10)
    pooled = pool(first, second)
    assert pool(pooled, first) is pooled
    assert pool(pooled, second) is pooled
    assert pool(pooled, pooled) is pooled
    overlapping = of_processes(*SWEEP[8:], *QUICK, first=8)
    assert sorted(ids(pool(first, overlapping))) == sorted(ids(pooled))


def test_order_does_not_matter_to_figures() -> None:
    first, second = of_processes(*SWEEP), of_processes(*QUICK, first=10)
    one, other = pool(first, second), pool(second, first)
    keys = figures_of_processes(one[PROCESSES], 1)
    assert {key: one[key] for key in keys} == pytest.approx({key: other[key] for key in keys})


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"driver": "580.65.06"}, id="driver"),
        pytest.param({"version": "torch2.10.0"}, id="torch"),
        pytest.param({"measuring": 2}, id="way of measuring"),
    ],
)
def test_another_setting_is_not_pooled(change: dict[str, Any]) -> None:
    new = of_processes(*QUICK, first=10, **change)
    assert pool(of_processes(*SWEEP), new) is new


@pytest.mark.parametrize("fell_back", ["known", "new"])
def test_a_network_that_fell_back_is_another_one(fell_back: str) -> None:
    known = of_processes(*SWEEP, fell_back=fell_back == "known")
    new = of_processes(*QUICK, first=10, fell_back=fell_back == "new")
    assert pool(known, new) is (new if fell_back == "known" else known)


class TestFromBeforeProcessesWereKept:
    """Of five processes, with an interval of 2 %."""

    OLD = measurement(0.8)

    def test_stays_as_it_is_beside_a_worse_one(self) -> None:
        new = of_processes(*QUICK)
        pooled = pool(self.OLD, new)
        assert {**pooled, PROCESSES: None} == {**self.OLD, PROCESSES: None}
        assert ids(pooled) == ids(new)

    def test_gives_way_to_more_processes(self) -> None:
        pooled = pool(self.OLD, of_processes(*SWEEP))
        assert pooled == of_processes(*SWEEP)

    def test_processes_that_were_measured_since_add_up(self) -> None:
        pooled = self.OLD
        for number, ratios in enumerate((QUICK[:2], QUICK[2:], SWEEP)):
            pooled = pool(pooled, of_processes(*ratios, first=10 * number))
        assert pooled["num_processes"] == len(ids(pooled)) == 14

    @pytest.mark.parametrize(
        ("low", "expected"), [(0.795, 0.8), (0.7, 0.9)], ids=["narrower", "wider"]
    )
    def test_the_better_of_two_stays(self, low: float, expected: float) -> None:
        known = measurement(0.9, relative_latency_low=0.88, relative_latency_high=0.92)
        new = measurement(0.8, relative_latency_low=low, relative_latency_high=0.81)
        assert pool(known, new)["relative_latency"] == expected


class TestOnceMeasuredFigures:
    def test_memory_and_energy_stay_where_they_are_not_measured_again(self) -> None:
        known = of_processes(*SWEEP, peak_memory_bytes=1000, energy_j=2.0)
        new = of_processes(*QUICK, first=10, peak_memory_bytes=None, energy_j=3.0)
        pooled = pool(known, new)
        assert (pooled["peak_memory_bytes"], pooled["energy_j"]) == (1000, 3.0)

    @pytest.mark.parametrize(
        ("architecture", "number", "expected"),
        [("a", 10, 10), ("a", 2, 5), ("b", 10, 5)],
        ids=["better", "worse", "another reference"],
    )
    def test_the_better_link_to_a_backbone_stays(
        self, architecture: str, number: int, expected: int
    ) -> None:
        link = {"relative_latency": 2.0, "relative_latency_low": 1.9, "relative_latency_high": 2.1}
        known = {**link, "architecture": "a", "num_processes": 5}
        new = {**link, "architecture": architecture, "num_processes": number}
        first = of_processes(*SWEEP, beside=known)
        assert pool(first, of_processes(*QUICK, first=10))["beside"] == known
        pooled = pool(first, of_processes(*QUICK, first=10, beside=new))
        assert pooled["beside"]["num_processes"] == expected
