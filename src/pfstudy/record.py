"""What a record and a measurement of speed must hold, with types and ranges."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from math import isfinite, isnan
from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.variant import SCHEMA_VERSION

TEST_TOP1 = "test_top1_percent"
VALIDATION_TOP1 = "val_top1_percent"
IS_TRIAL = "is_trial"
"""Key of the records of tuning trials, which know nothing of the test images."""

_LONGEST = 40

Check = tuple[str, Callable[[Any], bool]]
"""What a value must be, in words and as a function."""


def is_size(value: Any) -> bool:
    """Whether a value counts something: a whole number of 0 or more, perhaps as a float."""
    return _is_finite(value) and value >= 0 and value == int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and isfinite(value)


def _is_list_of_trees(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


_TEXT: Check = ("a text", lambda value: isinstance(value, str))
_FLAG: Check = ("true or false", lambda value: isinstance(value, bool))
_TREE: Check = ("an object", lambda value: isinstance(value, dict))
_LIST: Check = ("a list of objects", _is_list_of_trees)
_WHOLE: Check = ("a whole number", _is_whole)
_SIZE: Check = ("a whole number of 0 or more", is_size)
_COUNT: Check = ("a whole number of 1 or more", lambda value: _is_whole(value) and value > 0)
_AMOUNT: Check = ("a number of 0 or more", lambda value: _is_finite(value) and value >= 0)
_POSITIVE: Check = ("a number above 0", lambda value: _is_finite(value) and value > 0)
_END: Check = ("a number of 0 or more", lambda value: _is_number(value) and value >= 0)
_PERCENT: Check = (
    "a percentage from 0 to 100",
    lambda value: _is_finite(value) and 0 <= value <= 100,
)

_NEEDED: Mapping[tuple[str, ...], Check] = {
    ("identity", "hash"): _TEXT,
    ("identity", "baseline"): _TEXT,
    ("identity", "canonical"): _TREE,
    ("variant", "model"): _TEXT,
    ("variant", "label"): _TEXT,
    ("variant", "is_baseline"): _FLAG,
    ("variant", "original"): _TEXT,
    ("seed",): _WHOLE,
    ("data",): _TEXT,
    ("recipe",): _TEXT,
    ("metrics",): _TREE,
    ("cost", "params"): _SIZE,
    ("cost", "macs"): _SIZE,
    ("cost", "num_projected_sites"): _SIZE,
}
_MAY_HAVE: Mapping[tuple[str, ...], Check] = {
    ("identity", "rules"): _WHOLE,
    ("identity", "replaces"): _TREE,
    ("variant", "operations"): _TREE,
    ("tuning",): _TREE,
    ("environment",): _TREE,
    ("environment", "versions"): _TREE,
    ("environment", "git"): _TREE,
    ("training",): _TREE,
    ("cost", "counting"): _WHOLE,
    ("cost", "activations"): _SIZE,
    ("cost", "memory_traffic_bytes"): _SIZE,
    ("training", "seconds"): _AMOUNT,
    ("training", "test_seconds"): _AMOUNT,
    ("training", "images_per_second"): _AMOUNT,
    ("training", "epochs"): _AMOUNT,
    ("training", "effective_batch_size"): _AMOUNT,
    ("training", "world_size"): _AMOUNT,
    ("training", "num_threads"): _AMOUNT,
}
_METRICS: Mapping[str, Check] = {"_percent": _PERCENT, "_loss": _AMOUNT}
_SPEED: Mapping[str, Check] = {
    "latency_ms": _POSITIVE,
    "latency_p10_ms": _POSITIVE,
    "latency_p90_ms": _POSITIVE,
    "baseline_latency_ms": _POSITIVE,
    "throughput_images_per_s": _POSITIVE,
    "relative_latency_low": _END,  # of one process the interval has no ends
    "relative_latency_high": _END,
    "num_processes": _COUNT,
    "batch_size": _COUNT,
    "num_threads": _COUNT,
    "peak_memory_bytes": _AMOUNT,
    "energy_j": _AMOUNT,
    "others_load": _AMOUNT,
    "device": _TEXT,
    "host": _TEXT,
    "layout": _TEXT,
    "dtype": _TEXT,
    "backend": _TEXT,
    "environment": _TREE,
    "processes": _LIST,
    "beside": _TREE,
}
_PROCESS: Mapping[str, Check] = {
    "id": _TEXT,
    "latency_ms": _POSITIVE,
    "latency_p10_ms": _POSITIVE,
    "latency_p90_ms": _POSITIVE,
    "baseline_latency_ms": _POSITIVE,
    "relative_latency": _POSITIVE,
    "num_rounds": _COUNT,
}
"""Figures of each process of a measurement, all of which pooling needs."""


def check_record(record: Mapping[str, Any], name: str) -> None:
    """Check that a record has what tables are made of, and that its figures are possible.

    Args:
        record: Perhaps of another version, or damaged.
        name: Where it is from.

    Raises:
        PfstudyError: It is; says what is wrong.
    """
    version = record.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PfstudyError(
            f"{name} has schema version {version!r}, but this pfstudy reads {SCHEMA_VERSION}."
        )
    top1 = VALIDATION_TOP1 if record.get(IS_TRIAL) is True else TEST_TOP1
    for place, check in {**_NEEDED, ("metrics", top1): _PERCENT}.items():
        value = _find(record, place)
        if _is_missing(value):
            raise PfstudyError(f"{name} is damaged: it has no {'.'.join(place)}.")
        _check(value, ".".join(place), check, name)
    for path, check in _list_optional(record):
        value = _find(record, path)
        if value is not None:
            _check(value, ".".join(path), check, name)


def check_speed(measured: Mapping[str, Any], name: str) -> None:
    """Check that the figures of a measurement of speed are possible.

    Args:
        measured: Perhaps damaged.
        name: Where it is from.

    Raises:
        PfstudyError: It is; says what is wrong.
    """
    if _is_missing(measured.get("relative_latency")):
        raise PfstudyError(f"{name} is damaged: it has no relative_latency.")
    _check(measured["relative_latency"], "relative_latency", _POSITIVE, name)
    for key, check in _SPEED.items():
        if measured.get(key) is not None:
            _check(measured[key], key, check, name)
    for number, process in enumerate(measured.get("processes") or ()):
        for key, check in _PROCESS.items():
            _check(process.get(key), f"processes[{number}].{key}", check, name)
    low, high = (measured.get(f"relative_latency_{end}") for end in ("low", "high"))
    for least, most in ((low, measured["relative_latency"]), (measured["relative_latency"], high)):
        if least is not None and most is not None and not least <= most:
            raise PfstudyError(
                f"{name} is damaged: its interval does not hold its relative_latency."
            )


def without_test(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a tuning trial without figures of the test images, which older ones have."""
    metrics = record.get("metrics")
    if isinstance(metrics, dict):
        metrics = {key: value for key, value in metrics.items() if not key.startswith("test_")}
    return {**record, "metrics": metrics, IS_TRIAL: True}


def _list_optional(record: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Check]]:
    yield from _MAY_HAVE.items()
    for key in record["metrics"]:
        for ending, check in _METRICS.items():
            if key.endswith(ending):
                yield ("metrics", key), check


def _find(record: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    found: Any = record
    for key in place:
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and isnan(value))


def _check(value: Any, key: str, check: Check, name: str) -> None:
    wanted, holds = check
    if not holds(value):
        text = json.dumps(value)
        found = text if len(text) <= _LONGEST else "something else"
        raise PfstudyError(f"{name} is damaged: {key} is {found}, but must be {wanted}.")
