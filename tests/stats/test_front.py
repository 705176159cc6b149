from __future__ import annotations

import numpy as np
import pytest

from pfstudy.stats.front import at_equal_cost, front_probability, on_front


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


def test_what_is_certain_is_certain() -> None:
    found = front_probability(
        np.array([1.0, 2.0, 3.0]), np.zeros(3), np.array([90.0, 95.0, 80.0]), np.full(3, 0.1), 10
    )
    assert found.tolist() == [1, 1, 0]


def test_a_tie_is_even() -> None:
    found = front_probability(
        np.array([1.0, 2.0]), np.zeros(2), np.array([90.0, 90.0]), np.full(2, 0.5), 0
    )
    assert found[0] == 1
    assert found[1] == pytest.approx(0.5, abs=0.05)


def test_what_is_gained_at_equal_cost_is_above_the_line() -> None:
    costs, accuracies = np.array([4.0, 1.0]), np.array([80.0, 70.0])
    assert at_equal_cost(2.0, 77.0, costs, accuracies) == pytest.approx(2)
    assert at_equal_cost(4.0, 80.0, costs, accuracies) == pytest.approx(0)
    assert at_equal_cost(5.0, 80.0, costs, accuracies) is None
    assert at_equal_cost(1.0, 80.0, costs[:1], accuracies[:1]) is None


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
