"""How many seeds would decide?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, ndtr

from pfstudy.stats.comparison import CONFIDENCE, moderated_df
from pfstudy.stats.max_t import deviation_nodes, max_t_quantile

MOST_SEEDS = 1000
_LIKELY = 0.8


@dataclass(frozen=True)
class Spread:
    """What the error of a difference comes from.

    Attributes:
        seeds: Standard deviation of the difference between seeds in points.
        images: Standard error from the test images in points, which no seed reduces.
        num_variants: Variants that are compared with the baseline at once.
        confidence: Of the intervals.
    """

    seeds: float
    images: float
    num_variants: int
    confidence: float = CONFIDENCE


def seeds_needed(distance: float, spread: Spread, power: float = 0.8) -> int | None:
    """The least number of seeds per variant with which an interval ends short of a distance.

    That is the number that most likely finds a true difference of that size, or, where there is no
    difference, shows that the loss is below a margin of that size.

    Args:
        distance: From the true difference to what the interval must leave out, in points.
        spread: What the error comes from.
        power: Probability with which it is to be left out.

    Returns:
        ``None`` if more than `MOST_SEEDS`.
    """
    low, high = 2, MOST_SEEDS
    if power_of(high, distance, spread) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        if power_of(middle, distance, spread) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def is_limited_by_images(distance: float, spread: Spread, power: float = 0.8) -> bool:
    """Whether no number of seeds is enough, as the test images are too few."""
    return power_of(MOST_SEEDS * MOST_SEEDS, distance, spread) < power


def power_of(num_seeds: int, distance: float, spread: Spread) -> float:
    """Probability that an interval leaves out what is so far from the true difference.

    Args:
        num_seeds: Of each variant and the baseline.
        distance: In points.
        spread: What the error comes from.
    """
    of_seeds, of_images = spread.seeds**2 / num_seeds, spread.images**2
    error = float(np.sqrt(of_seeds + of_images))
    if not error:
        return 1.0
    share = of_seeds / error**2
    df = moderated_df(num_seeds - 1, spread.num_variants) / max(share, 1e-6) ** 2
    df = float(f"{df:.3g}")  # so that critical values are computed once for many variants
    share = round(share, 2)
    critical = float(max_t_quantile(spread.confidence, spread.num_variants, df, share / 2))
    # noncentral t, integrated over the estimated deviation
    spread_1S, weights_1S = deviation_nodes(df)
    found: float = (ndtr(abs(distance) / error - critical * spread_1S) * weights_1S).sum()
    return found


def upper_deviation(deviation: float, df: float) -> float:
    """What the true deviation is below with a probability of 80 % (Browne 1995)."""
    return float(deviation * (df / chdtri(df, _LIKELY)) ** 0.5)
