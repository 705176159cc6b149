"""Records in, rows out: one row a variant, its seeds taken together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.speed.setting import ALL_KEYS, PLACE, complete_setting, describe_setting
from pfstudy.tables.audit import Finding, audit_records
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.variant import flatten, varying_settings

PROJECTED = " (+1x1)"
"""Marks a variant with sites where a 1x1 convolution follows the operation."""


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
    """

    frame: pd.DataFrame
    settings: tuple[str, ...]
    speed: Mapping[str, Any]
    speed_remarks: tuple[str, ...]
    lacks_baseline: tuple[str, ...]
    findings: tuple[Finding, ...]


def make_rows(
    records: Iterable[Mapping[str, Any]],
    baseline: str | None = None,
    speed: Mapping[str, Any] | None = None,
) -> Rows:
    """Aggregate records.

    Args:
        records: As `pfstudy.store.read_records` yields them.
        baseline: Label of the variant to compare with; ``None`` for the unsubstituted backbone.
        speed: What the measurements should have in common, such as ``{"batch_size": 8}``; of
            those that do, or else of all, the setting that most records have is taken.

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
    setting = _common_complete_setting(found, speed or {})
    measured = [_measured(seeds[0], setting) for seeds in by_variant.values()]
    frame = pd.DataFrame(
        _row(seeds, settings, m) for seeds, m in zip(by_variant.values(), measured, strict=True)
    )
    _compare(frame, baseline)
    _reconcile_latencies(frame)
    lacking = frame.loc[frame["difference_points"].isna(), "variant"]
    frame = frame.sort_values("is_baseline", ascending=False, kind="stable")
    return Rows(
        frame.reset_index(drop=True),
        settings,
        setting,
        tuple(explain_marks(measured)),
        tuple(dict.fromkeys(lacking)),
        findings,
    )


def choose_speed(records: Iterable[Mapping[str, Any]], wanted: Sequence[str]) -> dict[str, Any]:
    """Choose the setting of speed that a table shows.

    Args:
        records: As `pfstudy.store.read_records` yields them.
        wanted: ``KEY=VALUE``; a part of a device's or host's name is enough.

    Returns:
        The setting that most records have of those that fit.

    Raises:
        PfstudyError: There is no such key, or no measurement that fits; lists what there is.
    """
    found = [complete_setting(m) for record in records for m in record["speed"]]
    fitting = found
    for text in wanted:
        key, _, value = text.partition("=")
        if key not in ALL_KEYS:
            raise unknown_name("the setting of speed", key, ALL_KEYS)
        fitting = [setting for setting in fitting if _fits(key, value, setting[key])]
    if not fitting:
        known = dict.fromkeys(f"{describe_setting(s)} (host {s['host']})" for s in found)
        raise PfstudyError(
            f"no speed was measured with {' and '.join(wanted)}; measured were: "
            f"{'; '.join(known) or 'none'}."
        )
    return _most_common(fitting)


def _most_common(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    setting: dict[str, Any] = json.loads(Counter(map(json.dumps, settings)).most_common(1)[0][0])
    return setting


def _fits(key: str, wanted: str, value: Any) -> bool:
    written = str(value).lower()
    return wanted.lower() in written if key in PLACE else wanted.lower() == written


def _measured(record: Mapping[str, Any], setting: Mapping[str, Any]) -> Mapping[str, Any]:
    """The measurement of a record in a setting; {} without one."""
    return next((m for m in record["speed"] if complete_setting(m) == setting), {})


def _row(
    seeds: Sequence[Mapping[str, Any]], settings: Sequence[str], measured: Mapping[str, Any]
) -> dict[str, Any]:
    first = seeds[0]
    accuracies = pd.Series([record["metrics"]["test_top1_percent"] for record in seeds])
    flat = {"model": first["variant"]["model"], **flatten(first["identity"]["canonical"])}
    written = {key: _plain(flat.get(key)) for key in settings}
    return {
        "hash": first["identity"]["hash"],
        "family": first["identity"]["baseline"],
        "is_baseline": first["variant"]["is_baseline"],
        "label": first["variant"]["label"],
        "variant": _name(first),
        **written,
        "params": first["cost"]["params"],
        "macs": first["cost"]["macs"],
        "latency_ms": measured.get("latency_ms"),
        "baseline_latency_ms": measured.get("baseline_latency_ms"),
        "relative_speed": 1 / measured["relative_latency"] if measured else None,
        "speed_mark": speed_mark(measured),
        "test_top1_percent": accuracies.mean(),
        "test_top1_percent_std": accuracies.std(ddof=1),
        "num_seeds": len(seeds),
    }


def _compare(frame: pd.DataFrame, baseline: str | None) -> None:
    """Set every variant's difference to the baseline of its family: same data, same recipe."""
    chosen = frame["is_baseline"] if baseline is None else frame["label"] == baseline
    if baseline is not None and not chosen.any():
        raise unknown_name("baseline", baseline, frame["label"])
    accuracy = frame[chosen].drop_duplicates("family").set_index("family")["test_top1_percent"]
    frame["difference_points"] = frame["test_top1_percent"] - frame["family"].map(accuracy)


def _reconcile_latencies(frame: pd.DataFrame) -> None:
    """Refer all latencies of a family to one measurement of its baseline.

    Networks are timed beside the baseline, but not all of them in the same processes, and between
    processes and days times differ by more than ratios do.
    """
    measured = frame[frame["latency_ms"].notna()]
    first = measured.sort_values("is_baseline", ascending=False, kind="stable")
    reference = first.drop_duplicates("family").set_index("family")["baseline_latency_ms"]
    frame["latency_ms"] = frame["family"].map(reference) / frame["relative_speed"]


def _common_complete_setting(
    records: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """The setting, device included, in which most records are measured."""
    found = [complete_setting(measured) for record in records for measured in record["speed"]]
    fitting = [s for s in found if all(s.get(key) == value for key, value in wanted.items())]
    return _most_common(fitting or found) if found else {}


def _name(record: Mapping[str, Any]) -> str:
    """The label, with what a reader must know besides."""
    variant = record["variant"]
    name = str(variant["label"])
    if variant["is_baseline"]:
        name += f" ({variant['original']})"
    return name + (PROJECTED if record["cost"]["num_projected_sites"] else "")


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
