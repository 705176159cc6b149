"""Records in, rows out: one row a variant, its seeds taken together and compared."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pfstudy.counting import RECOUNTED
from pfstudy.inventory import shorten
from pfstudy.schema.operations import ORIGINAL
from pfstudy.sources import Incomplete
from pfstudy.store import is_counted_so
from pfstudy.tables.audit import Audit, audit_records
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.facts import loses_norm
from pfstudy.tables.fronts import find_front
from pfstudy.tables.marks import OUTDATED, explain_marks, speed_mark
from pfstudy.tables.published import published_of
from pfstudy.tables.speeds import common_setting, measured_in
from pfstudy.tables.statistics import (
    ByVariant,
    Correct,
    Criteria,
    JudgedFamily,
    find_best,
    judge,
    resolution_of,
)
from pfstudy.tables.timing import TIMING_FLOATS, reconcile_latencies, timing_columns
from pfstudy.variant import flatten, varying_settings

SEVERAL = "several"
"""Stands for the operation of a variant that has more than one."""

PROJECTED = " (+1x1)"
"""Marks a variant with sites where a 1x1 convolution follows the operation."""

NO_NORM = " (no norm)"
"""Marks a variant with sites that have lost the norm and activation of the replaced layer."""

_METRICS = (
    *("test_top1_percent", "test_top5_percent", "test_loss"),
    *("val_top1_percent", "val_top5_percent", "val_loss"),
)
_TEST_SET = ("fingerprint", "num_test", "split_seed")
_NETWORK = ("backbone", "sites")
_COST = ("params", "macs", *RECOUNTED)
_SPEED = (
    *("latency_ms", "latency_p10_ms", "latency_p90_ms", "throughput_images_per_s"),
    *("baseline_latency_ms", "relative_latency", "relative_latency_low", "relative_latency_high"),
    *("peak_memory_bytes", "energy_j"),
)
_TUNED = {
    "tuned_lr": "lr",
    "tuned_weight_decay": "weight_decay",
    "num_trials": "trials",
    "trial_epochs": "epochs",
    "num_failed_trials": "failed",
}
_NOT_JUDGED = {
    **dict.fromkeys(("is_control", "is_most_accurate", "is_fastest"), False),
    **dict.fromkeys(("difference_points", "difference_low", "difference_high"), math.nan),
    **dict.fromkeys(("p_value", "front_probability", "equal_latency_points"), math.nan),
    **dict.fromkeys(("equal_latency_low", "equal_latency_high"), math.nan),
    **dict.fromkeys(("population", "verdict", "front"), None),
}
"""What rows have that were not tested."""

_FLOATS = (
    *(*_TUNED, *_METRICS, f"{ACCURACY}_std", *_SPEED, *TIMING_FLOATS),
    *("relative_speed", "training_seconds"),
)


@dataclass(frozen=True)
class Rows:
    """The content of a table.

    Attributes:
        frame: A row for every variant, the baselines first; a column for every key of
            `pfstudy.tables.columns.COLUMNS` and every setting that varies.
        settings: Keys of the settings that vary, such as ``recipe.lr``.
        speed: Setting of the latencies, empty if there are none.
        speed_remarks: Sentences about figures of speed that are not what they seem.
        lacks_baseline: Labels of the variants that have no baseline to be compared with.
        has_failed_baseline: Whether all runs of such a baseline have failed.
        audit: What the runs share, and what not, although they are compared.
        incomplete: Runs that are not in the table.
        front_cost: Key of the cost that the front is drawn over; ``None`` without a front.
        criteria: How variants were judged.
        families: The variants that were compared with each other.
        runs: Identity, seed and commit of every run, for the provenance.
    """

    frame: pd.DataFrame
    settings: tuple[str, ...]
    speed: Mapping[str, Any]
    speed_remarks: tuple[str, ...]
    lacks_baseline: tuple[str, ...]
    has_failed_baseline: bool
    audit: Audit
    incomplete: tuple[Incomplete, ...] = ()
    front_cost: str | None = None
    criteria: Criteria = field(default_factory=Criteria)
    families: tuple[JudgedFamily, ...] = field(default=(), repr=False)
    runs: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


def make_rows(
    records: Iterable[Mapping[str, Any]],
    criteria: Criteria | None = None,
    speed: Mapping[str, Any] | None = None,
    incomplete: Sequence[Incomplete] = (),
) -> Rows:
    """Aggregate records.

    Args:
        records: As `pfstudy.store.read_records` yields them.
        criteria: How variants are judged; ``None`` for the usual way.
        speed: What the measurements should have in common, such as ``{"batch_size": 8}``; of
            those that do, or else of all, the setting that most variants have is taken.
        incomplete: Runs that left no record.

    Raises:
        PfstudyError: There are no records, none with the label of the baseline, or the criteria
            cannot be met.
    """
    found, criteria, correct = list(records), criteria or Criteria(), Correct()
    audit = audit_records(found)
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for record in found:
        by_variant.setdefault(record["identity"]["hash"], []).append(record)
    forms = [seeds[0]["identity"]["canonical"] for seeds in by_variant.values()]
    models = [seeds[0]["variant"]["model"] for seeds in by_variant.values()]
    varying = varying_settings(forms, models)
    if len({seeds[0]["data"] for seeds in by_variant.values()}) > 1:  # its name says it better
        varying = ["data" if key == "data.fingerprint" else key for key in varying]
    settings = ("model", *varying) if len(set(models)) > 1 else tuple(varying)
    timed = [next((r for r in s if r["speed"]), s[0]) for s in by_variant.values()]
    setting = common_setting(timed, speed or {})
    measured = [measured_in(seeds, setting) for seeds in by_variant.values()]
    rows = [
        _row(seeds, settings, m, correct)
        for seeds, m in zip(by_variant.values(), measured, strict=True)
    ]
    frame = pd.DataFrame({key: _column([row[key] for row in rows]) for key in rows[0]})
    frame = frame.astype(dict.fromkeys(_FLOATS, float))  # and nothing is NaN, not None
    reconcile_latencies(frame)
    failed = [run for run in incomplete if run.has_failed]
    families, front_cost = _judge(frame, by_variant, criteria, failed, correct)
    is_tested = frame[ACCURACY].notna()
    lacking = frame.loc[frame["difference_points"].isna() & is_tested, "variant"]
    frame = frame.sort_values("is_baseline", ascending=False, kind="stable")
    return Rows(
        frame.reset_index(drop=True),
        settings,
        setting,
        tuple(explain_marks(measured)),
        tuple(dict.fromkeys(lacking)),
        bool(set(frame["family"]) & ({run.key[0] for run in failed} - set(frame["hash"]))),
        audit,
        tuple(incomplete),
        front_cost,
        criteria,
        tuple(families),
        tuple(_provenance(record) for record in found),
    )


def _judge(
    frame: pd.DataFrame,
    by_variant: ByVariant,
    criteria: Criteria,
    failed: Sequence[Incomplete],
    correct: Correct,
) -> tuple[list[JudgedFamily], str | None]:
    """Judge the variants that were tested; tuning trials were not, and are not compared."""
    is_tested = frame[ACCURACY].notna()
    tested = frame if is_tested.all() else frame[is_tested].copy()
    families: list[JudgedFamily] = []
    front_cost = None
    if not tested.empty:
        families = judge(tested, by_variant, criteria, failed, correct)
        front_cost = find_front(tested, families, by_variant, correct)
        find_best(tested, families, by_variant, criteria, correct)
    if tested is not frame:
        for key, nothing in _NOT_JUDGED.items():
            frame[key] = pd.Series([nothing] * len(frame), frame.index)
            if not tested.empty:
                frame[key] = tested[key].reindex(frame.index, fill_value=nothing)
        number = Counter(run.key[0] for run in failed)
        frame["num_failed_seeds"] = [number[name] for name in frame["hash"]]
    return families, front_cost


def _row(
    seeds: Sequence[Mapping[str, Any]],
    settings: Sequence[str],
    measured: Mapping[str, Any],
    correct: Correct,
) -> dict[str, Any]:
    first = seeds[0]
    canonical = first["identity"]["canonical"]
    flat = {"model": first["variant"]["model"], "data": first["data"]}
    if settings:
        flat |= flatten(canonical)
    metrics = [record["metrics"] for record in seeds]
    accuracies = [each.get(ACCURACY) for each in metrics]
    return {
        "hash": first["identity"]["hash"],
        "family": first["identity"]["baseline"],
        "is_baseline": first["variant"]["is_baseline"],
        "label": first["variant"]["label"],
        "variant": _name(first),
        "model": first["variant"]["model"],
        "data": first["data"],
        "test_set": str([canonical.get("data", {}).get(key) for key in _TEST_SET]),
        "all_but_network": str({k: v for k, v in canonical.items() if k not in _NETWORK}),
        "resolution_points": resolution_of(first, correct),
        "operations": first["variant"].get("operations", {}),
        "num_replaced": sum(
            operation != ORIGINAL for operation in first["variant"].get("operations", {}).values()
        ),
        **{key: _plain(flat.get(key)) for key in settings},
        **{key: first.get("tuning", {}).get(of) for key, of in _TUNED.items()},
        **_cost(seeds),
        **{key: measured.get(key) for key in _SPEED},
        "relative_speed": 1 / measured["relative_latency"] if measured else None,
        "speed_mark": speed_mark(measured),
        **timing_columns(canonical, measured),
        **{key: _mean([each.get(key) for each in metrics]) for key in _METRICS},
        f"{ACCURACY}_std": _deviation(accuracies),
        **published_of(first),
        "training_seconds": _mean([record.get("training", {}).get("seconds") for record in seeds]),
        "num_seeds": len(seeds),
        "unverified": ",".join(sorted({what for r in seeds for what in r.get("unverified", ())})),
    }


def _cost(seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The cost of a variant; figures that another version counted differently are missing."""
    costs = [record["cost"] for record in seeds]
    cost = next(filter(is_counted_so, costs), costs[0])
    found = {key: cost.get(key) for key in _COST}
    is_outdated = not is_counted_so(cost) and any(found[key] is not None for key in RECOUNTED)
    if is_outdated:
        found |= dict.fromkeys(RECOUNTED)
    return {**found, "cost_mark": OUTDATED if is_outdated else ""}


def main_operation(operations: Iterable[str]) -> str:
    """What a variant is of: its one operation, or ``several``."""
    used = {operation for operation in operations if operation != ORIGINAL}
    return ORIGINAL if not used else next(iter(used)) if len(used) == 1 else SEVERAL


def _deviation(values: Sequence[float | None]) -> float | None:
    """Standard deviation of a sample; of one value, or of values not all known, there is none."""
    known = [value for value in values if value is not None]
    if len(values) < 2 or len(known) < len(values):
        return None
    mean = math.fsum(known) / len(known)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1))


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, where every seed has a value."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _name(record: Mapping[str, Any]) -> str:
    """The label, with what a reader must know besides; nothing that a terminal would obey."""
    variant = record["variant"]
    name = "".join(c if c.isprintable() else " " for c in variant["label"])
    if variant["is_baseline"]:
        name += f" ({variant['original']})"
    name += NO_NORM if loses_norm(record) else ""
    return name + (PROJECTED if record["cost"]["num_projected_sites"] else "")


def _column(values: list[Any]) -> Any:
    """Values as they are: of those that are missing, pandas would make whole numbers floats."""
    is_whole = all(value is None or type(value) is int for value in values)
    return pd.Series(values, dtype=object) if is_whole and None in values else values


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return shorten(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    git = record.get("environment", {}).get("git")
    return {
        "hash": record["identity"]["hash"],
        "seed": record["seed"],
        "commit": git["commit"] if git else None,
        "is_modified": bool(git and git["dirty"]),
    }
