"""What the page's scripts need besides the table: values, points, diagrams, curves.

Everything is laid out by columns and stands once, so that hundreds of runs make a small page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pfstudy.report.difference import list_differences
from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.front import on_front
from pfstudy.tables.columns import ACCURACY, BY_KEY, COLUMNS
from pfstudy.tables.content import Content
from pfstudy.tables.rows import SEVERAL, main_operation
from pfstudy.tables.timing import COMPARABLE, were_timed_together

_MOST_POINTS = 100_000
_MOST_COLOURS = 9
_PREFERRED_COSTS = ("latency_ms", "macs", "params")


def page_data(content: Content, records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collect the data of a page, apart from the curves.

    Args:
        content: The table; every list here is in the order of its lines.
        records: Those that the table was made of.
    """
    frame = content.ordered.reset_index(drop=True)
    several = frame["model"].nunique() > 1
    names = [
        f"{model}: {variant}" if several else variant
        for model, variant in zip(frame["model"], frame["variant"], strict=True)
    ]
    controls = _controls(frame)
    first = {record["identity"]["hash"]: record for record in reversed(records)}
    described = [first[name] for name in frame["hash"]]
    return {
        "original": ORIGINAL,
        "several": SEVERAL,
        "hash": frame["hash"].tolist(),
        "name": names,
        "control": controls,
        "columns": [[c.key, c.label, not c.is_text] for c in content.columns],
        "values": {c.key: _plain(frame[c.key]) for c in content.columns},
        "accuracy": _ends(frame, ACCURACY),
        "costs": _costs(frame),
        "colours": _colours(frame, controls, content.rows.settings),
        "models": frame["model"].tolist() if several else None,
        **_diagrams(frame, described),
        "differences": [
            list_differences(described[row], None if control is None else described[control])
            for row, control in enumerate(controls)
        ],
    }


def page_curves(content: Content, curves: pd.DataFrame) -> list[list[list[Any]]]:
    """Lay out learning curves.

    Args:
        content: The table.
        curves: As `pfstudy.figures.curves.read_curves` gives them.

    Returns:
        For every line of the table, and there for every seed: the seed, its epochs (or only the
        first, where they follow each other) and the validation accuracy after each.
    """
    step = max(1, math.ceil(len(curves) / _MOST_POINTS))
    rows = {name: row for row, name in enumerate(content.ordered["hash"])}
    found: list[list[list[Any]]] = [[] for _ in rows]
    for _, curve in curves.groupby(["hash", "seed"], sort=False):
        row, seed = rows[curve["hash"].iloc[0]], int(curve["seed"].iloc[0])
        kept = curve.iloc[::-step][::-1]  # the last epoch is among them
        accuracies = kept["val_top1_percent"].round(2).tolist()
        found[row].append([seed, _epochs(kept["epoch"].tolist()), accuracies])
    return found


def _controls(frame: pd.DataFrame) -> list[int | None]:
    """Of every line, that of the variant which it is compared with."""
    found = {frame["family"][row]: int(row) for row in np.flatnonzero(frame["is_control"])}
    return [found.get(family) for family in frame["family"]]


def _costs(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """All costs that are known of some variants, what the front is usually drawn over first."""
    keys = [c.key for c in COLUMNS if c.group in ("cost", "speed") and c.higher_is_better is False]
    keys = list(dict.fromkeys([*_PREFERRED_COSTS, *keys]))
    costs = []
    for key in keys:
        if key not in frame or not frame[key].notna().any():
            continue
        apart = key == "latency_ms" and not were_timed_together(frame)
        values = (frame[COMPARABLE if apart else key] * (BY_KEY[key].scale or 1)).astype(float)
        label = BY_KEY[key].label + (", relative time x one backbone's" if apart else "")
        cost = {"key": key, "label": label, "x": _plain(values)}
        if key in ("latency_ms", "relative_latency"):
            for end in ("low", "high"):
                ratio = frame[f"relative_latency_{end}"] / frame["relative_latency"]
                cost[end] = _plain(values * ratio)
        known = np.flatnonzero(values.notna() & frame[ACCURACY].notna())
        best = on_front(values.to_numpy()[known], frame[ACCURACY].to_numpy(float)[known])
        # accuracies on several datasets have no common front
        front = known[best & (frame["test_set"].nunique() == 1)]
        cost["front"] = [int(row) for row in front[np.argsort(values.to_numpy()[front])]]
        costs.append(cost)
    return costs


def _ends(frame: pd.DataFrame, key: str) -> dict[str, list[Any]]:
    spread = frame[f"{key}_std"].fillna(0)
    return {
        "y": _plain(frame[key]),
        "low": _plain(frame[key] - spread),
        "high": _plain(frame[key] + spread),
    }


def _colours(
    frame: pd.DataFrame, controls: Sequence[int | None], settings: Sequence[str]
) -> dict[str, list[str]]:
    """What points can be coloured by: what has few values, and more than one."""
    found = {"operation": [main_operation(each.values()) for each in frame["operations"]]}
    if frame["verdict"].notna().any():
        found["verdict"] = [
            "baseline" if row == control else text or "not compared"
            for row, (control, text) in enumerate(
                zip(controls, frame["verdict"].fillna(""), strict=True)
            )
        ]
    stages = dict.fromkeys(a.partition(".")[0] for each in frame["operations"] for a in each)
    for stage in stages:
        found[stage] = [
            main_operation(op for address, op in each.items() if address.partition(".")[0] == stage)
            for each in frame["operations"]
        ]
    found["data"] = frame["data"].tolist()
    for key in settings:
        found[key] = [str(value) for value in frame[key]]
    shown = {
        name: values
        for name, values in found.items()
        if name == "operation" or 1 < len(set(values)) <= _MOST_COLOURS
    }
    if found["operation"].count(SEVERAL) > len(frame) / 2:  # says little, so others come first
        shown["operation"] = shown.pop("operation")
    return shown


def _diagrams(frame: pd.DataFrame, described: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The places of every network once, and for each variant what stands there."""
    networks: dict[tuple[str, ...], int] = {}
    operations: dict[str, int] = {ORIGINAL: 0}
    stands = []
    for each in frame["operations"]:
        network = networks.setdefault(tuple(each), len(networks))
        stands.append(
            [network, *(operations.setdefault(o, len(operations)) for o in each.values())]
        )
    return {
        "networks": [list(places) for places in networks],
        "operations": list(operations),
        "stands": stands,
        "originals": [record["variant"].get("original", ORIGINAL) for record in described],
    }


def _epochs(epochs: Sequence[Any]) -> list[int] | int:
    """The epochs; only the first, where they follow each other."""
    numbers = [int(epoch) for epoch in epochs]
    first = numbers[0]
    return first if numbers == list(range(first, first + len(numbers))) else numbers


def _plain(values: Iterable[Any]) -> list[Any]:
    """What JSON has: no NaN, and no digits that nobody sees."""
    return [_number(value) if isinstance(value, float) else value for value in values]


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None
