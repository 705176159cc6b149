"""Main effects: what an operation costs or gains at a place, by an additive model.

accuracy = baseline + sum over the places of the effect of what stands there + noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pfstudy.stats.comparison import (
    CONFIDENCE,
    Estimate,
    Verdict,
    critical_values,
    decide,
    deviation_of,
    withhold,
)

Level = Literal["block", "stage", "operation"]
LEVELS: tuple[Level, ...] = ("block", "stage", "operation")

_EVERYWHERE = "everywhere"
_LEAST_HELD_OUT = 3
_CONFOUNDED = 1e-8
_MANY = 1e9


@dataclass(frozen=True)
class Effect:
    """What an operation does to the accuracy at a place.

    Attributes:
        place: Address of a block or a stage, or ``everywhere``.
        operation: What stands there instead of the original.
        points: Change of the accuracy where it stands at all blocks of the place.
        low: Lower end of its interval, which holds for all effects of the model at once; ``None``
            if nothing tells how sure it is.
        high: Upper end.
        verdict: Read off the interval.
    """

    place: str
    operation: str
    points: float
    low: float | None = None
    high: float | None = None
    verdict: Verdict | None = None


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


@dataclass(frozen=True)
class Family:
    """Variants that are compared with one of them.

    Attributes:
        operations: What stands at every site, by address, of the reference and then the others.
        accuracy: Mean accuracy of the reference in percent.
        estimate: Differences of the others to it.
        has_lost: Whether some runs of each have failed, the reference's first.
    """

    operations: Sequence[Mapping[str, str]]
    accuracy: float
    estimate: Estimate
    has_lost: Sequence[bool]


def fit_additive(
    family: Family,
    original: str,
    level: Level,
    confidence: float = CONFIDENCE,
    margin: float = 0.0,
) -> Additive | None:
    """Fit the model to variants of one family.

    Effects are sums of the differences to the reference, and their errors come from those of the
    differences: where each effect is that of one variant, its ends are that variant's. What the
    model leaves unexplained is pooled with the spread between seeds, never below it.

    Args:
        family: The variants.
        original: What stands at the sites of the unsubstituted backbone.
        level: The places that effects are told apart by.
        confidence: That the intervals of all effects hold at once.
        margin: A loss in points that does not matter.

    Returns:
        ``None`` if the variants cannot tell the effects apart.
    """
    made = family.estimate
    values = family.accuracy + np.concatenate([[0.0], made.differences_V])
    seeds = np.concatenate([[made.num_seeds_V.max()], np.maximum(made.num_seeds_V, 1)])
    fit = fit_model(family.operations, values, seeds, original, level, *deviation_of(made))
    if fit is None:
        return None
    weights_FV = fit.inverse_FV[1:, 1:] * np.sqrt(seeds[1:])
    low_F, high_F = _ends(fit, weights_FV, made, confidence)
    # what flatters a variant flatters the effects that it counts in
    lost_F = (np.abs(weights_FV) > _CONFOUNDED) @ np.asarray(family.has_lost[1:], float) > 0
    effects = tuple(
        Effect(
            *feature,
            float(fit.found_F[i + 1]),
            _known(low_F[i]),
            _known(high_F[i]),
            withhold(
                decide(low_F[i], high_F[i], margin),
                lost=bool(lost_F[i]),
                baseline_lost=bool(family.has_lost[0]),
            ),
        )
        for i, feature in enumerate(fit.features)
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


def _ends(
    fit: Fit, weights_FV: np.ndarray, made: Estimate, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the intervals of all effects; NaN where nothing tells them.

    Args:
        fit: The fitted model.
        weights_FV: What each difference counts in each effect.
        made: The differences.
        confidence: That all intervals hold at once.
    """
    number = len(fit.features)
    only_F = np.abs(weights_FV).argmax(axis=1)
    if np.allclose(weights_FV, np.eye(weights_FV.shape[1])[only_F]):
        low_V, high_V = made.ends(number, confidence)
        return low_V[only_F], high_V[only_F]
    noise, noise_df = deviation_of(made)
    misfit_df = len(fit.values_V) - len(fit.found_F)
    of_images_F = _variances(weights_FV, np.nan_to_num(made.image_errors_V))
    with np.errstate(invalid="ignore", divide="ignore"):
        if noise_df or not misfit_df:
            scale = fit.variance / noise**2 if fit.variance and noise else 1.0
            of_seeds_F = scale * _variances(weights_FV, np.nan_to_num(made.seed_errors_V))
            shares_FV = np.abs(weights_FV) / np.abs(weights_FV).sum(axis=1, keepdims=True)
            is_known_F = ((shares_FV < _CONFOUNDED) | (made.df > 0)).all(axis=1)
            own_df_V = made.df if made.population == "images" else made.seed_df_V
            df_F = np.where(is_known_F, shares_FV @ np.minimum(own_df_V, _MANY) + misfit_df, 0)
        else:  # what is left unexplained has the noise of single seeds in it
            of_seeds_F = (fit.variance or 0.0) * np.sum(fit.inverse_FV[1:] ** 2, axis=1)
            df_F = np.full(number, float(misfit_df))
        total_F = of_seeds_F + of_images_F
        shares_F = np.nan_to_num(of_seeds_F / total_F)
        total_df_F = np.where(shares_F > 0, df_F / shares_F**2, df_F)
    # no narrower than for the seeds alone, although images make the error better known
    halves_F = np.fmax(
        critical_values(number, total_df_F, shares_F / 2, confidence) * np.sqrt(total_F),
        critical_values(number, df_F, np.full(number, 0.5), confidence) * np.sqrt(of_seeds_F),
    )
    halves_F = np.where(df_F > 0, halves_F, np.nan)
    return fit.found_F[1:] - halves_F, fit.found_F[1:] + halves_F


def _variances(weights_FV: np.ndarray, errors_V: np.ndarray) -> np.ndarray:
    """Variances of sums of differences, half of whose variance is that of their reference."""
    parts_FV = weights_FV * errors_V
    return np.asarray((np.sum(parts_FV**2, axis=1) + parts_FV.sum(axis=1) ** 2) / 2)


def _known(value: float) -> float | None:
    return None if value != value else float(value)


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
        operations: What stands at every site, by address, of every variant.
        accuracies: Mean accuracy of each in percent.
        num_seeds: Of each; the weights of the fit.
        original: What stands at the sites of the unsubstituted backbone.
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
