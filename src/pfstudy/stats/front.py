"""Accuracy against cost: who is on the front, how surely, and what is gained at equal cost."""

from __future__ import annotations

import numpy as np

SURE = 0.95
NUM_DRAWS = 1000
_NUM_PARTS = 10


def on_front(costs_V: np.ndarray, accuracies_V: np.ndarray) -> np.ndarray:
    """Which points no other beats: as cheap and as accurate, and better in one of them.

    Args:
        costs_V: ``(V,)`` or ``(D, V)``; less is better.
        accuracies_V: Of the same shape; more is better.

    Returns:
        Of the same shape, whether each point is on the front of its row.
    """
    costs, accuracies = np.atleast_2d(costs_V), np.atleast_2d(accuracies_V)
    order = np.lexsort((-accuracies, costs), axis=-1)
    found = _first_of_order(order, accuracies)
    # of points that are the same, the first in order speaks for all
    ordered = [np.take_along_axis(values, order, axis=-1) for values in (costs, accuracies)]
    is_new = np.ones(order.shape, bool)
    is_new[:, 1:] = (np.diff(ordered[0]) != 0) | (np.diff(ordered[1]) != 0)
    first = np.maximum.accumulate(np.where(is_new, np.arange(order.shape[1]), 0), axis=-1)
    speaks = np.take_along_axis(np.take_along_axis(found, order, axis=-1), first, axis=-1)
    np.put_along_axis(found, order, speaks, axis=-1)
    return found.reshape(np.shape(costs_V))


def _first_of_order(order: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    """Which points of each row are more accurate than all that stand before them."""
    sorted_DV = np.take_along_axis(accuracies, order, axis=-1)
    best_DV = np.maximum.accumulate(sorted_DV, axis=-1)
    before_DV = np.column_stack([np.full(len(order), -np.inf), best_DV[:, :-1]])
    found = np.zeros(order.shape, bool)
    np.put_along_axis(found, order, sorted_DV > before_DV, axis=-1)
    return found


def front_probability(
    costs_V: np.ndarray,
    cost_errors_V: np.ndarray,
    accuracies_V: np.ndarray,
    accuracy_errors_V: np.ndarray,
    df: int,
    seed: int = 0,
) -> np.ndarray:
    """Share of draws in which each point is on the front, by parametric bootstrap.

    Args:
        costs_V: ``(V,)``.
        cost_errors_V: Their standard errors, relative.
        accuracies_V: ``(V,)``.
        accuracy_errors_V: Their standard errors in points.
        df: Degrees of freedom that these are known with; 0 for exactly.
        seed: Of the draws.
    """
    generator = np.random.default_rng(seed)
    has_ties = not cost_errors_V.all()
    num_on_V = np.zeros(len(costs_V))
    shape = (NUM_DRAWS // _NUM_PARTS, len(costs_V))
    for _ in range(_NUM_PARTS):  # all at once do not fit a processor's cache
        normal_DV = generator.standard_normal(shape)
        if df:  # pooled: the spread is off by the same factor for all
            normal_DV /= np.sqrt(generator.chisquare(df, (len(normal_DV), 1)) / df)
        drawn_DV = accuracies_V + accuracy_errors_V * normal_DV
        costs_DV = costs_V * np.exp(cost_errors_V * generator.standard_normal(shape))
        if has_ties:
            num_on_V += on_front(costs_DV, drawn_DV).sum(axis=0)
        else:
            num_on_V += _first_of_order(np.argsort(costs_DV, axis=-1), drawn_DV).sum(axis=0)
    return num_on_V / NUM_DRAWS


def at_equal_cost(
    cost: float, accuracy: float, costs_R: np.ndarray, accuracies_R: np.ndarray
) -> float | None:
    """By how many points something is above the line through reference points, at its cost.

    The line is linear in the logarithm of the cost.

    Returns:
        ``None`` outside the range of the reference points, or if there are fewer than two.
    """
    order = np.argsort(costs_R)
    costs, accuracies = np.asarray(costs_R)[order], np.asarray(accuracies_R)[order]
    if len(costs) < 2 or not costs[0] <= cost <= costs[-1]:
        return None
    return accuracy - float(np.interp(np.log(cost), np.log(costs), accuracies))
