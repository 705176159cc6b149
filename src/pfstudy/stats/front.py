"""Accuracy against cost: who is on the front, how surely, and what is gained at equal cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pfstudy.stats.comparison import Estimate

SURE = 0.95
NUM_DRAWS = 1000
_PART = 100  # draws; all at once do not fit a processor's cache


@dataclass(frozen=True)
class Uncertain:
    """Variants of a family, and how their accuracies may be off together.

    Attributes:
        accuracies_G: ``(V + 1,)``, in percent, the reference first.
        estimate: Of the differences to the reference.
        images_GN: Share of the seeds that have a test image right, ``(V + 1, N)``; ``None`` where
            images are no source of error, or where it is not known which are right.
        errors_G: Standard errors of their own in points, where nothing is known of differences.
        common_error: Standard error in points that all variants share, as all of them have the
            same seeds; matters beside other families alone.
    """

    accuracies_G: np.ndarray
    estimate: Estimate
    images_GN: np.ndarray | None
    errors_G: np.ndarray | None
    common_error: float = 0.0


def draw_accuracies(families: Sequence[Uncertain], seed: int = 0) -> np.ndarray:
    """Draw accuracies from what is known of them: a parametric bootstrap.

    Differences to the reference vary as `pfstudy.stats.comparison` says: half of the spread
    between seeds is the reference's, and that of images follows from which ones are right. So two
    variants are compared by the same trainings and images. Families on the same images share these
    as well.

    Returns:
        ``(draws, variants)``, families one after the other.
    """
    generator = np.random.default_rng(seed)
    num_images = max((f.images_GN.shape[1] for f in families if f.images_GN is not None), default=0)
    parts = []
    for _ in range(NUM_DRAWS // _PART):
        images_DN = generator.standard_normal((_PART, num_images), dtype=np.float32)
        drawn = [_draw(family, images_DN, generator) for family in families]
        parts.append(np.concatenate(drawn, axis=1))
    return np.concatenate(parts)


def _draw(family: Uncertain, images_DN: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    made, number = family.estimate, len(family.accuracies_G)
    normal_DG = generator.standard_normal((len(images_DN), number), dtype=np.float32)
    common_D1 = generator.standard_normal((len(images_DN), 1))
    drawn_DG = family.accuracies_G + family.common_error * common_D1
    if family.errors_G is not None:
        return drawn_DG + family.errors_G * normal_DG
    seeds_V = np.nan_to_num(made.seed_errors_V)
    own_G = np.concatenate([[_usual(seeds_V)], seeds_V]) / np.sqrt(2)
    df = made.seed_df_V[made.seed_df_V > 0]
    if len(df):  # the spread is off by the same factor for all
        typical = float(np.median(df))
        normal_DG /= np.sqrt(generator.chisquare(typical, (len(normal_DG), 1)) / typical)
    drawn_DG += own_G * normal_DG
    # the reference's part of a difference is as large as the variant's own
    drawn_DG[:, 1:] += (own_G[0] - own_G[1:]) * normal_DG[:, :1]
    if family.images_GN is not None:
        shares_GN = family.images_GN - family.images_GN.mean(axis=1, keepdims=True)
        image_DG = 100 * (images_DN[:, : shares_GN.shape[1]] @ shares_GN.T) / shares_GN.shape[1]
        with np.errstate(invalid="ignore", divide="ignore"):
            spread_V = (shares_GN[1:] - shares_GN[0]).std(axis=1) * 100 / shares_GN.shape[1] ** 0.5
            scale_V = np.where(spread_V > 0, np.nan_to_num(made.image_errors_V) / spread_V, 0)
        image_DG[:, 1:] = image_DG[:, :1] + scale_V * (image_DG[:, 1:] - image_DG[:, :1])
        drawn_DG += image_DG
    return drawn_DG


def _usual(errors_V: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors_V**2))) if len(errors_V) else 0.0


def draw_costs(
    costs_V: np.ndarray,
    own_errors_V: np.ndarray,
    family_errors_V: np.ndarray,
    families_V: np.ndarray,
    seed: int = 1,
) -> np.ndarray:
    """Draw costs from what is known of them.

    Args:
        costs_V: ``(V,)``.
        own_errors_V: Standard errors on the logarithmic scale, of each relative to its backbone.
        family_errors_V: Those of the backbone, which all variants of a family share.
        families_V: Number of the family of each.
        seed: Of the draws.

    Returns:
        ``(draws, V)``.
    """
    generator = np.random.default_rng(seed)
    if not (own_errors_V.any() or family_errors_V.any()):
        return np.tile(costs_V.astype(float), (NUM_DRAWS, 1))
    own_DV = generator.standard_normal((NUM_DRAWS, len(costs_V)), dtype=np.float32)
    own_DV *= own_errors_V.astype(np.float32)
    if family_errors_V.any():
        of_families_DF = generator.standard_normal((NUM_DRAWS, int(families_V.max()) + 1))
        own_DV += family_errors_V * of_families_DF[:, families_V]
    return np.asarray(costs_V * np.exp(own_DV))


def front_probability(costs_DV: np.ndarray, accuracies_DV: np.ndarray) -> np.ndarray:
    """Share of draws in which each point is on the front: ``(V,)``."""
    num_on_V = np.zeros(costs_DV.shape[1])
    is_same = len(costs_DV) > 1 and bool((costs_DV == costs_DV[0]).all())
    order_DV = np.argsort(costs_DV[:1] if is_same else costs_DV, axis=-1)
    steps = np.diff(np.take_along_axis(costs_DV[: len(order_DV)], order_DV, axis=-1), axis=-1)
    has_ties = not steps.all()
    for start in range(0, len(costs_DV), _PART):
        part = slice(start, start + _PART)
        if has_ties:
            found = on_front(costs_DV[part], accuracies_DV[part])
        else:
            order = np.broadcast_to(order_DV, costs_DV.shape)[part]
            found = _first_of_order(order, accuracies_DV[part])
        num_on_V += found.sum(axis=0)
    return num_on_V / len(costs_DV)


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


def at_equal_cost(
    costs_V: np.ndarray, accuracies_V: np.ndarray, is_reference_V: np.ndarray
) -> np.ndarray:
    """By how many points each is above the line through reference points, at its cost.

    The line is linear in the logarithm of the cost.

    Args:
        costs_V: ``(V,)``.
        accuracies_V: ``(V,)``.
        is_reference_V: Which ones the line goes through.

    Returns:
        ``(V,)``; NaN outside the range of the reference points, or if there are fewer than two.
    """
    costs, accuracies = costs_V[is_reference_V], accuracies_V[is_reference_V]
    if len(costs) < 2:
        return np.full(len(costs_V), np.nan)
    above_V = accuracies_V - _line(costs_V, costs, accuracies)
    is_inside_V = (costs_V >= costs.min()) & (costs_V <= costs.max())
    return np.where(is_inside_V, above_V, np.nan)


def intervals_at_equal_cost(
    costs_DV: np.ndarray,
    accuracies_DV: np.ndarray,
    is_reference_V: np.ndarray,
    confidence: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the intervals of `at_equal_cost`, each for itself.

    Draws that leave the range of the reference points are compared with its end.
    """
    above_DV = [
        accuracies - _line(costs, costs[is_reference_V], accuracies[is_reference_V])
        for costs, accuracies in zip(costs_DV, accuracies_DV, strict=True)
    ]
    tail = (1 - confidence) / 2
    low_V, high_V = np.quantile(above_DV, [tail, 1 - tail], axis=0)
    return low_V, high_V


def _line(at: np.ndarray, costs: np.ndarray, accuracies: np.ndarray) -> np.ndarray:
    order = np.argsort(costs)
    return np.asarray(np.interp(np.log(at), np.log(costs[order]), accuracies[order]))
