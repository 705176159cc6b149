"""Choices within a budget, against all choices there are."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from pfstudy.errors import PfstudyError
from pfstudy.stats.integer import Choice, Program, list_best, trace_front


def every_choice(
    values_SO: np.ndarray, costs_SO: np.ndarray, groups: Sequence[int] | None = None
) -> list[Choice]:
    """All that there are, one by one."""
    offered = [np.flatnonzero(np.isfinite(v) & np.isfinite(c)) for v, c in zip(
        values_SO, costs_SO, strict=True)]  # fmt: skip
    found = []
    for options in itertools.product(*offered):
        if groups is not None and len(set(zip(groups, options, strict=True))) != len(set(groups)):
            continue
        places = (np.arange(len(options)), list(options))
        value, cost = float(values_SO[places].sum()), float(costs_SO[places].sum())
        found.append(Choice(tuple(map(int, options)), value, cost))
    return found


def front_of(choices: Sequence[Choice], budgets: Sequence[float]) -> list[tuple[float, float]]:
    """Cost and value of what is best for each budget, the cheapest of the best, each once."""
    found: dict[tuple[float, float], None] = {}
    for budget in sorted(budgets):
        within = [choice for choice in choices if choice.cost <= budget + 1e-9]
        if within:
            most = max(choice.value for choice in within)
            equal = [choice for choice in within if choice.value >= most - 1e-9]
            cheapest = min(equal, key=lambda choice: choice.cost)
            found[round(cheapest.cost, 9), round(cheapest.value, 9)] = None
    return list(found)


def random_instance(seed: int) -> tuple[np.ndarray, np.ndarray, list[int] | None]:
    """Few sites and options; options that are not offered, whole numbers that tie, groups."""
    generator = np.random.default_rng(seed)
    shape = (int(generator.integers(1, 6)), int(generator.integers(1, 5)))
    if seed % 3 == 0:
        values_SO = generator.integers(-2, 3, shape).astype(float)
        costs_SO = generator.integers(0, 4, shape).astype(float)
    else:
        values_SO, costs_SO = generator.normal(0, 1, shape), generator.uniform(0, 0.2, shape)
    groups = [int(g) for g in generator.integers(0, 3, shape[0])] if seed % 2 else None
    missing = generator.random(shape) < 0.2
    missing[:, 0] = False
    (values_SO if seed % 4 < 2 else costs_SO)[missing] = np.nan
    return values_SO, costs_SO, groups


SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_front_is_that_of_all_choices(seed: int) -> None:
    values_SO, costs_SO, groups = random_instance(seed)
    every = every_choice(values_SO, costs_SO, groups)
    costs = [choice.cost for choice in every]
    budgets = [min(costs) - 1, *np.linspace(min(costs), max(costs), 7), max(costs) + 1, *costs[:5]]
    found = trace_front(values_SO, costs_SO, budgets, groups)
    assert [(round(c.cost, 9), round(c.value, 9)) for c in found] == front_of(every, budgets)
    assert {c.options for c in found} <= {c.options for c in every}


@pytest.mark.parametrize("seed", SEEDS[::4])
def test_the_whole_front_is_that_of_all_budgets(seed: int) -> None:
    values_SO, costs_SO, groups = random_instance(seed)
    every = every_choice(values_SO, costs_SO, groups)
    program = Program(values_SO, costs_SO, groups)
    found = program.front(len(every))
    assert found is not None
    expected = front_of(every, [choice.cost for choice in every])
    assert [(round(c.cost, 9), round(c.value, 9)) for c in found] == expected
    assert len(found) == 1 or program.front(len(found) - 1) is None


@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_are_in_their_order(seed: int) -> None:
    values_SO, costs_SO, groups = random_instance(seed)
    every = every_choice(values_SO, costs_SO, groups)
    budget = float(np.median([choice.cost for choice in every]))
    within = [choice for choice in every if choice.cost <= budget + 1e-9]
    expected = sorted(within, key=lambda choice: (-round(choice.value, 9), round(choice.cost, 9)))
    found = list_best(values_SO, costs_SO, budget, 5, groups)
    assert len({choice.options for choice in found}) == len(found) == min(5, len(within))
    for one, other in zip(found, expected, strict=False):
        assert (one.value, one.cost) == pytest.approx((other.value, other.cost))


@pytest.mark.parametrize("seed", SEEDS[::5])
def test_other_values_of_the_same_program(seed: int) -> None:
    values_SO, costs_SO, groups = random_instance(seed)
    program = Program(values_SO, costs_SO, groups)
    others_SO = values_SO + np.random.default_rng(seed).normal(0, 1, values_SO.shape)
    budget = (program.least_cost + program.most_cost) / 2
    found = program.best(budget, values_SO=others_SO)
    within = [c for c in every_choice(others_SO, costs_SO, groups) if c.cost <= budget + 1e-9]
    assert found is not None
    assert found.value == pytest.approx(max(choice.value for choice in within))


def test_what_can_be_kept_at_all() -> None:
    costs_SO = np.array([[0.5, 0.2], [0.4, np.nan]])
    program = Program(np.zeros((2, 2)), costs_SO)
    assert program.least_cost == pytest.approx(0.6)
    assert program.most_cost == pytest.approx(0.9)
    assert program.best(0.59) is None
    assert program.trace([0.1, 0.59]) == []
    assert program.list_best(0.59, 3) == []


def test_a_budget_that_a_choice_meets_exactly_is_kept() -> None:
    """0.1 + 0.2 is more than 0.3, as computers add."""
    costs_SO = np.array([[0.1, 0.0], [0.2, 0.0]])
    best = Program(np.array([[1.0, 0.0], [1.0, 0.0]]), costs_SO).best(0.3)
    assert best is not None
    assert best.options == (0, 0)


def test_a_millionth_more_than_the_budget_is_more() -> None:
    costs_SO = np.array([[1.0, 0.0], [1.0 + 5e-7, 0.0]])
    best = Program(np.array([[1.0, 0.0], [1.0, 0.0]]), costs_SO).best(2.0)
    assert best is not None
    assert best.cost <= 2.0


def test_small_differences_count_beside_large_ones() -> None:
    values_SO = np.array([[0.0, -1000.0], [0.0, 1e-4], [2e-4, 0.0]])
    costs_SO = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    best = Program(values_SO, costs_SO).best(1.0)
    assert best is not None
    assert best.options == (0, 0, 0)


def test_sites_without_a_common_option_are_refused() -> None:
    values_SO = np.array([[1.0, np.nan], [np.nan, 1.0]])
    assert Program(values_SO, np.ones((2, 2))).best(2.0) is not None
    with pytest.raises(PfstudyError, match="none in common"):
        Program(values_SO, np.ones((2, 2)), [0, 0])


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    """HiGHS prints a line of its own in some of these."""
    for seed in range(2):
        generator = np.random.default_rng(seed)
        values_SO = -np.abs(generator.normal(0, 0.5, (33, 8)))
        costs_SO = generator.uniform(0.3, 1.3, (33, 8)) / 33
        values_SO[:, 0], costs_SO[:, 0] = 0, 1 / 33
        program = Program(values_SO, costs_SO)
        print("before")
        program.trace(np.linspace(program.least_cost, 1.0, 12).tolist())
    assert capfd.readouterr() == ("before\nbefore\n", "")
