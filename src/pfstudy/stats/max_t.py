"""Largest of several t statistics: its distribution, critical values and adjusted p-values.

Variants are compared with one baseline, whose error all of their t statistics share. With the same
correlation between any two of them, two dimensions of integration are enough (Dunnett 1955,
Sec. 5); SciPy's quasi-Monte-Carlo integration over all of them takes 15 s for 40 variants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, ndtr, stdtr, stdtrit

_NUM_NODES, _NUM_COARSE = 64, 40  # the latter is exact to about 1e-3
_NUM_GRID = 64
_LEVEL = 0.05
_LEAST_P = 1e-14
_FAR = 7.0
_NUM_STEPS = 40
_CLOSE = 1e-7  # relative
_NUM_DF, _NUM_SHARED = 12, 5  # nodes where many arguments are interpolated
_CHUNK = 256


def max_t_cdf(
    values: np.ndarray,
    number: int,
    df: np.ndarray | float,
    shared: np.ndarray | float = 0.5,
    num_nodes: int = _NUM_NODES,
) -> np.ndarray:
    """Probability that none of the t statistics is larger in size.

    Args:
        values: Of any shape, not negative.
        number: How many t statistics there are.
        df: Degrees of freedom of their common denominator, broadcast against ``values``; need not
            be whole.
        shared: Correlation between any two of them, which is the baseline's share of the variance
            of a difference.
        num_nodes: Of the integration, in each dimension.

    Returns:
        Of the shape of ``values``.
    """
    values, df, shared = np.broadcast_arrays(np.asarray(values, float), df, shared)
    flat = [np.ravel(each).astype(float) for each in (values, df, shared)]
    if number == 1:
        return np.asarray(2 * stdtr(flat[1], flat[0]) - 1).reshape(values.shape)
    found = np.empty(values.size)
    for start in range(0, values.size, _CHUNK):  # all at once do not fit a processor's cache
        part = slice(start, start + _CHUNK)
        found[part] = _cdf(flat[0][part], flat[1][part], flat[2][part], number, num_nodes)
    return found.reshape(values.shape)


def _cdf(
    values: np.ndarray, df: np.ndarray, shared: np.ndarray, number: int, num_nodes: int
) -> np.ndarray:
    normal_Z, normal_weights_Z = _normal_nodes(num_nodes)
    spread_XS, weights_XS = deviation_nodes(df, num_nodes)
    limit_XS1 = (values[:, None] * spread_XS)[..., None]
    own_X11 = np.sqrt(1 - shared)[:, None, None]
    shift_X1Z = np.sqrt(shared)[:, None, None] * normal_Z
    inside_XSZ = ndtr((shift_X1Z + limit_XS1) / own_X11) - ndtr((shift_X1Z - limit_XS1) / own_X11)
    inside_XS = inside_XSZ**number @ normal_weights_Z
    found: np.ndarray = (inside_XS * weights_XS).sum(axis=-1)
    return np.asarray(np.clip(found, 0, 1))


def adjusted_p_values(
    statistics: np.ndarray, number: int, df: np.ndarray | float, shared: np.ndarray | float = 0.5
) -> np.ndarray:
    """Probability that the largest of the t statistics is at least as large in size.

    Args:
        statistics: t statistics.
        number: How many variants are compared at once.
        df: As in `max_t_cdf`.
        shared: Likewise.
    """
    sizes, df, shared = np.broadcast_arrays(
        np.abs(statistics), np.asarray(df, float), np.asarray(shared, float)
    )
    if sizes.size <= _NUM_GRID or np.ptp(df) or np.ptp(shared):
        return np.asarray(1 - max_t_cdf(sizes, number, df, shared, _NUM_COARSE))
    # interpolated over what each would have alone: log(-log(1 - p)) is almost a straight line in
    # its logarithm; exact where an interval begins to leave out 0
    one_df, one_share = float(df.flat[0]), float(shared.flat[0])
    own = np.log(np.maximum(2 * stdtr(one_df, -sizes), _LEAST_P))
    critical = float(max_t_quantile(1 - _LEVEL, number, one_df, one_share))
    nodes = np.linspace(own.min(), own.max(), _NUM_GRID)
    values = -stdtrit(one_df, np.exp(nodes) / 2)
    inside = max_t_cdf(values, number, one_df, one_share, _NUM_COARSE)
    logs = np.log(-np.log(np.clip(inside, _LEAST_P, 1 - _LEAST_P)))
    at = np.log(2 * stdtr(one_df, -critical))
    below = np.searchsorted(nodes, at)
    logs = np.insert(logs, below, np.log(-np.log1p(-_LEVEL)))
    return np.asarray(-np.expm1(-np.exp(np.interp(own, np.insert(nodes, below, at), logs))))


def max_t_quantile(
    confidence: float, number: int, df: np.ndarray | float, shared: np.ndarray | float = 0.5
) -> np.ndarray:
    """Two-sided critical value of the largest of the t statistics.

    Many different arguments are interpolated from few: the logarithm of the critical value is
    smooth in 1 / df and in the correlation. That is exact to about 1e-4 of it.

    Args:
        confidence: Such as 0.95.
        number: How many variants are compared at once.
        df: As in `max_t_cdf`.
        shared: Likewise.

    Returns:
        Of the shape that ``df`` and ``shared`` have together.
    """
    df, shared = np.broadcast_arrays(np.asarray(df, float), np.asarray(shared, float))
    if number == 1:
        return np.asarray(stdtrit(df, (1 + confidence) / 2))
    inverse, share = np.ravel(1 / df), np.ravel(shared)

    def log_quantile(inverse: np.ndarray, share: np.ndarray) -> np.ndarray:
        pairs = zip(inverse.tolist(), share.tolist(), strict=True)
        return np.log([_quantile(confidence, number, *pair) for pair in pairs])

    (inverse_X, share_X), index = np.unique(
        np.round([inverse, share], 12), axis=1, return_inverse=True
    )
    if len(inverse_X) <= _NUM_DF * _NUM_SHARED:
        logs = log_quantile(inverse_X, share_X)[np.ravel(index)]
    else:
        logs = _interpolate(log_quantile, (inverse, share), (_NUM_DF, _NUM_SHARED))
    return np.asarray(np.exp(logs).reshape(df.shape))


@lru_cache(maxsize=4096)
def _quantile(confidence: float, number: int, inverse: float, shared: float) -> float:
    df = np.array([1 / inverse if inverse else np.inf])

    def excess_at(log_value: float) -> float:
        beyond = 1 - float(max_t_cdf(np.exp([log_value]), number, df, shared)[0])
        return float(np.log(max(beyond, _LEAST_P) / (1 - confidence)))

    low = float(np.log(stdtrit(df, (1 + confidence) / 2)[0]))  # that of one
    high = float(np.log(stdtrit(df, 1 - (1 - confidence) / 2 / number)[0])) + 1e-3  # Bonferroni's
    above, below, found = excess_at(low), excess_at(high), high
    was_above = None
    # false position on logarithms, where an end that stays counts half (Dowell and Jarratt 1971);
    # scipy.optimize takes longer to import than this does
    for _ in range(_NUM_STEPS):
        found = high - below * (high - low) / (below - above)
        excess = excess_at(found)
        if abs(excess) < _CLOSE or high - low < _CLOSE:
            break
        if excess > 0:
            low, above = found, excess
            below /= 2 if was_above else 1
        else:
            high, below = found, excess
            above /= 2 if was_above is False else 1
        was_above = excess > 0
    return float(np.exp(found))


def _interpolate(
    function: Callable[..., np.ndarray],
    arguments: Sequence[np.ndarray],
    counts: Sequence[int],
) -> np.ndarray:
    """Interpolate a smooth function between Chebyshev's nodes (Trefethen 2013, Ch. 5).

    Args:
        function: Of arrays, to an array.
        arguments: ``(X,)`` each.
        counts: Number of nodes for each argument.
    """
    axes = [_nodes(values, count) for values, count in zip(arguments, counts, strict=True)]
    grid = np.meshgrid(*axes, indexing="ij")
    found = function(*(each.ravel() for each in grid)).reshape(1, *grid[0].shape)
    for axis, values in zip(axes, arguments, strict=True):
        weights = _barycentric(axis, values)
        found = np.einsum(
            "xn,xn...->x...", weights, np.broadcast_to(found, (len(values), *found.shape[1:]))
        )
    return np.asarray(found)


def _nodes(values: np.ndarray, number: int) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if high - low < 1e-9:
        return np.array([low])
    points = np.cos(np.pi * np.arange(number) / (number - 1))
    return (low + high) / 2 + (high - low) / 2 * points


def _barycentric(nodes: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What each node counts at each value: ``(X, nodes)``."""
    if len(nodes) == 1:
        return np.ones((len(values), 1))
    signs = (-1.0) ** np.arange(len(nodes))
    signs[[0, -1]] /= 2
    away = values[:, None] - nodes
    is_node = away == 0
    terms = signs / np.where(is_node, 1, away)
    terms = np.where(is_node.any(axis=1, keepdims=True), is_node, terms)
    weights: np.ndarray = terms / terms.sum(axis=1, keepdims=True)
    return weights


def deviation_nodes(
    df: np.ndarray | float, num_nodes: int = _NUM_NODES
) -> tuple[np.ndarray, np.ndarray]:
    """Values of an estimated standard deviation over the true one, and their probabilities.

    Args:
        df: ``(X,)``, degrees of freedom of the estimate; infinite for an exact one.
        num_nodes: How many.

    Returns:
        Both ``(X, S)``.
    """
    df_X1 = np.minimum(np.atleast_1d(np.asarray(df, float)), 1e7)[:, None]
    nodes_S, weights_S = _legendre(num_nodes)
    # over the logarithm: the density of a few degrees of freedom has a long tail towards 0
    spread_X1 = 1 / np.sqrt(2 * df_X1)
    low_X1 = np.maximum(-9.0 * spread_X1, -40.0 / df_X1) - 9.0 * spread_X1
    high_X1 = np.minimum(9.0 * spread_X1, np.log1p(6.0 * spread_X1) + 2 * spread_X1)
    half_X1 = (high_X1 - low_X1) / 2
    logs_XS = (high_X1 + low_X1) / 2 + half_X1 * nodes_S
    density_XS = np.exp(
        np.log(2)
        + df_X1 / 2 * np.log(df_X1 / 2)
        - gammaln(df_X1 / 2)
        + df_X1 * logs_XS
        - df_X1 / 2 * np.exp(2 * logs_XS)
    )
    weights_XS = density_XS * half_X1 * weights_S
    return np.exp(logs_XS), weights_XS / weights_XS.sum(axis=1, keepdims=True)


def _normal_nodes(number: int) -> tuple[np.ndarray, np.ndarray]:
    nodes, weights = _legendre(number)
    points = _FAR * nodes
    return points, _FAR * weights * np.exp(-(points**2) / 2) / np.sqrt(2 * np.pi)


@lru_cache(maxsize=2)
def _legendre(number: int) -> tuple[np.ndarray, np.ndarray]:
    return np.polynomial.legendre.leggauss(number)
