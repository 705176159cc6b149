"""Predictions by an additive model of networks that were never trained, and how sure they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from pfstudy.stats.additive import Fit, fit_model, make_design
from pfstudy.stats.comparison import CONFIDENCE
from pfstudy.stats.ranking import kendall

Networks = Sequence[Mapping[str, str]]
"""What stands at every site, by its address, of every network."""


@dataclass(frozen=True)
class Predicted:
    """What is predicted of networks.

    Attributes:
        values_V: The figures.
        half_widths_V: Half of each one's 95 % interval; ``None`` if nothing tells that.
    """

    values_V: np.ndarray
    half_widths_V: np.ndarray | None


@dataclass(frozen=True)
class Predictor:
    """Predicts accuracies by what operations do at single sites.

    The variance of what a network that was not trained will have, as the mean of K seeds, is

        error variance * x' C x  +  what combinations were off beyond that  +  noise of K seeds

    with its effects x and their covariance C at an error variance of 1.

    Attributes:
        original: What stands at the sites of the baseline.
        fit: The fitted model.
        beyond: Variance of what effects do not add up to.
        beyond_df: Number of combinations that it is known by.
        noise: Variance between seeds; 0 if it is not known, and is in ``beyond`` then.
        noise_df: Degrees of freedom that it is known with.
    """

    original: str
    fit: Fit
    beyond: float
    beyond_df: int
    noise: float
    noise_df: float

    @property
    def baseline(self) -> float:
        """The accuracy of the baseline, by the model."""
        return float(self.fit.found_F[0])

    def effect(self, place: str, operation: str) -> tuple[float, float | None]:
        """What an operation does at a site, and half of its 95 % interval, by itself."""
        index = 1 + self.fit.features.index((place, operation))
        value = float(self.fit.found_F[index])
        if self.fit.variance is None:
            return value, None
        error = np.sqrt(self.fit.variance * np.sum(self.fit.inverse_FV[index] ** 2))
        return value, float(stdtrit(self.fit.df, _UPPER) * error)

    def predict(self, networks: Networks, num_seeds: int) -> Predicted:
        """Predict what networks have as the mean of so many seeds."""
        return self._predicted(self._design(networks), num_seeds)

    def predict_differences(self, networks: Networks, num_seeds: int) -> Predicted:
        """Predict by how much networks differ from the baseline, which is known by the model."""
        design_VF = self._design(networks)
        design_VF[:, 0] = 0
        return self._predicted(design_VF, num_seeds)

    def _design(self, networks: Networks) -> np.ndarray:
        return make_design(networks, self.fit.features, self.original, "block")

    def _predicted(self, design_VF: np.ndarray, num_seeds: int) -> Predicted:
        values_V = design_VF @ self.fit.found_F
        if self.fit.variance is None:
            return Predicted(values_V, None)
        of_effects_V = self.fit.variance * np.sum((design_VF @ self.fit.inverse_FV) ** 2, axis=1)
        replaced_V = (design_VF[:, 1:] != 0).any(axis=1)
        own_V = self.beyond * (replaced_V | (self.noise_df == 0))  # the noise is in it then
        noise_V = np.full(len(values_V), self.noise / num_seeds)
        total_V = of_effects_V + own_V + noise_V
        # Welch and Satterthwaite's degrees of freedom of a sum of variances
        parts = [(of_effects_V, self.fit.df), (own_V, self.beyond_df), (noise_V, self.noise_df)]
        if np.isclose(self.fit.variance, self.noise):  # both are known by the seeds
            parts = [(of_effects_V + noise_V, self.noise_df), (own_V, self.beyond_df)]
        squares_V = np.sum([part**2 / max(df, 1) for part, df in parts], axis=0)
        df_V = np.where(squares_V > 0, total_V**2 / np.where(squares_V > 0, squares_V, 1), 1)
        return Predicted(values_V, stdtrit(df_V, _UPPER) * np.sqrt(total_V))

    def draw_effects(self, number: int, seed: int) -> np.ndarray | None:
        """Draw the effects from what is known of them.

        Returns:
            ``(number, F)``, in the order of ``fit.features``; ``None`` if nothing tells how sure
            they are.
        """
        if self.fit.variance is None:
            return None
        generator = np.random.default_rng(seed)
        normal_NV = generator.standard_normal((number, self.fit.inverse_FV.shape[1]))
        scale_N = np.sqrt(self.fit.df / generator.chisquare(self.fit.df, number))
        spread_NF = normal_NV @ self.fit.inverse_FV.T * np.sqrt(self.fit.variance)
        drawn_NF: np.ndarray = (self.fit.found_F + scale_N[:, None] * spread_NF)[:, 1:]
        return drawn_NF

    def rank_correlation(self) -> tuple[float, float] | None:
        """Kendall's tau of the combinations that were held out, and its p-value.

        Returns:
            ``None`` if they are too few, or all the same.
        """
        held = self.fit.held_out
        return kendall(held.measured, held.predicted) if held.is_enough else None


_UPPER = (1 + CONFIDENCE) / 2


def fit_predictor(
    networks: Networks,
    accuracies: Sequence[float],
    num_seeds: Sequence[int],
    original: str,
    deviation: float = 0.0,
    deviation_df: float = 0,
) -> Predictor | None:
    """Fit an additive model with an effect of every operation at every site.

    Args:
        networks: The variants.
        accuracies: Mean accuracy of each in percent.
        num_seeds: Of each; the weights of the fit.
        original: What stands at the sites of the baseline.
        deviation: Standard deviation between seeds in points, pooled over the variants.
        deviation_df: Degrees of freedom that it is known with; 0 if it is not.

    Returns:
        ``None`` if the variants cannot tell the effects apart.
    """
    fit = fit_model(networks, accuracies, num_seeds, original, "block", deviation, deviation_df)
    if fit is None:
        return None
    noise = deviation**2 if deviation_df else 0.0
    seeds_V = np.asarray(num_seeds, float)
    beyond = max(fit.misfit - noise, 0.0) / float(np.median(seeds_V))
    beyond_df = len(fit.values_V) - len(fit.found_F)
    held = fit.held_out
    if held.is_enough and fit.variance is not None:
        expected = fit.variance * held.leverages + noise / seeds_V[held.indices]
        off = float(np.mean((held.measured - held.predicted) ** 2 - expected))
        if off > beyond:
            beyond, beyond_df = off, len(held.measured)
    return Predictor(original, fit, beyond, beyond_df, noise, deviation_df)
