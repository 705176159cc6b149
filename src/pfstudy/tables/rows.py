"""Records in, rows out: one row a variant, its seeds taken together and compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.operations import ORIGINAL
from pfstudy.sources import Incomplete
from pfstudy.stats.comparison import Comparison, compare_family, pooled_deviation
from pfstudy.stats.front import SURE, at_equal_cost, front_probability
from pfstudy.tables.audit import Finding, audit_records
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.tables.published import published_of
from pfstudy.tables.speeds import common_setting, measured_in
from pfstudy.variant import flatten, varying_settings

PROJECTED = " (+1x1)"
"""Marks a variant with sites where a 1x1 convolution follows the operation."""

ACCURACY = "test_top1_percent"
PREDICTIONS = "predictions.npz"

_METRICS = (
    *("test_top1_percent", "test_top5_percent", "test_loss"),
    *("val_top1_percent", "val_top5_percent", "val_loss"),
)
_COST = ("params", "macs", "activations", "memory_traffic_bytes")
_SPEED = (
    *("latency_ms", "latency_p10_ms", "latency_p90_ms", "throughput_images_per_s"),
    *("baseline_latency_ms", "relative_latency", "relative_latency_low", "relative_latency_high"),
    *("peak_memory_bytes", "energy_j"),
)
_FLOATS = (*_METRICS, f"{ACCURACY}_std", *_SPEED, "relative_speed", "training_seconds")
_WIDTH_IN_ERRORS = 2 * 1.96


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
        findings: What the runs do not share, although they are compared.
        incomplete: Runs that are not in the table.
        front_cost: Key of the cost that the front is drawn over; ``None`` without a front.
        runs: Identity, seed and commit of every run, for the provenance.
    """

    frame: pd.DataFrame
    settings: tuple[str, ...]
    speed: Mapping[str, Any]
    speed_remarks: tuple[str, ...]
    lacks_baseline: tuple[str, ...]
    findings: tuple[Finding, ...]
    incomplete: tuple[Incomplete, ...] = ()
    front_cost: str | None = None
    runs: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


def make_rows(
    records: Iterable[Mapping[str, Any]],
    baseline: str | None = None,
    speed: Mapping[str, Any] | None = None,
    incomplete: Sequence[Incomplete] = (),
) -> Rows:
    """Aggregate records.

    Args:
        records: As `pfstudy.store.read_records` yields them.
        baseline: Label of the variant to compare with; ``None`` for the unsubstituted backbone.
        speed: What the measurements should have in common, such as ``{"batch_size": 8}``; of
            those that do, or else of all, the setting that most records have is taken.
        incomplete: Runs that left no record.

    Raises:
        PfstudyError: There are no records, or none with the label of ``baseline``.
    """
    found = list(records)
    findings = audit_records(found).findings
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for record in found:
        by_variant.setdefault(record["identity"]["hash"], []).append(record)
    forms = [seeds[0]["identity"]["canonical"] for seeds in by_variant.values()]
    models = [seeds[0]["variant"]["model"] for seeds in by_variant.values()]
    varying = varying_settings(forms, models)
    settings = ("model", *varying) if len(set(models)) > 1 else tuple(varying)
    setting = common_setting(found, speed or {})
    measured = [measured_in(seeds[0], setting) for seeds in by_variant.values()]
    frame = pd.DataFrame(
        _row(seeds, settings, m) for seeds, m in zip(by_variant.values(), measured, strict=True)
    )
    frame = frame.astype(dict.fromkeys(_FLOATS, float))  # and nothing is NaN, not None
    _reconcile_latencies(frame)
    frame = _compare(frame, by_variant, baseline)
    front_cost = _find_front(frame, by_variant)
    _find_best(frame, by_variant)
    lacking = frame.loc[frame["difference_points"].isna(), "variant"]
    frame = frame.sort_values("is_baseline", ascending=False, kind="stable")
    return Rows(
        frame.reset_index(drop=True),
        settings,
        setting,
        tuple(explain_marks(measured)),
        tuple(dict.fromkeys(lacking)),
        findings,
        tuple(incomplete),
        front_cost,
        tuple(_provenance(record) for record in found),
    )


def read_correct(record: Mapping[str, Any]) -> np.ndarray | None:
    """Read which test images a run has right: ``(N,)``; ``None`` if that was not kept."""
    directory = record.get("directory")
    path = None if directory is None else Path(directory) / PREDICTIONS
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            labels = kept["labels"]
            first = kept["top5"][:, 0] if "top5" in kept else kept["logits"].argmax(axis=1)
            correct: np.ndarray = first == labels
            return correct
    except (OSError, ValueError, KeyError):
        raise PfstudyError(f"{path} is damaged; move it away, and no test is made of it.") from None


def _row(
    seeds: Sequence[Mapping[str, Any]], settings: Sequence[str], measured: Mapping[str, Any]
) -> dict[str, Any]:
    first = seeds[0]
    flat = {"model": first["variant"]["model"]}
    if settings:
        flat |= flatten(first["identity"]["canonical"])
    accuracies = [record["metrics"][ACCURACY] for record in seeds]
    mean = math.fsum(accuracies) / len(accuracies)
    return {
        "hash": first["identity"]["hash"],
        "family": first["identity"]["baseline"],
        "is_baseline": first["variant"]["is_baseline"],
        "label": first["variant"]["label"],
        "variant": _name(first),
        "model": first["variant"]["model"],
        "data": first["data"],
        "operations": first["variant"].get("operations", {}),
        "num_replaced": sum(
            operation != ORIGINAL for operation in first["variant"].get("operations", {}).values()
        ),
        "directories": [str(r["directory"]) for r in seeds if r.get("directory") is not None],
        **{key: _plain(flat.get(key)) for key in settings},
        **{key: first["cost"].get(key) for key in _COST},
        **{key: measured.get(key) for key in _SPEED},
        "relative_speed": 1 / measured["relative_latency"] if measured else None,
        "speed_mark": speed_mark(measured),
        **{key: _mean([record["metrics"].get(key) for record in seeds]) for key in _METRICS},
        ACCURACY: mean,
        f"{ACCURACY}_std": float(np.std(accuracies, ddof=1)) if len(seeds) > 1 else None,
        **published_of(first),
        "training_seconds": _mean([record.get("training", {}).get("seconds") for record in seeds]),
        "num_seeds": len(seeds),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    """The mean, where every seed has a value."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _compare(
    frame: pd.DataFrame, by_variant: Mapping[str, Sequence[Mapping[str, Any]]], baseline: str | None
) -> pd.DataFrame:
    """Compare every variant with the baseline of its family: same backbone, data, recipe."""
    chosen = frame["is_baseline"] if baseline is None else frame["label"] == baseline
    if baseline is not None and not chosen.any():
        raise unknown_name("baseline", baseline, frame["label"])
    compared: dict[str, Comparison] = {}
    for _, family in frame.groupby("family", sort=False):
        controls = family.loc[chosen.loc[family.index], "hash"]
        if controls.empty:
            continue
        control = controls.iloc[0]
        samples = {h: [r["metrics"][ACCURACY] for r in by_variant[h]] for h in family["hash"]}
        compared[control] = Comparison(0.0)
        compared |= compare_family(
            samples,
            control,
            lambda name: read_correct(by_variant[name][0]),
            _resolution(by_variant[control][0]),
        )
    nothing = dict.fromkeys(asdict(Comparison(0.0)), None)
    rows = [asdict(compared[h]) if h in compared else nothing for h in frame["hash"]]
    found = pd.DataFrame(rows, index=frame.index).rename(
        columns={
            "difference": "difference_points",
            "low": "difference_low",
            "high": "difference_high",
        }
    )
    found = found.astype(dict.fromkeys(found.columns[:4], float))
    return pd.concat([frame, found], axis=1)


def _reconcile_latencies(frame: pd.DataFrame) -> None:
    """Refer all latencies of a family to one measurement of its baseline.

    Networks are timed beside the baseline, but not all of them in the same processes, and between
    processes and days times differ by more than ratios do.
    """
    measured = frame[frame["latency_ms"].notna()]
    first = measured.sort_values("is_baseline", ascending=False, kind="stable")
    reference = first.drop_duplicates("family").set_index("family")["baseline_latency_ms"]
    scale = frame["family"].map(reference) / frame["baseline_latency_ms"]
    reconciled = frame["family"].map(reference) / frame["relative_speed"]
    frame["latency_ms"] = reconciled
    frame["throughput_images_per_s"] = frame["throughput_images_per_s"] / scale
    for key in ("latency_p10_ms", "latency_p90_ms"):
        frame[key] = frame[key] * scale


def _find_front(
    frame: pd.DataFrame, by_variant: Mapping[str, Sequence[Mapping[str, Any]]]
) -> str | None:
    """Find who is on the front of accuracy over latency, or else over MACs, of one dataset.

    Sets ``front_probability``, and ``equal_latency_points``: the accuracy above the line through
    the unsubstituted backbones at the same latency.

    Returns:
        Key of the cost.
    """
    frame["front_probability"] = np.nan
    frame["equal_latency_points"] = np.nan
    timed = int(frame["latency_ms"].notna().sum())
    cost = "latency_ms" if timed > 1 else "macs"
    datasets = [
        json.dumps(by_variant[h][0]["identity"]["canonical"].get("data")) for h in frame["hash"]
    ]
    has_front = False
    for _, shown in frame[frame[cost].notna()].groupby(pd.Series(datasets, frame.index)):
        if len(shown) < 2:
            continue
        has_front = True
        errors, df = _accuracy_errors(shown, by_variant)
        probability = front_probability(
            shown[cost].to_numpy(float),
            _cost_errors(shown, cost),
            shown[ACCURACY].to_numpy(float),
            errors,
            df,
        )
        frame.loc[shown.index, "front_probability"] = probability
        bases = shown[shown["is_baseline"]]
        if cost == "latency_ms" and len(bases) > 1:
            line = (bases[cost].to_numpy(float), bases[ACCURACY].to_numpy(float))
            above = [
                at_equal_cost(*point, *line)
                for point in zip(shown[cost], shown[ACCURACY], strict=True)
            ]
            frame.loc[shown.index, "equal_latency_points"] = pd.Series(above, shown.index, float)
    frame["front"] = [
        None if math.isnan(p) else "yes" if p >= SURE else "perhaps" if p >= 1 - SURE else "no"
        for p in frame["front_probability"]
    ]
    return cost if has_front else None


def _find_best(frame: pd.DataFrame, by_variant: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Find who is better than all others, and really so.

    Sets ``is_most_accurate``: every other variant is worse by the test that compares all of them
    with this one; and ``is_fastest``: its interval lies below all others'. Of one dataset and of
    one backbone, or it is nobody.
    """
    frame["is_most_accurate"] = frame["is_fastest"] = False
    if len(frame) < 2:
        return
    first = by_variant[frame["hash"].iloc[0]][0]
    if frame["data"].nunique() == 1:
        best = frame[ACCURACY].idxmax()
        samples = {h: [r["metrics"][ACCURACY] for r in by_variant[h]] for h in frame["hash"]}
        compared = compare_family(
            samples,
            frame["hash"][best],
            lambda name: read_correct(by_variant[name][0]),
            _resolution(first),
        )
        frame.loc[best, "is_most_accurate"] = all(c.verdict == "worse" for c in compared.values())
    if frame["family"].nunique() == 1 and frame["relative_latency"].notna().all():
        fastest = frame["relative_latency"].idxmin()
        below = frame["relative_latency_low"].drop(fastest).min()
        frame.loc[fastest, "is_fastest"] = frame["relative_latency_high"][fastest] < below


def _accuracy_errors(
    shown: pd.DataFrame, by_variant: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[np.ndarray, int]:
    """Standard errors of mean accuracies in points: between seeds, or else between test images."""
    samples = [[r["metrics"][ACCURACY] for r in by_variant[h]] for h in shown["hash"]]
    deviation, df = pooled_deviation(samples)
    if df:
        return deviation / np.sqrt(shown["num_seeds"].to_numpy(float)), df
    number = _num_test(by_variant[shown["hash"].iloc[0]][0])
    shares = shown[ACCURACY].to_numpy(float) / 100
    return 100 * np.sqrt(shares * (1 - shares) / number) if number else 0 * shares, 0


def _cost_errors(shown: pd.DataFrame, cost: str) -> np.ndarray:
    if cost != "latency_ms":
        return np.zeros(len(shown))
    ends = [shown[f"relative_latency_{end}"].to_numpy(float) for end in ("low", "high")]
    with np.errstate(invalid="ignore", divide="ignore"):
        errors: np.ndarray = (np.log(ends[1]) - np.log(ends[0])) / _WIDTH_IN_ERRORS
    return np.nan_to_num(errors, nan=0.0, posinf=0.0)


def _num_test(record: Mapping[str, Any]) -> int:
    data = record["identity"]["canonical"].get("data", {})
    return int(record["metrics"].get("num_test_images") or data.get("num_test") or 0)


def _resolution(record: Mapping[str, Any]) -> float:
    number = _num_test(record)
    return 100 / number if number else 0.0


def _name(record: Mapping[str, Any]) -> str:
    """The label, with what a reader must know besides."""
    variant = record["variant"]
    name = str(variant["label"])
    if variant["is_baseline"]:
        name += f" ({variant['original']})"
    return name + (PROJECTED if record["cost"]["num_projected_sites"] else "")


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _provenance(record: Mapping[str, Any]) -> dict[str, Any]:
    git = record.get("environment", {}).get("git")
    return {
        "hash": record["identity"]["hash"],
        "seed": record["seed"],
        "commit": git["commit"] if git else None,
        "is_modified": bool(git and git["dirty"]),
    }
