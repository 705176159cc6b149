"""How many seeds would tell a difference from none?"""

from __future__ import annotations

from scipy.special import chdtri, ndtr, stdtrit

from pfstudy.stats.comparison import CONFIDENCE
from pfstudy.stats.dunnett import deviation_nodes

MOST_SEEDS = 1000
_LIKELY = 0.8


def seeds_needed(
    difference: float, deviation: float, num_variants: int, power: float = 0.8
) -> int | None:
    """The least number of seeds per variant with which a difference is found, most likely.

    Two-sided, with a variance that is pooled over all variants and the baseline. The critical
    value is Bonferroni's, which is at most a few per cent above Dunnett's.

    Args:
        difference: True difference to the baseline in points.
        deviation: Standard deviation between seeds in points.
        num_variants: Variants that are compared with the baseline at once.
        power: Probability with which it is to be found.

    Returns:
        ``None`` if more than `MOST_SEEDS`.
    """
    if difference == 0:
        return None
    low, high = 2, MOST_SEEDS
    if _power(high, difference, deviation, num_variants) < power:
        return None
    while low < high:
        middle = (low + high) // 2
        if _power(middle, difference, deviation, num_variants) >= power:
            high = middle
        else:
            low = middle + 1
    return low


def upper_deviation(deviation: float, df: int) -> float:
    """What the true deviation is below with a probability of 80 % (Browne 1995)."""
    return float(deviation * (df / chdtri(df, _LIKELY)) ** 0.5)


def _power(number: int, difference: float, deviation: float, num_variants: int) -> float:
    if deviation == 0:
        return 1.0
    df = (num_variants + 1) * (number - 1)
    critical = float(stdtrit(df, 1 - (1 - CONFIDENCE) / 2 / num_variants))
    shift = abs(difference) / (deviation * (2 / number) ** 0.5)
    # noncentral t, integrated over the deviation: scipy's nctdtr is NaN for large shifts
    spread_S, weights_S = deviation_nodes(df)
    missed_S = ndtr(critical * spread_S - shift) - ndtr(-critical * spread_S - shift)
    return float(1 - missed_S @ weights_S)
