"""Who is on the front of accuracy over cost, how surely, and what is gained at equal latency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pfstudy.stats.comparison import CONFIDENCE
from pfstudy.stats.front import (
    SURE,
    Uncertain,
    at_equal_cost,
    draw_accuracies,
    draw_costs,
    front_probability,
    intervals_at_equal_cost,
)
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.statistics import ByVariant, Correct, JudgedFamily
from pfstudy.tables.timing import COMPARABLE, latency_errors


def find_front(
    frame: pd.DataFrame, families: Sequence[JudgedFamily], by_variant: ByVariant, correct: Correct
) -> str | None:
    """Find who is on the front of accuracy over latency, or else over MACs, of one dataset.

    Sets ``front_probability``, ``front``, ``equal_latency_points`` and the ends of its 95 %
    interval: the accuracy above the line through the unsubstituted backbones of the same recipe at
    the same latency. Where nothing tells how sure accuracies are, there is no front. A variant
    that has lost runs is not surely on it, and nobody surely off it because of one.

    Returns:
        Key of the cost; ``None`` if there is nobody to compare with.
    """
    columns = ("front_probability", "equal_latency_points", "equal_latency_low")
    for key in (*columns, "equal_latency_high"):
        frame[key] = math.nan
    cost = "latency_ms" if frame["latency_ms"].notna().sum() > 1 else "macs"
    has_front = False
    without_lost = pd.Series(0.0, frame.index)
    for _, shown in frame[frame[cost].notna()].groupby("test_set"):
        accuracies_DV = _draw_accuracies(shown, families, by_variant, correct)
        if accuracies_DV is None:
            continue
        numbers = pd.factorize(shown["backbone"])[0]
        nothing = np.zeros(len(shown))
        own, common = latency_errors(shown) if cost == "latency_ms" else (nothing, nothing)
        key = COMPARABLE if cost == "latency_ms" else cost
        costs_DV = draw_costs(shown[key].to_numpy(float), own, common, numbers)
        if len(shown) > 1:
            has_front = True
            found = front_probability(costs_DV, accuracies_DV)
            frame.loc[shown.index, "front_probability"] = found
            whole = (shown["num_failed_seeds"] == 0).to_numpy()
            if whole.any() and not whole.all():
                among = front_probability(costs_DV[:, whole], accuracies_DV[:, whole])
                without_lost[shown.index[whole]] = among
        if cost == "latency_ms":
            _find_equal_latency(frame, shown, costs_DV, accuracies_DV)
    frame["front"] = [
        None if math.isnan(p) else _on_front(p, lost, others)
        for p, lost, others in zip(
            frame["front_probability"], frame["num_failed_seeds"] > 0, without_lost, strict=True
        )
    ]
    return cost if has_front else None


def _on_front(probability: float, lost: bool, without_lost: float) -> str:
    """Failed runs flatter nobody: neither who lost them, nor who beats others by what is left."""
    if probability >= SURE:
        return "perhaps" if lost else "yes"
    is_off = max(probability, without_lost) < 1 - SURE
    return "no" if is_off else "perhaps"


def _find_equal_latency(
    frame: pd.DataFrame, shown: pd.DataFrame, costs_DV: np.ndarray, accuracies_DV: np.ndarray
) -> None:
    positions = pd.Series(range(len(shown)), shown.index)
    for _, alike in shown.groupby("all_but_network"):
        is_base = alike["is_baseline"].to_numpy(bool)
        if alike.loc[is_base, "model"].nunique() < 2:
            continue
        at = positions[alike.index].to_numpy()
        points = (alike[COMPARABLE].to_numpy(float), alike[ACCURACY].to_numpy(float), is_base)
        above = at_equal_cost(*points)
        drawn = (costs_DV[:, at], accuracies_DV[:, at], is_base)
        low, high = intervals_at_equal_cost(*drawn, CONFIDENCE)
        has = np.isfinite(above) & ~is_base
        frame.loc[alike.index, "equal_latency_points"] = above
        frame.loc[alike.index[has], "equal_latency_low"] = low[has]
        frame.loc[alike.index[has], "equal_latency_high"] = high[has]


def _draw_accuracies(
    shown: pd.DataFrame,
    families: Sequence[JudgedFamily],
    by_variant: ByVariant,
    correct: Correct,
) -> np.ndarray | None:
    """Draw accuracies of variants on the same test images; ``None`` if nothing tells their errors.

    Returns:
        ``(draws, V)`` in the order of the rows.
    """
    known = shown.set_index("hash")
    uncertain, names = [], []
    for family in families:
        members = [name for name in (family.control, *family.hashes) if name in known.index]
        if not members:
            continue
        made = _uncertain(family, known, by_variant, correct)
        if made is None:
            return None
        uncertain.append(made)
        names += [family.control, *family.hashes]
    drawn_DV = draw_accuracies(uncertain)
    column = {name: index for index, name in enumerate(names)}
    return drawn_DV[:, [column[name] for name in shown["hash"]]]


def _uncertain(
    family: JudgedFamily, known: pd.DataFrame, by_variant: ByVariant, correct: Correct
) -> Uncertain | None:
    names = (family.control, *family.hashes)
    made = family.estimate
    mean = math.fsum(_accuracies(by_variant[family.control])) / len(by_variant[family.control])
    accuracies_G = mean + np.concatenate([[0.0], made.differences_V])  # as the table compares them
    has_errors = bool(family.hashes) and bool((made.df > 0).all())
    seeds = _accuracies(by_variant[family.control])
    common = float(np.std(seeds, ddof=1)) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0
    images_GN = None
    if made.population != "seeds":
        images_GN = _shares(names, by_variant, correct)
    if has_errors:
        own = float(np.mean(made.seed_errors_V**2)) / 2
        common = math.sqrt(max(common**2 - own, 0.0))  # what differences do not have
        return Uncertain(accuracies_G, made, images_GN, None, common)
    if not family.hashes and (images_GN is not None or common):
        return Uncertain(accuracies_G, made, images_GN, None, common)
    steps = known["resolution_points"].reindex(names).to_numpy(float)
    shares = accuracies_G / 100
    # a standard error is 100 sqrt(p (1 - p) / N), and the step between accuracies 100 / N
    errors_G = np.sqrt(100 * shares * (1 - shares) * steps)
    if np.isnan(errors_G).any():
        return None
    return Uncertain(accuracies_G, made, None, errors_G)


def _shares(names: Sequence[str], by_variant: ByVariant, correct: Correct) -> np.ndarray | None:
    """Share of the seeds that have an image right: ``(V, N)``; ``None`` if it is not known."""
    found: list[np.ndarray] = []
    for name in names:
        right = [correct(record) for record in by_variant[name]]
        known = [each for each in right if each is not None]
        if len(known) < len(right) or len({len(each) for each in known}) > 1:
            return None
        found.append(np.asarray(np.mean(known, axis=0, dtype=np.float32)))
    return np.array(found) if len({len(each) for each in found}) == 1 else None


def _accuracies(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    return [record["metrics"][ACCURACY] for record in seeds]
