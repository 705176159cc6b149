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
_LEAST_HELD_OUT = 3
_CONFOUNDED = 1e-8


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
    fit = fit_model(operations, accuracies, num_seeds, original, level, deviation, deviation_df)
    if fit is None:
        return None
    tail = (1 - CONFIDENCE) / 2 / len(fit.features)  # Bonferroni's
    half_F = None
    if fit.variance is not None:
        spread_F = np.sqrt(np.sum(fit.inverse_FV**2, axis=1))
        half_F = stdtrit(fit.df, 1 - tail) * np.sqrt(fit.variance) * spread_F
    effects = tuple(
        Effect(*feature, float(fit.found_F[i]), None if half_F is None else float(half_F[i]))
        for i, feature in enumerate(fit.features, 1)
    )
    return Additive(
        level,
        effects,
        fit.is_saturated,
        _explained(fit.left_V, fit.values_V),
        len(fit.held_out.measured),
        fit.held_out.explained,
        fit.held_out.error,
    )


@dataclass(frozen=True)
class HeldOut:
    """Variants that combine effects, each predicted from all other variants.

    Attributes:
        indices: Which variants.
        measured: What their accuracies are.
        predicted: What they should be.
        leverages: Variances of the predictions at an error variance of 1.
    """

    indices: np.ndarray
    measured: np.ndarray
    predicted: np.ndarray
    leverages: np.ndarray

    @property
    def is_enough(self) -> bool:
        """Whether they are enough to judge a model by."""
        return len(self.measured) >= _LEAST_HELD_OUT

    @property
    def explained(self) -> float | None:
        """The share of their variance that is explained; ``None`` if they are too few."""
        off = self.measured - self.predicted
        return _explained(off, self.measured) if self.is_enough else None

    @property
    def error(self) -> float | None:
        """By how much the predictions are off, root mean square; ``None`` if they are too few."""
        off = self.measured - self.predicted
        return float(np.sqrt(np.mean(off**2))) if self.is_enough else None


@dataclass(frozen=True)
class Fit:
    """A fitted model as numbers; coefficient 0 is the baseline, the others are the effects.

    Attributes:
        features: Place and operation of every effect.
        found_F: The coefficients.
        inverse_FV: What turns weighted accuracies into coefficients; its product with its
            transpose is their covariance at an error variance of 1.
        values_V: The accuracies that it was fitted to.
        left_V: What it leaves unexplained of them.
        variance: Variance of the error of a variant with one seed; ``None`` if nothing tells it.
        df: Degrees of freedom that it is known with.
        misfit: The variance that is left unexplained, likewise of one seed; 0 if nothing can be.
        held_out: How well combinations are predicted.
    """

    features: tuple[tuple[str, str], ...]
    found_F: np.ndarray
    inverse_FV: np.ndarray
    values_V: np.ndarray
    left_V: np.ndarray
    variance: float | None
    df: int
    misfit: float
    held_out: HeldOut

    @property
    def is_saturated(self) -> bool:
        """Whether there are as many coefficients as variants, so that it fits anyhow."""
        return len(self.values_V) == len(self.found_F)


def fit_model(
    operations: Sequence[Mapping[str, str]],
    accuracies: Sequence[float],
    num_seeds: Sequence[int],
    original: str,
    level: Level,
    deviation: float = 0.0,
    deviation_df: int = 0,
) -> Fit | None:
    """Fit the model by weighted least squares; the arguments are those of `fit_additive`."""
    features = _features(operations, original, level) if operations else []
    if not features or len(operations) <= len(features):
        return None
    design_VF = make_design(operations, features, original, level)
    if np.linalg.matrix_rank(design_VF) < design_VF.shape[1]:
        return None
    values_V, weights_V = np.asarray(accuracies, float), np.asarray(num_seeds, float)
    found_F, inverse_FV = _fit(design_VF, values_V, weights_V)
    left_V = values_V - design_VF @ found_F
    df = len(values_V) - design_VF.shape[1]
    misfit = float(weights_V @ left_V**2) / df if df else 0.0
    variance, df = max((misfit, df), (deviation**2, deviation_df))
    return Fit(
        tuple(features),
        found_F,
        inverse_FV,
        values_V,
        left_V,
        variance if df else None,
        df,
        misfit,
        _hold_out(design_VF, inverse_FV, values_V, weights_V),
    )


def make_design(
    operations: Sequence[Mapping[str, str]],
    features: Sequence[tuple[str, str]],
    original: str,
    level: Level,
) -> np.ndarray:
    """Make the design matrix of variants: a column of ones, then one for every effect."""
    rows = _shares(operations, original, level)
    design_VF = np.array([[row.get(feature, 0.0) for feature in features] for row in rows])
    return np.column_stack([np.ones(len(operations)), design_VF])


def find_estimable(
    operations: Sequence[Mapping[str, str]], original: str, level: Level
) -> list[int]:
    """Find the variants whose effects can all be told apart by these variants.

    Returns:
        Their indices. The others have an operation that never stands without another one, as one
        that was tried at all sites together.
    """
    kept = list(range(len(operations)))
    while kept:
        chosen = [operations[index] for index in kept]
        features = _features(chosen, original, level)
        if not features:
            break
        design_VF = make_design(chosen, features, original, level)
        values_F, vectors_FF = np.linalg.eigh(design_VF.T @ design_VF)
        null_FN = vectors_FF[:, values_F < _CONFOUNDED * values_F[-1]]
        confounded_F = np.abs(null_FN).max(axis=1, initial=0.0) > _CONFOUNDED
        if not confounded_F.any():
            break
        has_V = (design_VF[:, confounded_F] != 0).any(axis=1)
        kept = [index for index, has in zip(kept, has_V, strict=True) if not has]
    return kept


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
    """Weighted least squares: coefficients, and what makes them of weighted values."""
    root_V = np.sqrt(weights_V)
    inverse_FV = np.linalg.pinv(design_VF * root_V[:, None])
    return inverse_FV @ (values_V * root_V), inverse_FV


def _hold_out(
    design_VF: np.ndarray, inverse_FV: np.ndarray, values_V: np.ndarray, weights_V: np.ndarray
) -> HeldOut:
    """Predict every combination of effects from all other variants.

    Without fitting anew: who is left out moves its own prediction by its leverage h alone, from a
    residual r to r / (1 - h) (Cook and Weisberg 1982, Sec. 2.2).
    """
    own_V = np.sum(design_VF * np.sqrt(weights_V)[:, None] * inverse_FV.T, axis=1)
    is_combined_V = (design_VF[:, 1:] > 0).sum(axis=1) > 1
    indices = np.flatnonzero(is_combined_V & (own_V < 1 - _CONFOUNDED))  # 1: by itself alone
    left = 1 - own_V[indices]
    off = (values_V - design_VF @ (inverse_FV @ (values_V * np.sqrt(weights_V))))[indices] / left
    leverages = own_V[indices] / weights_V[indices] / left
    return HeldOut(indices, values_V[indices], values_V[indices] - off, leverages)


def _explained(left: np.ndarray, values: np.ndarray) -> float:
    total = float(np.sum((values - values.mean()) ** 2))
    return 1 - float(np.sum(left**2)) / total if total else 0.0
