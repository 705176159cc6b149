from __future__ import annotations

import numpy as np
import pytest

from pfstudy.stats.comparison import estimate
from pfstudy.stats.front import (
    NUM_DRAWS,
    Uncertain,
    at_equal_cost,
    draw_accuracies,
    draw_costs,
    front_probability,
    intervals_at_equal_cost,
    on_front,
)


def by_definition(costs: np.ndarray, accuracies: np.ndarray) -> list[bool]:
    return [
        not any(
            (c <= cost and a >= accuracy) and (c < cost or a > accuracy)
            for c, a in zip(costs, accuracies, strict=True)
        )
        for cost, accuracy in zip(costs, accuracies, strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_nothing_beats(seed: int) -> None:
    generator = np.random.default_rng(seed)
    costs, accuracies = generator.random((2, 40))
    assert on_front(costs, accuracies).tolist() == by_definition(costs, accuracies)


def test_of_equal_cost_the_most_accurate_is_on_it() -> None:
    assert on_front(np.array([1.0, 1.0, 2.0]), np.array([5.0, 6.0, 6.0])).tolist() == [
        *(False, True, False)
    ]


def test_rows_are_apart() -> None:
    costs = np.array([[1.0, 2.0], [2.0, 1.0]])
    accuracies = np.array([[9.0, 8.0], [9.0, 8.0]])
    assert on_front(costs, accuracies).tolist() == [[True, False], [True, True]]


def family(*runs: list[float], images: np.ndarray | None = None) -> Uncertain:
    """Variants with their seeds; perhaps with the share of seeds that have each image right."""
    accuracies = np.array(runs, float)
    made = estimate(accuracies, None, "seeds")
    return Uncertain(accuracies.mean(axis=1), made, images, None)


def drawn_costs(*costs: float) -> np.ndarray:
    return np.tile(costs, (NUM_DRAWS, 1))


def test_what_is_certain_is_certain() -> None:
    runs = ([90.0, 90.1, 90.2], [95.0, 95.1, 95.3], [80.0, 80.1, 80.1])
    found = front_probability(drawn_costs(1, 2, 3), draw_accuracies([family(*runs)]))
    assert found.tolist() == [1, 1, 0]


def test_a_tie_is_even() -> None:
    runs = ([90.0, 91.0, 92.0], [91.0, 92.0, 90.0])
    found = front_probability(drawn_costs(1, 2), draw_accuracies([family(*runs)]))
    assert found[0] == 1
    assert found[1] == pytest.approx(0.5, abs=0.05)


def test_differences_are_drawn_as_they_are_known() -> None:
    generator = np.random.default_rng(0)
    runs = 90 + generator.normal(0, 1, (4, 300))
    made = estimate(runs, None, "seeds")
    drawn = draw_accuracies([Uncertain(runs.mean(axis=1), made, None, None)])
    differences = drawn[:, 1:] - drawn[:, :1]
    assert differences.mean(axis=0) == pytest.approx(made.differences_V, abs=0.02)
    assert differences.std(axis=0) == pytest.approx(made.seed_errors_V, rel=0.1)
    assert np.corrcoef(differences.T)[0, 1] == pytest.approx(0.5, abs=0.1)


def test_one_seed_is_paired_over_images() -> None:
    """Two networks that have the same images wrong differ more surely than by chance."""
    generator = np.random.default_rng(1)
    easy = generator.random(500) < 0.9
    base, worse = easy.copy(), easy & (np.arange(500) >= 20)
    right = np.array([base, worse], float)
    accuracies = 100 * right.mean(axis=1)
    made = estimate(accuracies[:, None], [[base], [worse]], "images")
    paired = draw_accuracies([Uncertain(accuracies, made, right, None)])
    errors = np.sqrt(100 * accuracies / 100 * (1 - accuracies / 100) * 100 / 500)
    unpaired = draw_accuracies([Uncertain(accuracies, made, None, errors)])
    costs = drawn_costs(1, 0.5)
    by_pairs, by_chance = (front_probability(costs, d)[0] for d in (paired, unpaired))
    assert by_pairs == 1
    assert by_chance < by_pairs
    spread = (paired[:, 1] - paired[:, 0]).std()
    assert spread == pytest.approx(made.image_errors_V[0], rel=0.1)


def test_the_drift_of_a_backbone_is_common_to_its_variants() -> None:
    costs = draw_costs(
        np.array([1.0, 2.0, 3.0]),
        np.array([0, 0.01, 0]),
        np.array([0, 0, 0.2]),
        np.array([0, 0, 1]),
    )
    logs = np.log(costs)
    assert logs.std(axis=0) == pytest.approx([0, 0.01, 0.2], rel=0.1)
    shared = draw_costs(np.ones(2), np.zeros(2), np.full(2, 0.1), np.zeros(2, int))
    assert np.array_equal(shared[:, 0], shared[:, 1])


def test_what_is_gained_at_equal_cost_is_above_the_line() -> None:
    costs, accuracies = np.array([4.0, 1.0, 2.0, 5.0]), np.array([80.0, 70.0, 77.0, 80.0])
    references = np.array([True, True, False, False])
    found = at_equal_cost(costs, accuracies, references)
    assert found[:3] == pytest.approx([0, 0, 2])
    assert np.isnan(found[3])
    assert np.isnan(at_equal_cost(costs, accuracies, references & (costs > 1))).all()


def test_intervals_at_equal_cost_have_the_errors_of_the_line() -> None:
    generator = np.random.default_rng(2)
    costs = np.tile([1.0, 4.0, 2.0], (NUM_DRAWS, 1))
    accuracies = np.array([70.0, 80.0, 77.0]) + generator.normal(0, 1, (NUM_DRAWS, 3))
    references = np.array([True, True, False])
    low, high = intervals_at_equal_cost(costs, accuracies, references, 0.95)
    half = 1.96 * (1 + 0.25 + 0.25) ** 0.5  # its own, and half of each end of the line
    assert [low[2], high[2]] == pytest.approx([2 - half, 2 + half], abs=0.3)


def test_points_that_are_the_same_are_on_the_front_together() -> None:
    costs, accuracies = np.array([2.0, 1, 1, 3, 1]), np.array([97.0, 96, 96, 97, 95])
    assert on_front(costs, accuracies).tolist() == [True, True, True, False, False]
    generator = np.random.default_rng(0)
    for _ in range(50):  # rounded, so that there are many ties
        costs = generator.integers(0, 5, 12).astype(float)
        accuracies = generator.integers(0, 5, 12).astype(float)
        beaten = [
            any(
                c <= cost and a >= accuracy and (c < cost or a > accuracy)
                for c, a in zip(costs, accuracies, strict=True)
            )
            for cost, accuracy in zip(costs, accuracies, strict=True)
        ]
        assert on_front(costs, accuracies).tolist() == [not each for each in beaten]
