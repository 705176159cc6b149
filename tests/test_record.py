"""Records and measurements are checked for types and ranges."""

from __future__ import annotations

from typing import Any

import pytest

from measurements import measurement
from pfstudy.errors import PfstudyError
from pfstudy.record import check_record, check_speed, without_test
from records import Record, make_record


def changed(place: str, value: Any) -> Record:
    record = make_record()
    record["metrics"] |= {"test_loss": 0.1, "val_top1_percent": 90.0, "val_loss": 0.2}
    *parents, last = place.split(".")
    tree = record
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value
    return record


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics.test_top1_percent", 150),
        ("metrics.test_top1_percent", -3),
        ("metrics.test_top1_percent", True),
        ("metrics.test_top1_percent", float("inf")),
        ("metrics.test_top5_percent", "97"),
        ("metrics.val_top1_percent", 100.1),
        ("metrics.test_loss", -0.1),
        ("metrics.test_loss", float("inf")),
        ("metrics.val_loss", float("nan")),
        ("metrics", [97.0]),
        ("cost.params", -5),
        ("cost.params", 12.7),
        ("cost.counting", "2"),
        ("training", "long"),
        ("environment", 5),
        ("environment.versions", ["torch"]),
        ("environment.git", "abc"),
        ("variant.operations", 5),
        ("identity.replaces", 5),
        ("identity.rules", "2"),
        ("tuning", 5),
        ("cost.macs", True),
        ("cost.memory_traffic_bytes", -1),
        ("training.seconds", -1.0),
        ("seed", True),
        ("seed", 0.5),
        ("variant.is_baseline", 1),
        ("identity.canonical", "form"),
    ],
)
def test_an_impossible_value_is_named(place: str, value: Any) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_record(changed(place, value), "record.json")
    assert str(caught.value).startswith(f"record.json is damaged: {place} is ")
    assert ", but must be " in str(caught.value)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("metrics.test_top1_percent", 0),
        ("metrics.test_top1_percent", 100.0),
        ("metrics.test_loss", None),
        ("metrics.test_loss", 0),
        ("cost.params", 0),
        ("cost.macs", 0),
        ("training.seconds", None),
    ],
)
def test_what_is_possible_is_taken(place: str, value: Any) -> None:
    check_record(changed(place, value), "record.json")


def test_a_trial_needs_validation_accuracy_alone() -> None:
    trial = without_test(changed("seed", 0))
    assert trial["metrics"] == {"val_top1_percent": 90.0, "val_loss": 0.2}
    check_record(trial, "record.json")
    del trial["metrics"]["val_top1_percent"]
    with pytest.raises(PfstudyError, match=r"it has no metrics\.val_top1_percent"):
        check_record(trial, "record.json")


@pytest.mark.parametrize(
    "change",
    [
        {"latency_ms": -5},
        {"latency_ms": 0},
        {"relative_latency": True},
        {"relative_latency": 0.0},
        {"baseline_latency_ms": "2"},
        {"num_processes": 0},
        {"energy_j": -1.0},
        {"relative_latency_low": 1.2},
        {"relative_latency_high": 0.8},
        {"device": 5},
        {"beside": 7},
        {"processes": 5},
        {"processes": [{"id": "a", "latency_ms": -5}]},
    ],
    ids=str,
)
def test_an_impossible_measurement_is_named(change: dict[str, Any]) -> None:
    with pytest.raises(PfstudyError, match=r"x\.json is damaged: "):
        check_speed(measurement(**change), "x.json")


def test_the_interval_of_one_process_has_no_ends() -> None:
    check_speed(measurement(relative_latency_low=0.0, relative_latency_high=float("inf")), "x.json")
    check_speed({"relative_latency": 1}, "x.json")
