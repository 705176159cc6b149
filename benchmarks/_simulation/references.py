"""Earlier procedures to compare with, for families of ``(F, G, S)`` accuracies without gaps.

All of them ignore that runs share seeds. Each returns lower and upper ends, ``(F, V)``, of
intervals that are meant to hold at once with 95 %.
"""

from __future__ import annotations

import numpy as np
from scipy.special import chdtrc, stdtrit

from pfstudy.stats.comparison import CONFIDENCE
from pfstudy.stats.max_t import max_t_quantile

Ends = tuple[np.ndarray, np.ndarray]

_CLEARLY = 0.05


def dunnett(accuracies_FGS: np.ndarray) -> Ends:
    """Dunnett's test: the variance is pooled over the baseline and all variants."""
    num_members, num_seeds = accuracies_FGS.shape[1:]
    pooled_F1 = accuracies_FGS.var(axis=-1, ddof=1).mean(axis=-1, keepdims=True)
    df = num_members * (num_seeds - 1)
    critical = float(max_t_quantile(CONFIDENCE, num_members - 1, df, 0.5))
    return _ends(accuracies_FGS, critical * np.sqrt(2 * pooled_F1 / num_seeds))


def welch(accuracies_FGS: np.ndarray) -> Ends:
    """Welch's test with Bonferroni's correction: no variance is pooled."""
    num_members, num_seeds = accuracies_FGS.shape[1:]
    parts_FG = accuracies_FGS.var(axis=-1, ddof=1) / num_seeds
    sum_FV = parts_FG[:, 1:] + parts_FG[:, :1]
    df_FV = sum_FV**2 * (num_seeds - 1) / (parts_FG[:, 1:] ** 2 + parts_FG[:, :1] ** 2)
    tail = (1 - CONFIDENCE) / 2 / (num_members - 1)
    return _ends(accuracies_FGS, stdtrit(df_FV, 1 - tail) * np.sqrt(sum_FV))


def pretested(accuracies_FGS: np.ndarray) -> Ends:
    """Dunnett's test, or Welch's if Bartlett's finds that variances differ (p < 0.05)."""
    num_members, num_seeds = accuracies_FGS.shape[1:]
    df = num_seeds - 1
    variances_FG = accuracies_FGS.var(axis=-1, ddof=1)
    logs_F = np.log(variances_FG.mean(axis=-1)) - np.log(variances_FG).mean(axis=-1)
    correction = 1 + (num_members / df - 1 / (num_members * df)) / (3 * (num_members - 1))
    p_F = chdtrc(num_members - 1, num_members * df * logs_F / correction)
    differ_F1 = (p_F < _CLEARLY)[:, None]
    pairs = zip(dunnett(accuracies_FGS), welch(accuracies_FGS), strict=True)
    low_FV, high_FV = (np.where(differ_F1, apart, pooled) for pooled, apart in pairs)
    return low_FV, high_FV


def _ends(accuracies_FGS: np.ndarray, halves_FV: np.ndarray) -> Ends:
    means_FG = accuracies_FGS.mean(axis=-1)
    differences_FV = means_FG[:, 1:] - means_FG[:, :1]
    return differences_FV - halves_FV, differences_FV + halves_FV
