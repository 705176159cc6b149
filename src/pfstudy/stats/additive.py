"""The additive model as numbers: fitted by weighted least squares, and judged by who is left out.

accuracy = baseline + sum over the sites of the effect of the operation there + noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Level = Literal["block", "stage", "operation"]
LEVELS: tuple[Level, ...] = ("block", "stage", "operation")

CONFOUNDED = 1e-8
"""What counts no more than this, counts nothing but rounding."""

_EVERYWHERE = "everywhere"
_LEAST_HELD_OUT = 3


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
        return share_explained(off, self.measured) if self.is_enough else None

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
    df: float
    misfit: float
    held_out: HeldOut

    @property
    def is_saturated(self) -> bool:
        """Whether there are as many coefficients as variants, so that it fits anyhow."""
        return len(self.values_V) == len(self.found_F)


def fit_model(
    operations: Sequence[Mapping[str, str]],
    accuracies: Sequence[float] | np.ndarray,
    num_seeds: Sequence[int] | np.ndarray,
    original: str,
    level: Level,
    deviation: float = 0.0,
    deviation_df: float = 0,
) -> Fit | None:
    """Fit the model by weighted least squares.

    Args:
        operations: The operation at every site, by address, of every variant.
        accuracies: Mean accuracy of each in percent.
        num_seeds: Of each; the weights of the fit.
        original: The operation of the unsubstituted backbone.
        level: The places that effects are told apart by.
        deviation: Standard deviation between seeds in points.
        deviation_df: Degrees of freedom that it is known with; 0 if it is not.

    Returns:
        ``None`` if the variants cannot tell the effects apart.
    """
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
    variance, variance_df = _pool(misfit, df, deviation**2, deviation_df)
    return Fit(
        tuple(features),
        found_F,
        inverse_FV,
        values_V,
        left_V,
        variance if variance_df else None,
        variance_df,
        misfit,
        _hold_out(design_VF, inverse_FV, values_V, weights_V),
    )


def _pool(misfit: float, misfit_df: int, noise: float, noise_df: float) -> tuple[float, float]:
    """Variance of the error with the degrees of freedom that go with it.

    What is left unexplained is pooled with the noise of the seeds, and counts no less than it: the
    larger of the two alone would be known with the degrees of freedom of a single combination.
    """
    df = misfit_df + noise_df
    if not df:
        return 0.0, 0.0
    return (misfit_df * max(misfit, noise) + noise_df * noise) / df, df


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
        null_FN = vectors_FF[:, values_F < CONFOUNDED * values_F[-1]]
        confounded_F = np.abs(null_FN).max(axis=1, initial=0.0) > CONFOUNDED
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

    Without fitting again: leaving a variant out moves its own prediction by its leverage h alone,
    from a residual r to r / (1 - h) (Cook and Weisberg 1982, Sec. 2.2).
    """
    own_V = np.sum(design_VF * np.sqrt(weights_V)[:, None] * inverse_FV.T, axis=1)
    is_combined_V = (design_VF[:, 1:] > 0).sum(axis=1) > 1
    indices = np.flatnonzero(is_combined_V & (own_V < 1 - CONFOUNDED))  # 1: by itself alone
    left = 1 - own_V[indices]
    off = (values_V - design_VF @ (inverse_FV @ (values_V * np.sqrt(weights_V))))[indices] / left
    leverages = own_V[indices] / weights_V[indices] / left
    return HeldOut(indices, values_V[indices], values_V[indices] - off, leverages)


def share_explained(left: np.ndarray, values: np.ndarray) -> float:
    """Share of the variance of values that is not left."""
    total = float(np.sum((values - values.mean()) ** 2))
    return 1 - float(np.sum(left**2)) / total if total else 0.0
