"""Accuracy against cost: who is on the front, how surely, and what is gained at equal cost."""

from __future__ import annotations

import numpy as np

SURE = 0.95
NUM_DRAWS = 2000


def on_front(costs_V: np.ndarray, accuracies_V: np.ndarray) -> np.ndarray:
    """Which points no other beats in both: cheaper or as cheap, and more accurate.

    Args:
        costs_V: ``(V,)`` or ``(D, V)``; less is better.
        accuracies_V: Of the same shape; more is better.

    Returns:
        Of the same shape, whether each point is on the front of its row.
    """
    costs, accuracies = np.atleast_2d(costs_V), np.atleast_2d(accuracies_V)
    order = np.lexsort((-accuracies, costs), axis=-1)
    sorted_DV = np.take_along_axis(accuracies, order, axis=-1)
    best_DV = np.maximum.accumulate(sorted_DV, axis=-1)
    before_DV = np.column_stack([np.full(len(costs), -np.inf), best_DV[:, :-1]])
    found = np.zeros(costs.shape, bool)
    np.put_along_axis(found, order, sorted_DV > before_DV, axis=-1)
    return found.reshape(np.shape(costs_V))


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
    shape = (NUM_DRAWS, len(costs_V))
    normal_DV = generator.standard_normal(shape)
    if df:  # pooled: the spread is off by the same factor for all
        normal_DV /= np.sqrt(generator.chisquare(df, (NUM_DRAWS, 1)) / df)
    drawn_DV = accuracies_V + accuracy_errors_V * normal_DV
    costs_DV = costs_V * np.exp(cost_errors_V * generator.standard_normal(shape))
    share: np.ndarray = on_front(costs_DV, drawn_DV).mean(axis=0)
    return share


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
