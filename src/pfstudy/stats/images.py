"""Test images as a source of error: how far a paired difference may be off for other images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_NUM_HALVINGS = 50
_MOST_CORRECTED = 1.5
_LEAST = 1e-12


@dataclass(frozen=True)
class ImageNoise:
    """What test images contribute to the error of differences, in squared points.

    Attributes:
        total_V: Variance of the mean over images of what a variant gains at each, the noise of the
            seeds at hand included.
        residual_V: The part of it that comes from seeds and images together, and that the spread
            between seeds has in it as well; NaN of one seed, where it cannot be separated.
        gained_V: Images that a variant alone has right; of several seeds, as many as have the same
            mean and variance if each counts as `unit_V`.
        lost_V: Images that the baseline alone has right, likewise.
        unit_V: What an image counts: the share of the seeds in which it typically changes.
        num_images: Number of test images.
    """

    total_V: np.ndarray
    residual_V: np.ndarray
    gained_V: np.ndarray
    lost_V: np.ndarray
    unit_V: np.ndarray
    num_images: int

    def ends(self, quantile: float) -> tuple[np.ndarray, np.ndarray]:
        """Both ends of score intervals of the difference, in points."""
        low_V, high_V = score_interval(self.gained_V, self.lost_V, self.num_images, quantile)
        return self.unit_V * low_V, self.unit_V * high_V

    def scores(self) -> np.ndarray:
        """Score statistics of no difference, which are McNemar's without correction (1947)."""
        changed_V = self.gained_V + self.lost_V
        score_V = (self.gained_V - self.lost_V) / np.sqrt(np.where(changed_V > 0, changed_V, 1))
        return np.asarray(score_V)


def image_noise(correct_VSN: np.ndarray, baseline_VSN: np.ndarray) -> ImageNoise:
    """Split what variants gain and lose at each image into images, seeds and the rest.

    That is a two-way analysis of variance of ``variant - baseline``, which is -1, 0 or 1 for each
    seed and image. Half a gained and half a lost image are added for each variant (Agresti and Min
    2005), so that no error is 0 because nothing changed.

    Args:
        correct_VSN: ``(..., S, N)``, whether a variant has an image right with a seed.
        baseline_VSN: The same of the baseline with the same seeds; broadcast.

    Returns:
        Arrays of the leading shape.
    """
    change_VSN = correct_VSN.astype(np.int8) - baseline_VSN.astype(np.int8)
    *_, num_seeds, num_images = change_VSN.shape
    changed_V = np.count_nonzero(change_VSN, axis=(-2, -1)).astype(float)
    by_image_VN = change_VSN.sum(axis=-2, dtype=np.int16).astype(np.float32)
    by_seed_VS = change_VSN.sum(axis=-1, dtype=np.int64).astype(float)
    sum_V = by_seed_VS.sum(axis=-1)
    squares_V = np.einsum("...n,...n->...", by_image_VN, by_image_VN, dtype=float)
    total_V = _mean_variance(sum_V / num_seeds, squares_V / num_seeds**2, num_images)
    residual_V = np.full_like(total_V, np.nan)
    if num_seeds > 1:
        middle_V = sum_V**2 / (num_seeds * num_images)
        of_images_V = squares_V / num_seeds - middle_V
        of_seeds_V = (by_seed_VS**2).sum(axis=-1) / num_images - middle_V
        left_V = changed_V - middle_V - of_images_V - of_seeds_V
        mean_square_V = left_V / ((num_seeds - 1) * (num_images - 1))
        residual_V = 1e4 * np.maximum(mean_square_V, 0) / (num_seeds * num_images)
    sizes_V = np.abs(by_image_VN).sum(axis=-1, dtype=float)
    unit_V = np.where(sizes_V > 0, squares_V / np.where(sizes_V > 0, sizes_V, 1), 1) / num_seeds
    unit_V = np.where(sizes_V > 0, unit_V, 1.0)
    gained_V, lost_V = ((sizes_V + sign * sum_V) / 2 / num_seeds / unit_V for sign in (1, -1))
    return ImageNoise(1e4 * total_V, residual_V, gained_V, lost_V, unit_V, num_images)


def _mean_variance(sum_V: np.ndarray, squares_V: np.ndarray, number: int) -> np.ndarray:
    """Variance of a mean over images, with two images more, half of each gained and lost."""
    more = number + 2
    return np.asarray(((squares_V + 1) / more - (sum_V / more) ** 2) / more)


def score_interval(
    gained: np.ndarray, lost: np.ndarray, number: int, quantile: np.ndarray | float
) -> tuple[np.ndarray, np.ndarray]:
    """Score interval of the difference of two paired proportions, in points.

    It has the differences that a score test does not reject, with the variance that would hold if
    each of them were true (Tango 1998), so it covers where many more images are lost than gained.
    Far out in the tails of few changes the score is skewed; a difference that is rejected for
    that reason alone, by Gart and Nam's correction (1988), belongs to the interval as well. At no
    difference nothing is skewed, so the interval leaves 0 out where McNemar's test rejects it.

    Args:
        gained: Images that the second classifier alone has right; any shape.
        lost: Images that the first one alone has right.
        number: Number of images.
        quantile: Critical value of the score statistic, such as 1.96.

    Returns:
        Both ends.
    """
    gained, lost, quantile = np.broadcast_arrays(
        np.asarray(gained, float), np.asarray(lost, float), quantile
    )
    estimate = (gained - lost) / number
    ends = []
    for limit in (-1.0, 1.0):
        inside, outside = estimate.copy(), np.full(estimate.shape, limit)
        for _ in range(_NUM_HALVINGS):
            middle = (inside + outside) / 2
            score, skewness = _score(gained, lost, number, middle)
            corrected = np.abs(score - skewness * (score**2 - 1) / 6)
            score = np.abs(score)
            is_inside = (score <= quantile) | (
                (score <= _MOST_CORRECTED * quantile) & (corrected <= quantile)
            )
            inside = np.where(is_inside, middle, inside)
            outside = np.where(is_inside, outside, middle)
        ends.append(100 * outside)
    return ends[0], ends[1]


def _score(
    gained: np.ndarray, lost: np.ndarray, number: int, delta: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score statistic of a difference and its skewness; the most likely share is lost at it."""
    linear = -gained - lost + (2 * number - gained + lost) * delta
    constant = -lost * delta * (1 - delta)
    share = (np.sqrt(np.maximum(linear**2 - 8 * number * constant, 0)) - linear) / (4 * number)
    deviation = np.sqrt(np.maximum(number * (2 * share + delta * (1 - delta)), _LEAST))
    cube = (share + delta) * (1 - delta) ** 3 - share * (1 + delta) ** 3
    cube -= (1 - 2 * share - delta) * delta**3
    score = (gained - lost - number * delta) / deviation
    return score, number * cube / deviation**3
