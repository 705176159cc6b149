"""Dunnett's test: many treatments against one control, with a pooled variance.

SciPy has it as `scipy.stats.dunnett`, by quasi-Monte-Carlo integration over as many dimensions as
there are treatments: 15 s for 40. The correlations have product form, so that two dimensions do
(Dunnett 1955, Sec. 5); the two agree in the tests.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.special import chdtri, ndtr, stdtrit

_NUM_NORMAL = 64
_NUM_CHI = 48
_NUM_GRID = 96
_FAR = 7.0
_TINY = 1e-9
_NUM_SECTIONS = 16
_NUM_REFINEMENTS = 5  # the quantile to a millionth


def max_t_quantile(confidence: float, sizes: Sequence[int], control: int, df: int) -> float:
    """Two-sided critical value of the largest of the treatments' t statistics.

    Args:
        confidence: Such as 0.95.
        sizes: Observations of every treatment.
        control: Observations of the control.
        df: Degrees of freedom of the pooled variance.
    """
    lowest = float(stdtrit(df, (1 + confidence) / 2))  # that of one treatment
    highest = float(stdtrit(df, 1 - (1 - confidence) / 2 / len(sizes))) + _TINY  # Bonferroni's

    if len(sizes) == 1:
        return lowest
    for _ in range(_NUM_REFINEMENTS):  # scipy.optimize takes longer to import than this does
        grid = np.linspace(lowest, highest, _NUM_SECTIONS + 1)
        above = int(np.searchsorted(max_t_cdf(grid, sizes, control, df), confidence))
        above = min(max(above, 1), _NUM_SECTIONS)
        lowest, highest = float(grid[above - 1]), float(grid[above])
    return (lowest + highest) / 2


def adjusted_p_values(
    statistics: np.ndarray, sizes: Sequence[int], control: int, df: int
) -> np.ndarray:
    """Probability that the largest t statistic is at least as large in size: ``(V,)``.

    Args:
        statistics: ``(V,)``, t statistics.
        sizes: Observations of every treatment.
        control: Observations of the control.
        df: Degrees of freedom of the pooled variance.
    """
    values = np.abs(statistics)
    if len(values) <= _NUM_GRID:
        exact: np.ndarray = np.clip(1 - max_t_cdf(values, sizes, control, df), 0, 1)
        return exact
    grid = np.linspace(0, values.max(), _NUM_GRID)
    logs = np.log(np.maximum(1 - max_t_cdf(grid, sizes, control, df), 1e-15))
    interpolated: np.ndarray = np.exp(np.interp(values, grid, logs))
    return interpolated


def max_t_cdf(values: np.ndarray, sizes: Sequence[int], control: int, df: int) -> np.ndarray:
    """Probability that no treatment's t statistic is larger in size: ``(V,)`` of ``(V,)``."""
    normal_Z, weights_Z = _normal_nodes()
    spread_S, weights_S = deviation_nodes(df)
    inside_VSZ = np.ones((len(values), _NUM_CHI, _NUM_NORMAL))
    for size, number in zip(*np.unique(sizes, return_counts=True), strict=True):
        shared = np.sqrt(size / (size + control))
        own = np.sqrt(1 - shared**2)
        limit_VS1 = (values[:, None] * spread_S)[..., None]
        upper, lower = (ndtr((shared * normal_Z + sign * limit_VS1) / own) for sign in (1, -1))
        inside_VSZ *= (upper - lower) ** number
    result: np.ndarray = inside_VSZ @ weights_Z @ weights_S
    return result


def deviation_nodes(df: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of an estimated standard deviation over the true one ``(S,)``, and their weights."""
    nodes, weights = _uniform_nodes()
    return np.sqrt(chdtri(df, 1 - nodes) / df), weights


@lru_cache(maxsize=1)
def _normal_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_NORMAL)
    points = _FAR * nodes
    return points, _FAR * weights * np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=1)
def _uniform_nodes() -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = np.polynomial.legendre.leggauss(_NUM_CHI)
    return (nodes + 1) / 2, weights / 2
