"""Is a variant better than its baseline? One model behind every difference, interval and verdict.

accuracy = variant + seed + test image + what is left

Variants with the same seed share initial weights and the order of the data, so seeds are blocks:
what is compared is the difference to the baseline with the same seed. Its variance is moderated
over the family, and test images are a second source of error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.special import ndtr, ndtri

from pfstudy.stats.images import ImageNoise, image_noise
from pfstudy.stats.max_t import adjusted_p_values, max_t_quantile

CONFIDENCE = 0.95

Population = Literal["both", "seeds", "images"]
"""What a statement is about: new trainings on new images, either of them alone."""

Verdict = Literal["better", "not worse", "worse", "undecided"]
VERDICTS: tuple[Verdict, ...] = ("better", "not worse", "worse", "undecided")
DECIDED = VERDICTS[:3]

_PRIOR_WEIGHT, _MOST_PRIOR_DF = 0.5, 2.0
_SHARED = 0.5  # of the variance of a difference, that of the baseline


@dataclass(frozen=True)
class Estimate:
    """Differences of a family's variants to their baseline, and how accurate they are.

    All arrays are ``(..., V)``; the baseline is not among the variants.

    Attributes:
        differences_V: Mean over the seeds that a variant shares with the baseline, in points.
        num_seeds_V: How many these are.
        population: What the errors are about.
        seed_errors_V: Standard error that comes from the seeds, NaN where nothing tells it; 0 if
            they are no source.
        seed_df_V: Degrees of freedom of that; 0 where nothing tells it.
        image_errors_V: Standard error that comes from the test images and is not in that of the
            seeds; likewise.
        lasting_errors_V: The part of it that stays, however many seeds there are: an estimate for
            planning.
        noise: What the images contribute, where they are the only source; intervals are score
            intervals then.
    """

    differences_V: np.ndarray
    num_seeds_V: np.ndarray
    population: Population
    seed_errors_V: np.ndarray
    seed_df_V: np.ndarray
    image_errors_V: np.ndarray
    lasting_errors_V: np.ndarray
    noise: ImageNoise | None = None

    @property
    def errors(self) -> np.ndarray:
        """Standard errors of the differences; NaN where nothing tells them."""
        return np.asarray(np.sqrt(self.seed_errors_V**2 + self.image_errors_V**2))

    @property
    def df(self) -> np.ndarray:
        """Degrees of freedom of the errors (Satterthwaite 1946); 0 where nothing tells them."""
        is_known_V = np.isfinite(self.errors)
        if self.population == "images":
            return np.where(is_known_V, np.inf, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            df_V = self.seed_df_V * (self.errors / self.seed_errors_V) ** 4
        return np.where(is_known_V, df_V, 0.0)

    @property
    def shared(self) -> np.ndarray:
        """Correlation that is certain between errors of variants, through their baseline.

        Half of what comes from seeds; how far images are shared depends on which ones are lost.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            share = _SHARED * (self.seed_errors_V / self.errors) ** 2
        return np.asarray(np.nan_to_num(share))

    def ends(self, number: int, confidence: float = CONFIDENCE) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of the intervals that hold for so many variants at once.

        Those for new trainings on new images are no narrower than those for new trainings alone,
        although larger errors are known with more degrees of freedom.

        Returns:
            NaN where nothing tells how accurate a difference is.
        """
        if self.noise is not None:
            quantile = -float(ndtri((1 - confidence ** (1 / number)) / 2))  # Sidak 1967
            low_V, high_V = self.noise.ends(quantile)
            is_known_V = self.df > 0
            return np.where(is_known_V, low_V, np.nan), np.where(is_known_V, high_V, np.nan)
        halves_V = critical_values(number, self.df, self.shared, confidence) * self.errors
        if self.population == "both":
            critical_V = critical_values(number, self.seed_df_V, self._all_shared, confidence)
            halves_V = np.maximum(halves_V, critical_V * self.seed_errors_V)
        return self.differences_V - halves_V, self.differences_V + halves_V

    def p_values(self, number: int) -> np.ndarray:
        """Of no difference, adjusted for so many variants; NaN where nothing tells it."""
        found_V = np.full(self.differences_V.shape, np.nan)
        known_V = self.df > 0
        if self.noise is not None:
            alone_V = np.minimum(2 * ndtr(-np.abs(self.noise.scores())), 1 - 1e-16)
            return np.where(known_V, -np.expm1(number * np.log1p(-alone_V)), np.nan)
        difference_V = self.differences_V[known_V]
        found_V[known_V] = adjusted_p_values(
            difference_V / self.errors[known_V], number, self.df[known_V], self.shared[known_V]
        )
        if self.population == "both":
            alone_V = adjusted_p_values(
                difference_V / self.seed_errors_V[known_V],
                number,
                self.seed_df_V[known_V],
                self._all_shared[known_V],
            )
            found_V[known_V] = np.maximum(found_V[known_V], alone_V)
        return found_V

    @property
    def _all_shared(self) -> np.ndarray:
        return np.full(self.differences_V.shape, _SHARED)


def critical_values(
    number: int, df_V: np.ndarray, shared_V: np.ndarray, confidence: float = CONFIDENCE
) -> np.ndarray:
    """What errors are multiplied with, so that so many intervals hold at once.

    Each is that of the largest of ``number`` t statistics which all are like its own.
    """
    known_V = df_V > 0
    found_V = np.full(df_V.shape, np.nan)
    if known_V.any():
        found_V[known_V] = max_t_quantile(confidence, number, df_V[known_V], shared_V[known_V])
    return found_V


def decide(low: float, high: float, margin: float = 0.0) -> Verdict | None:
    """Read the verdict off an interval.

    Args:
        low: Its lower end in points; NaN if there is none.
        high: Its upper end.
        margin: A loss in points that does not matter.

    Returns:
        ``better`` above 0; ``not worse`` above minus the margin; ``worse`` below 0; or else
        ``undecided``. ``None`` without an interval.
    """
    if low != low or high != high:
        return None
    if low > 0:
        return "better"
    if margin and low > -margin:
        return "not worse"
    return "worse" if high < 0 else "undecided"


def withhold(verdict: Verdict | None, *, lost: bool, baseline_lost: bool) -> Verdict | None:
    """Take back a verdict in favour of somebody whose runs have failed.

    A training that diverges is an outcome, and perhaps the worst: the runs that are left would
    flatter the variant, or the baseline.
    """
    in_favour = verdict in ("better", "not worse")
    if (lost and in_favour) or (baseline_lost and verdict == "worse"):
        return "undecided"
    return verdict


def estimate(
    accuracies_GS: np.ndarray,
    correct: Sequence[Sequence[np.ndarray | None]] | np.ndarray | None,
    population: Population,
    resolution: float = 0.0,
) -> Estimate:
    """Estimate the differences of a family to its baseline, and their errors.

    The variance of a difference over seeds is a weighted mean of the variant's own and the
    family's mean, which counts as two seeds at most (`moderate`). For new
    trainings *and* new images, the part of the error that comes from seeds and images together is
    counted once: it is in the spread between seeds.

    Args:
        accuracies_GS: ``(..., V + 1, S)``, in percent, the baseline first; NaN where there is no
            run.
        correct: Which test images are right, of every variant and seed: ``[G][S]`` of ``(N,)``, or
            an array ``(..., V + 1, S, N)``; ``None`` where that is not known. Not needed for
            ``seeds``.
        population: What the errors are to be about.
        resolution: Step between accuracies in points: a spread below it is not seen.
    """
    paired_VS = accuracies_GS[..., 1:, :] - accuracies_GS[..., :1, :]
    num_seeds_V = np.isfinite(paired_VS).sum(axis=-1)
    differences_V, own_V = _moments(paired_VS, num_seeds_V)
    variances_V, seed_df_V = moderate(own_V, num_seeds_V - 1, resolution)
    with np.errstate(invalid="ignore", divide="ignore"):
        seed_V = np.where(seed_df_V > 0, variances_V / num_seeds_V, np.nan)
    nothing_V = np.zeros_like(differences_V)
    found = (differences_V, num_seeds_V, population)
    if population == "seeds":
        return Estimate(*found, np.sqrt(seed_V), seed_df_V, nothing_V, nothing_V)
    noise = _image_noise(correct, np.isfinite(paired_VS), differences_V.shape)
    if population == "images":
        errors_V = np.sqrt(noise.total_V)
        return Estimate(*found, nothing_V, nothing_V, errors_V, errors_V, noise)
    # no more is taken off than the seeds have of it, so that new images alone are within
    image_V = noise.total_V - np.minimum(np.nan_to_num(noise.residual_V), seed_V)
    image_V = np.maximum(image_V, 0)
    lasting_V = np.maximum(noise.total_V - np.nan_to_num(noise.residual_V), 0)
    errors = (np.sqrt(seed_V), seed_df_V, np.sqrt(image_V), np.sqrt(lasting_V))
    return Estimate(*found, *errors)


def deviation_of(made: Estimate) -> tuple[float, float]:
    """Standard deviation between seeds of one variant in points, and its degrees of freedom.

    It is the mean over a family. Half of the spread of a difference is the baseline's, so the
    estimates of several variants are correlated by a quarter: four times the degrees of freedom of
    one are the most that there are.

    Returns:
        0 and 0 if nothing tells it.
    """
    has_V = (made.num_seeds_V > 1) & (np.nan_to_num(made.seed_errors_V) > 0)
    number = int(has_V.sum())
    if not number:
        return 0.0, 0.0
    variances_V = made.seed_errors_V[has_V] ** 2 * made.num_seeds_V[has_V] / 2
    df = float(np.mean(made.num_seeds_V[has_V] - 1)) * 4 * number / (number + 3)
    return float(np.sqrt(variances_V.mean())), df


def moderated_df(df: np.ndarray | float, number: np.ndarray | float) -> Any:
    """Degrees of freedom of a moderated variance, from its own and the number of variants."""
    return df + np.minimum(_PRIOR_WEIGHT * df, _MOST_PRIOR_DF) * (1 - 1 / number)


def moderate(
    own_V: np.ndarray, own_df_V: np.ndarray, resolution: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Variances of paired differences, moderated towards the family's mean.

        (d0 * mean + d * own) / (d0 + d),   d0 = min(d / 2, 2) * (V - 1) / V

    with ``d0 + d`` degrees of freedom, as of Smyth 2004. A pooled variance is wrong for the
    variant that varies more than the others, own variances of few seeds tell little, and a test
    that chooses between the two destroys the level. ``d0`` is small, as the baseline's runs are in
    every difference, and the family's mean knows no more of their spread than each of them does.

    Args:
        own_V: ``(..., V)``, sample variances in squared points; NaN of a single seed.
        own_df_V: Their degrees of freedom.
        resolution: Step between accuracies: no variance is below that of rounding both.

    Returns:
        The variances, and their degrees of freedom; 0 where there is none.
    """
    known_V = own_df_V > 0
    own_V = np.where(known_V, np.maximum(own_V, resolution**2 / 6), 0)
    df_V = np.where(known_V, own_df_V, 0)
    number = known_V.sum(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = own_V.sum(axis=-1, keepdims=True) / number
        usual = df_V.sum(axis=-1, keepdims=True) / number
        # of one variant alone, the family's mean is its own variance
        others = np.where(known_V, number, np.inf)
        prior_V = np.nan_to_num(moderated_df(usual, others) - usual)
        variances_V = (prior_V * np.nan_to_num(mean) + df_V * own_V) / (prior_V + df_V)
    total_V = prior_V + df_V
    return variances_V, np.where(np.nan_to_num(variances_V) > 0, total_V, 0)


def _moments(paired_VS: np.ndarray, num_seeds_V: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and sample variances over the seeds that are there; NaN where there are too few."""
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_V = np.nansum(paired_VS, axis=-1) / num_seeds_V
        squares_V = np.nansum((paired_VS - mean_V[..., None]) ** 2, axis=-1)
        return mean_V, np.where(num_seeds_V > 1, squares_V / (num_seeds_V - 1), np.nan)


def _image_noise(
    correct: Sequence[Sequence[np.ndarray | None]] | np.ndarray | None,
    has_VS: np.ndarray,
    shape: tuple[int, ...],
) -> ImageNoise:
    """What images contribute; NaN of variants of which it is not known which images are right."""
    if isinstance(correct, np.ndarray):
        assert has_VS.all(), "of families at once, all have the same seeds"
        return image_noise(correct[..., 1:, :, :], correct[..., :1, :, :])
    assert len(shape) == 1, "families at once need an array"
    keys = ("total_V", "residual_V", "gained_V", "lost_V", "unit_V")
    found = {key: np.full(shape, np.nan) for key in keys}
    num_images = 0
    baseline = correct[0] if correct else []
    for seeds, variants in _by_seeds(correct, has_VS).items():
        base_SN = np.array([baseline[seed] for seed in seeds])
        num_images = base_SN.shape[-1]
        for variant in variants:  # one after the other fits a processor's cache
            own_SN = np.array([correct[variant + 1][seed] for seed in seeds])  # type: ignore[index]
            noise = image_noise(own_SN, base_SN)
            for key, values in found.items():
                values[variant] = getattr(noise, key)
    return ImageNoise(**found, num_images=num_images)


def _by_seeds(
    correct: Sequence[Sequence[np.ndarray | None]] | None, has_VS: np.ndarray
) -> dict[tuple[int, ...], list[int]]:
    """Variants by the seeds that they share with the baseline, where all images are known."""
    found: dict[tuple[int, ...], list[int]] = {}
    for variant, has_S in enumerate(has_VS):
        seeds = tuple(np.flatnonzero(has_S).tolist())
        if not correct or not seeds:
            continue
        pairs = [(correct[0][seed], correct[variant + 1][seed]) for seed in seeds]
        sizes = {None if each is None else len(each) for pair in pairs for each in pair}
        if None not in sizes and len(sizes) == 1:
            found.setdefault(seeds, []).append(variant)
    return found
