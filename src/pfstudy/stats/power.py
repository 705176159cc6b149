"""How many seeds would decide?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, ndtr, ndtri

from pfstudy.stats.comparison import CONFIDENCE, moderated_df
from pfstudy.stats.max_t import deviation_nodes, max_t_quantile

MOST_SEEDS = 1000
_LIKELY = 0.8
_MANY = 1e6


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


def least_distance(spread: Spread, power: float = 0.8) -> float:
    """The distance in points that any number of seeds decides about: what test images leave."""
    critical = float(max_t_quantile(spread.confidence, spread.num_variants, np.inf, 0.0))
    return (critical + float(ndtri(power))) * spread.images


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
    own_df = float(moderated_df(num_seeds - 1, spread.num_variants))
    # no narrower than for new trainings alone; see `Estimate.ends`
    chances = [_chance(distance, error, of_seeds**0.5, own_df, 1.0, spread)]
    if of_images:
        chances.append(_chance(distance, error, error, own_df / share**2, share, spread))
    return min(chances)


def _chance(
    distance: float, error: float, estimated: float, df: float, share: float, spread: Spread
) -> float:
    """Noncentral t, integrated over the estimated deviation.

    Args:
        distance: In points.
        error: Standard error of the difference.
        estimated: The part of it that the interval is made of.
        df: Degrees of freedom that this is known with.
        share: What part of its variance comes from seeds.
        spread: What the error comes from.
    """
    df, share = float(f"{min(df, _MANY):.3g}"), round(share, 2)  # one critical value for many
    critical = float(max_t_quantile(spread.confidence, spread.num_variants, df, share / 2))
    spread_1S, weights_1S = deviation_nodes(df)
    found = ndtr((abs(distance) - critical * estimated * spread_1S) / error) * weights_1S
    return float(found.sum())


def upper_deviation(deviation: float, df: float) -> float:
    """What the true deviation is below with a probability of 80 % (Browne 1995)."""
    return float(deviation * (df / chdtri(df, _LIKELY)) ** 0.5)
