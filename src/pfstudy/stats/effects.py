"""Main effects: what an operation costs or gains at a place, by an additive model.

accuracy = baseline + sum over the places of the effect of what stands there + noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import stdtrit

from pfstudy.stats.comparison import CONFIDENCE

Level = Literal["block", "stage", "operation"]
LEVELS: tuple[Level, ...] = ("block", "stage", "operation")

_EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class Effect:
    """What an operation does to the accuracy at a place.

    Attributes:
        place: Address of a block or a stage, or ``everywhere``.
        operation: What stands there instead of the original.
        points: Change of the accuracy where it stands at all blocks of the place.
        half_width: Half of its interval, which holds at 95 % for all effects of the model at once;
            ``None`` if nothing tells how sure it is.
    """

    place: str
    operation: str
    points: float
    half_width: float | None


@dataclass(frozen=True)
class Additive:
    """A fitted model.

    Attributes:
        level: The places that effects are told apart by.
        effects: Those of all places and operations.
        is_saturated: Whether there are as many effects as variants, so that it fits anyhow.
        r2: Share of the variance between variants that it explains.
        num_combinations: Variants that combine effects, and could be predicted from the others.
        r2_held_out: The share that it explains of these, each predicted from all others;
            ``None`` if there are fewer than three.
        error_held_out: By how much these predictions are off, root mean square in points.
        of: The backbone, where there are several.
    """

    level: Level
    effects: tuple[Effect, ...]
    is_saturated: bool
    r2: float
    num_combinations: int
    r2_held_out: float | None
    error_held_out: float | None
    of: str = ""


def fit_additive(
    operations: Sequence[Mapping[str, str]],
    accuracies: Sequence[float],
    num_seeds: Sequence[int],
    original: str,
    level: Level,
    deviation: float = 0.0,
    deviation_df: int = 0,
) -> Additive | None:
    """Fit the model to variants of one family.

    The intervals come from the spread between seeds, or from what the model leaves unexplained
    where that is larger.

    Args:
        operations: What stands at every site, by address, of every variant.
        accuracies: Mean accuracy of each in percent.
        num_seeds: Of each; the weights of the fit.
        original: What stands at the sites of the baseline.
        level: The places that effects are told apart by.
        deviation: Standard deviation between seeds in points, pooled over the variants.
        deviation_df: Degrees of freedom that it is known with; 0 if it is not.

    Returns:
        ``None`` if the variants cannot tell the effects apart.
    """
    features = _features(operations, original, level)
    if not features or len(operations) <= len(features):
        return None
    rows = _shares(operations, original, level)
    design_VF = np.array([[row.get(feature, 0.0) for feature in features] for row in rows])
    design_VF = np.column_stack([np.ones(len(operations)), design_VF])
    if np.linalg.matrix_rank(design_VF) < design_VF.shape[1]:
        return None
    values_V, weights_V = np.asarray(accuracies, float), np.asarray(num_seeds, float)
    found_F, spread_F = _fit(design_VF, values_V, weights_V)
    left_V = values_V - design_VF @ found_F
    df = len(values_V) - design_VF.shape[1]
    misfit = float(weights_V @ left_V**2) / df if df else 0.0
    variance, df = max((misfit, df), (deviation**2, deviation_df))
    tail = (1 - CONFIDENCE) / 2 / len(features)  # Bonferroni's
    half_F = stdtrit(df, 1 - tail) * np.sqrt(variance) * spread_F if df else None
    effects = tuple(
        Effect(*feature, float(found_F[i]), None if half_F is None else float(half_F[i]))
        for i, feature in enumerate(features, 1)
    )
    return Additive(
        level,
        effects,
        len(values_V) == design_VF.shape[1],
        _explained(left_V, values_V),
        *_hold_out(design_VF, values_V, weights_V),
    )


def _features(
    operations: Sequence[Mapping[str, str]], original: str, level: Level
) -> list[tuple[str, str]]:
    rows = _shares(operations, original, level)
    return list(dict.fromkeys(feature for row in rows for feature in row))


def _shares(
    operations: Sequence[Mapping[str, str]], original: str, level: Level
) -> list[dict[tuple[str, str], float]]:
    """Of every variant: which share of a place's blocks has which operation."""
    sizes: dict[str, int] = {}
    for address in operations[0]:
        sizes[_place(address, level)] = sizes.get(_place(address, level), 0) + 1
    rows = []
    for stands in operations:
        row: dict[tuple[str, str], float] = {}
        for address, operation in stands.items():
            if operation != original:
                key = (_place(address, level), operation)
                row[key] = row.get(key, 0.0) + 1 / sizes[key[0]]
        rows.append(row)
    return rows


def _place(address: str, level: Level) -> str:
    if level == "block":
        return address
    return address.partition(".")[0] if level == "stage" else _EVERYWHERE


def _fit(
    design_VF: np.ndarray, values_V: np.ndarray, weights_V: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted least squares: coefficients, and their standard errors at a variance of 1."""
    root_V = np.sqrt(weights_V)
    inverse_FV = np.linalg.pinv(design_VF * root_V[:, None])
    return inverse_FV @ (values_V * root_V), np.sqrt(np.sum(inverse_FV**2, axis=1))


def _hold_out(
    design_VF: np.ndarray, values_V: np.ndarray, weights_V: np.ndarray
) -> tuple[int, float | None, float | None]:
    """Predict every combination of effects from all other variants."""
    combined = np.flatnonzero((design_VF[:, 1:] > 0).sum(axis=1) > 1)
    predicted, true = [], []
    for index in combined:
        kept = np.arange(len(values_V)) != index
        if np.linalg.matrix_rank(design_VF[kept]) < design_VF.shape[1]:
            continue
        found_F, _ = _fit(design_VF[kept], values_V[kept], weights_V[kept])
        predicted.append(float(design_VF[index] @ found_F))
        true.append(float(values_V[index]))
    if len(true) < 3:
        return len(true), None, None
    off = np.array(true) - predicted
    return len(true), _explained(off, np.array(true)), float(np.sqrt(np.mean(off**2)))


def _explained(left: np.ndarray, values: np.ndarray) -> float:
    total = float(np.sum((values - values.mean()) ** 2))
    return 1 - float(np.sum(left**2)) / total if total else 0.0
