"""What times of several networks and backbones are worth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from configs import variant_of
from measurements import measurement
from pfstudy.speed.results import network_of
from pfstudy.stats.front import draw_costs, front_probability
from pfstudy.tables.rows import make_rows
from pfstudy.tables.timing import (
    are_timed_apart,
    drift,
    find_fastest,
    frame_of_networks,
    latency_errors,
    timing_columns,
    timing_sentences,
)
from pfstudy.variant import make_variant
from records import make_record

DRIFT = 0.05
STUDENT = stats.t.ppf(0.975, 4)
"""For measurements of five processes."""


def identity(model: str) -> str:
    """Identity of the backbone that records of a model have."""
    columns = timing_columns(make_record(model=model)["identity"]["canonical"], {})
    return str(columns["backbone"])


def beside(reference: str, ratio: float, half: float = 0.01, **changes: Any) -> dict[str, Any]:
    """What a measurement says of its baseline relative to another backbone's."""
    return {
        "architecture": identity(reference),
        "relative_latency": ratio,
        "relative_latency_low": ratio * math.exp(-half),
        "relative_latency_high": ratio * math.exp(half),
        "num_processes": 5,
        **changes,
    }


def timed(
    model: str, label: str, baseline_ms: float, ratio: float = 1.0, half: float = 0.0, **more: Any
) -> Any:
    """A record of a network that takes ``ratio`` as long as its baseline."""
    ends = {
        "relative_latency_low": ratio * math.exp(-half),
        "relative_latency_high": ratio * math.exp(half),
    }
    changes = {"num_processes": 5, **ends, **more}
    speed = (ratio * baseline_ms, ratio)
    return make_record(label, 97.0, family=model, model=model, speed=speed, **changes)


def frame_of(*records: Any) -> pd.DataFrame:
    return make_rows(records).frame


def latencies(frame: pd.DataFrame) -> dict[str, float]:
    names = frame["model"] + " " + frame["label"]
    return dict(zip(names, frame["comparable_latency_ms"], strict=True))


def test_the_backbone_of_a_record_is_that_of_its_baseline() -> None:
    for variant in (variant_of("block.spatial=maxpool"), variant_of("model=vit_digits")):
        columns = timing_columns(variant.canonical, {})
        assert columns["backbone"] == variant.baseline().architecture_hash


def test_recipes_share_a_backbone() -> None:
    """The second recipe was timed later, when the machine was slower."""
    other = timed("a", "original", 3.0)
    other["identity"] |= {"hash": "other", "baseline": "other"}
    frame = frame_of(timed("a", "original", 2.0), other)
    assert frame["comparable_latency_ms"].tolist() == [2.0, 2.0]
    assert frame["latency_ms"].tolist() == [2.0, 3.0]
    assert not are_timed_apart(frame)


class TestReference:
    def test_latencies_are_referred_to_one_backbone(self) -> None:
        """b took 95 % of the time of a, but was timed alone when the machine was slow."""
        link = {"beside": beside("a", 0.95)}
        frame = frame_of(
            timed("a", "original", 10.0),
            timed("a", "maxpool", 10.0, 0.9),
            timed("b", "original", 20.0, **link),
            timed("b", "maxpool", 20.0, 0.8, **link),
        )
        expected = {"a original": 10, "a maxpool": 9, "b original": 9.5, "b maxpool": 7.6}
        assert latencies(frame) == pytest.approx(expected)
        assert frame["throughput_images_per_s"].isna().all()
        assert not are_timed_apart(frame)

    def test_a_baseline_need_not_be_in_the_table(self) -> None:
        frame = frame_of(
            timed("a", "maxpool", 10.0, 0.9),
            timed("b", "maxpool", 20.0, 0.8, beside=beside("a", 0.95)),
        )
        assert latencies(frame) == pytest.approx({"a maxpool": 9, "b maxpool": 7.6})

    def test_the_reference_need_not_be_in_the_table(self) -> None:
        frame = frame_of(
            timed("b", "original", 20.0, beside=beside("a", 2.0)),
            timed("c", "original", 99.0, beside=beside("a", 3.0)),
        )
        assert latencies(frame) == pytest.approx({"b original": 20, "c original": 30})
        assert not are_timed_apart(frame)

    def test_backbones_are_linked_by_others(self) -> None:
        frame = frame_of(
            timed("a", "original", 10.0),
            timed("b", "original", 99.0, beside=beside("a", 2.0)),
            timed("c", "original", 99.0, beside=beside("b", 3.0)),
        )
        expected = {"a original": 49.5, "b original": 99, "c original": 297}
        assert latencies(frame) == pytest.approx(expected)
        _, common = latency_errors(frame)
        assert common == pytest.approx([0.01 / STUDENT, 0, 0.01 / STUDENT])

    def test_without_links_each_backbone_has_its_own(self) -> None:
        frame = frame_of(timed("a", "original", 10.0), timed("b", "original", 20.0))
        assert latencies(frame) == {"a original": 10, "b original": 20}
        assert are_timed_apart(frame)


class TestErrors:
    def test_of_the_ratio_by_its_interval_and_number_of_processes(self) -> None:
        own, common = latency_errors(
            frame_of(timed("a", "original", 10.0), timed("a", "maxpool", 10.0, 0.9, 0.02))
        )
        assert own == pytest.approx([0, 0.02 / STUDENT])
        assert common.tolist() == [0, 0]

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            pytest.param({"num_processes": 2}, 0.02 / stats.t.ppf(0.975, 1), id="two processes"),
            pytest.param({"num_processes": None}, 0.02 / stats.norm.ppf(0.975), id="not known"),
            pytest.param(
                {
                    "num_processes": 1,
                    "relative_latency_low": 0.0,
                    "relative_latency_high": math.inf,
                },
                DRIFT,
                id="one process",
            ),
            pytest.param({"relative_latency_low": None}, DRIFT, id="no interval"),
        ],
    )
    def test_of_other_numbers_of_processes(self, change: Any, expected: float) -> None:
        own, _ = latency_errors(frame_of(timed("a", "maxpool", 10.0, 0.9, 0.02, **change)))
        assert own == pytest.approx([expected])

    def test_of_a_network_that_was_not_measured(self) -> None:
        own, common = latency_errors(frame_of(timed("a", "original", 10.0), make_record("maxpool")))
        assert (own[0], common[0]) == (0, 0)
        assert np.isnan([own[1], common[1]]).all()

    def test_of_backbones_by_the_interval_of_their_ratio(self) -> None:
        link = {"beside": beside("a", 0.95, 0.03)}
        frame = frame_of(
            timed("a", "original", 10.0),
            timed("b", "original", 20.0, **link),
            timed("b", "maxpool", 20.0, 0.8, 0.02, **link),
        )
        own, common = latency_errors(frame)
        assert common == pytest.approx([0, 0.03 / STUDENT, 0.03 / STUDENT])
        assert own == pytest.approx([0, 0, 0.02 / STUDENT])

    def test_of_backbones_that_were_timed_apart(self) -> None:
        _, common = latency_errors(
            frame_of(timed("a", "original", 10.0), timed("b", "original", 20.0))
        )
        assert common.tolist() == [DRIFT, DRIFT]

    def test_a_backbone_that_was_timed_apart_from_linked_ones(self) -> None:
        frame = frame_of(
            timed("a", "original", 10.0),
            timed("b", "original", 20.0, beside=beside("a", 2.0, 0.03)),
            timed("c", "original", 30.0),
        )
        _, common = latency_errors(frame)
        assert common == pytest.approx([DRIFT, math.hypot(DRIFT, 0.03 / STUDENT), DRIFT])

    def test_drift_is_that_of_baselines_that_were_measured_several_times(self) -> None:
        times = {"a": (10.0, 12.0, 10.0), "b": (20.0, 22.0)}
        records = [
            timed(model, label, time)
            for model, each in times.items()
            for label, time in zip(("original", "x", "y"), each, strict=False)
        ]
        frame = frame_of(*records)
        expected = math.sqrt((math.log(1.2) ** 2 / 2 + math.log(1.1) ** 2 / 2) / 2)
        assert drift(frame) == pytest.approx(expected)
        _, common = latency_errors(frame)
        assert common == pytest.approx([expected] * 5)

    def test_backbones_on_different_data_are_not_compared(self) -> None:
        other = timed("b", "original", 20.0)
        other["identity"]["canonical"]["data"] = {"fingerprint": "other", "num_test": 500}
        frame = frame_of(timed("a", "original", 10.0), other)
        assert not are_timed_apart(frame)
        assert latency_errors(frame)[1].tolist() == [0, 0]


class TestDriftIsNoFinding:
    """Two backbones of equal accuracy take 95 and 100 ms, but are measured as +6 % and -3 %."""

    @staticmethod
    def front(*records: Any) -> dict[str, float]:
        """Share of draws with each backbone on the front, as far as times alone decide."""
        frame = frame_of(*records)
        own, common = latency_errors(frame)
        costs = draw_costs(
            frame["comparable_latency_ms"].to_numpy(float), own, common, np.arange(2)
        )
        probability = front_probability(costs, np.zeros_like(costs))
        return dict(zip(frame["model"], probability, strict=True))

    def test_timed_apart_it_is_uncertain(self) -> None:
        slow, fast = timed("fast", "original", 95 * 1.06), timed("slow", "original", 100 * 0.97)
        for probability in self.front(slow, fast).values():
            assert 0.05 < probability < 0.95

    def test_timed_side_by_side_it_is_right(self) -> None:
        found = self.front(
            timed("fast", "original", 95 * 1.06),
            timed("slow", "original", 100 * 0.97, beside=beside("fast", 100 / 95, 0.02)),
        )
        assert found["fast"] > 0.95
        assert found["slow"] < 0.05


APART = (
    "Latencies are as measured, some in different processes; networks are compared by their times "
    "relative to the backbone."
)


class TestSentences:
    def test_of_one_backbone(self) -> None:
        frame = frame_of(timed("a", "original", 10.0), timed("a", "maxpool", 10.0, 0.9))
        assert timing_sentences(frame) == []
        assert timing_sentences(frame, shows_intervals=True) == [
            "Intervals of relative time are for each network alone."
        ]

    def test_of_a_network_that_was_measured_later(self) -> None:
        frame = frame_of(timed("a", "original", 10.0), timed("a", "maxpool", 12.0, 0.9))
        assert timing_sentences(frame) == [APART]

    def test_of_backbones_timed_apart(self) -> None:
        frame = frame_of(timed("a", "original", 10.0), timed("b", "original", 20.0))
        assert timing_sentences(frame) == [
            APART,
            "Backbones were timed apart, so the time of each is uncertain by 5 % (standard error) "
            "relative to the others.",
        ]

    @pytest.mark.parametrize(
        ("load", "expected"),
        [
            pytest.param(0.0, [], id="idle"),
            pytest.param(
                0.5,
                ["Others used the machine while backbones were timed side by side."],
                id="busy",
            ),
        ],
    )
    def test_of_backbones_timed_side_by_side(self, load: float, expected: list[str]) -> None:
        link = beside("a", 2.0, others_load=load, max_load=0.1)
        frame = frame_of(timed("a", "original", 10.0), timed("b", "original", 20.0, beside=link))
        assert timing_sentences(frame) == [APART, *expected]

    def test_without_any_measurement(self) -> None:
        frame = frame_of(make_record(), make_record("maxpool"))
        assert timing_sentences(frame) == []

    @pytest.mark.parametrize(
        ("batch_size", "expected"),
        [
            pytest.param(1, True, id="one setting"),
            pytest.param(8, False, id="no setting in common"),
        ],
    )
    def test_networks_are_compared_within_a_setting(self, batch_size: int, expected: bool) -> None:
        networks = [
            network_of(variant_of(), measurement()),
            network_of(variant_of("model=vit_digits"), measurement(batch_size=batch_size)),
        ]
        assert are_timed_apart(frame_of_networks(networks)) is expected


class TestFastest:
    @staticmethod
    def fastest(*records: Any) -> list[str]:
        frame = frame_of(*records)
        found: list[str] = frame.loc[find_fastest(frame), "label"].tolist()
        return found

    def test_a_network_that_is_surely_faster(self) -> None:
        networks = [timed("a", "original", 10.0), timed("a", "maxpool", 10.0, 0.9, 0.02)]
        assert self.fastest(*networks) == ["maxpool"]
        assert self.fastest(*networks, timed("a", "avgpool", 10.0, 0.91, 0.02)) == []

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            pytest.param(1, ["maxpool"], id="two networks"),
            pytest.param(10, [], id="eleven networks"),
        ],
    )
    def test_intervals_hold_for_all_networks_at_once(
        self, number: int, expected: list[str]
    ) -> None:
        """Its own interval ends at 0.99, far below the others; for eleven at 1.02."""
        others = [timed("a", f"op{index}", 10.0, 1.1, 0.001) for index in range(number - 1)]
        best = timed("a", "maxpool", 10.0, 0.96, 0.031)
        assert self.fastest(timed("a", "original", 10.0), *others, best) == expected

    def test_the_widening_is_that_of_student(self) -> None:
        half = 0.031 * stats.t.ppf(1 - 0.025 / 2, 4) / STUDENT
        for ratio, expected in ((math.exp(-half) * 0.999, ["x"]), (math.exp(-half) * 1.001, [])):
            best = timed("a", "x", 10.0, ratio, 0.031)
            assert self.fastest(timed("a", "original", 10.0), best) == expected

    @pytest.mark.parametrize(
        "spoiling",
        [
            pytest.param(timed("b", "original", 10.0), id="another backbone"),
            pytest.param(make_record("avgpool", family="a", model="a"), id="not measured"),
            pytest.param(
                timed("a", "avgpool", 10.0, 1.1, others_load=1.0, max_load=0.1), id="marked"
            ),
            pytest.param(
                timed("a", "avgpool", 10.0, 1.1, relative_latency_low=None), id="no interval"
            ),
        ],
    )
    def test_where_it_cannot_be_said_there_is_none(self, spoiling: Any) -> None:
        sure = [timed("a", "original", 10.0), timed("a", "maxpool", 10.0, 0.5, 0.01)]
        assert self.fastest(*sure) == ["maxpool"]
        assert self.fastest(*sure, spoiling) == []

    def test_a_network_alone_is_not_the_fastest(self) -> None:
        assert self.fastest(timed("a", "original", 10.0)) == []


def test_image_size_is_part_of_the_backbone() -> None:
    small, large = (variant_of("data=synthetic", f"data.image_size={size}") for size in (32, 64))
    found = {timing_columns(v.canonical, {})["backbone"] for v in (small, large)}
    assert len(found) == 2
    assert make_variant(small.config, "other").baseline().architecture_hash in found
