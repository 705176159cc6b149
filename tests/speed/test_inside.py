from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from configs import variant_of
from pfstudy.complexity import variant_cost
from pfstudy.schema.config import Speed
from pfstudy.speed import inside
from pfstudy.speed.inside import cost_of_segments, find_ceilings, time_segments

BASELINE, MAXPOOL = variant_of(), variant_of("block.spatial=maxpool")
MIXED = variant_of("block.stage2.spatial=maxpool")


def speed(**changes: Any) -> Speed:
    return replace(BASELINE.config.speed, **{"num_warmup": 0, **changes})


def ignore(kind: str, details: Mapping[str, Any]) -> None:
    pass


@pytest.mark.parametrize("whole", [[], [BASELINE, MIXED]], ids=["alone", "beside whole networks"])
def test_segments_of_every_network_and_round(whole: list[Any]) -> None:
    told: list[str] = []
    found = time_segments(
        [BASELINE, MAXPOOL], whole, speed(), False, [0], 1e-9, lambda kind, _: told.append(kind)
    )
    assert [[len(row) for row in rounds] for rounds in found.segments_ms] == [[5] * 3] * 2
    assert [len(row) for row in found.totals_ms] == [3] * len(whole)
    assert all(ms > 0 for rounds in found.segments_ms for row in rounds for ms in row)
    assert told == ["built"] * (2 + len(whole)) + ["round"] * 4  # the first one warms up


def test_whole_networks_have_no_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    marked: list[Any] = []
    monkeypatch.setattr(inside, "mark_segments", lambda _, variant: marked.append(variant))
    time_segments([BASELINE, MAXPOOL], [BASELINE, MIXED], speed(), False, [0], 1e-9, ignore)
    assert marked == [BASELINE, MAXPOOL]


def test_rounds_go_on_for_the_time_that_is_given() -> None:
    found = time_segments([BASELINE], [], speed(), False, [0], 0.3, ignore)
    assert len(found.segments_ms[0]) > 3


@pytest.mark.parametrize(
    "variant",
    [
        pytest.param(BASELINE, id="resnet"),
        pytest.param(MIXED, id="mixed"),
        pytest.param(variant_of("model=vit_digits"), id="transformer"),
        pytest.param(variant_of("model=resnet50", "data=synthetic"), id="resnet50"),
    ],
)
def test_the_segments_add_up_to_the_cost_of_the_network(variant: Any) -> None:
    (found,) = cost_of_segments([variant], ignore)
    assert len(found) == len(variant.config.sites) + 1
    whole = asdict(variant_cost(variant))
    for key in ("macs", "activations", "memory_traffic_bytes"):
        assert sum(segment[key] for segment in found) == whole[key]


def test_only_segments_with_a_substitution_cost_something_else() -> None:
    before, after = cost_of_segments([BASELINE, MIXED], ignore)
    differ = [one["macs"] != other["macs"] for one, other in zip(before, after, strict=True)]
    assert differ == [False, False, True, True, False]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_ceilings_are_rates(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    monkeypatch.setattr(inside, "_COPY_BYTES", 2**22)
    monkeypatch.setattr(inside, "_PRODUCT_SIDE", {"cpu": 128})
    found = find_ceilings(speed(dtype=dtype), False, ignore)
    assert 1e7 < found.bytes_per_s < 1e13
    assert 1e6 < found.macs_per_s < 1e15
