"""Main effects: what an operation costs or gains at a place, by an additive model.

accuracy = baseline + sum over the places of the effect of what stands there + noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pfstudy.stats.additive import CONFOUNDED, Fit, Level, fit_model, share_explained
from pfstudy.stats.comparison import (
    CONFIDENCE,
    Estimate,
    Verdict,
    critical_values,
    decide,
    deviation_of,
    withhold,
)

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
        operations: The operation at every site, by address, of the reference and then the others.
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
        original: The operation of the unsubstituted backbone.
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
    lost_F = (np.abs(weights_FV) > CONFOUNDED) @ np.asarray(family.has_lost[1:], float) > 0
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
        share_explained(fit.left_V, fit.values_V),
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
            is_known_F = ((shares_FV < CONFOUNDED) | (made.df > 0)).all(axis=1)
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
