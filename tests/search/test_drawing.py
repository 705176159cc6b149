"""Draws, mutants and repairs against all networks of small spaces."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from pfstudy.search.drawing import Limits, draw, draw_like, mutate, repair
from pfstudy.space import Choice


def random_limits(seed: int, share: float | None = 0.3) -> Limits:
    """Up to 5 sites with up to 4 operations each, and that share of the way to the dearest."""
    generator = random.Random(seed)
    number = generator.randint(1, 5)
    offered = tuple(
        tuple(sorted(generator.sample(range(4), generator.randint(1, 4)))) for _ in range(number)
    )
    costs_SO = np.full((number, 4), np.nan)
    for site, options in enumerate(offered):
        costs_SO[site, list(options)] = [generator.uniform(-0.2, 1) for _ in options]
    fixed = generator.uniform(0, 2)
    if share is None:
        return Limits(offered, costs_SO, fixed)
    least, most = (end(costs_SO, axis=1).sum() + fixed for end in (np.nanmin, np.nanmax))
    return Limits(offered, costs_SO, fixed, least + share * (most - least))


def everything(limits: Limits) -> list[Choice]:
    return list(itertools.product(*limits.offered))


LARGE = next(s for s in range(99) if len(everything(random_limits(s))) > 300)
SPACES = [pytest.param(random_limits(seed), id=str(seed)) for seed in range(25)]


class TestLimits:
    @pytest.mark.parametrize("limits", SPACES)
    def test_the_cheapest_is_the_cheapest_of_all(self, limits: Limits) -> None:
        costs = {choice: limits.cost(choice) or 0 for choice in everything(limits)}
        assert limits.cheapest() == min(costs, key=lambda choice: costs[choice])
        assert limits.holds(limits.cheapest())
        assert {c for c in costs if limits.holds(c)} == {
            c for c, cost in costs.items() if cost <= (limits.budget or 0)
        }

    def test_what_costs_just_the_budget_is_within_it(self) -> None:
        costs_SO = np.full((10, 1), 0.1)  # their sum is not quite 1
        assert Limits(((0,),) * 10, costs_SO, budget=1.0).holds((0,) * 10)
        assert Limits(((0,),) * 10, costs_SO, budget=0.3 + 0.6 + 0.1).holds((0,) * 10)
        assert not Limits(((0,),) * 10, costs_SO, budget=0.999).holds((0,) * 10)

    def test_without_costs_everything_is_within(self) -> None:
        limits = Limits(((2, 0), (1,)))
        assert limits.cost((0, 1)) is None
        assert limits.holds((0, 1))
        assert limits.cheapest() == (2, 1)

    def test_an_operation_that_is_not_offered_needs_no_cost(self) -> None:
        costs_SO = np.array([[0.5, np.nan], [0.1, 0.2]])
        assert Limits(((0,), (0, 1)), costs_SO).cheapest() == (0, 0)
        with pytest.raises(AssertionError):
            Limits(((0, 1), (0, 1)), costs_SO)


Propose = Callable[[Limits, random.Random], Choice]
PROPOSE: dict[str, Propose] = {
    "drawn": draw,
    "mutated": lambda limits, generator: mutate(limits, draw(limits, generator), generator),
    "repaired": lambda limits, generator: repair(
        limits, tuple(generator.choice(options) for options in limits.offered), generator
    ),
}


@pytest.mark.parametrize("name", PROPOSE)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, None])
def test_what_is_proposed_is_offered_and_within_the_budget(name: str, share: float | None) -> None:
    for seed in range(40):
        limits, generator = random_limits(seed, share), random.Random(seed)
        within = {choice for choice in everything(limits) if limits.holds(choice)}
        assert {PROPOSE[name](limits, generator) for _ in range(5)} <= within


class TestDraw:
    @pytest.mark.slow
    def test_all_within_the_budget_have_the_same_probability(self) -> None:
        limits = random_limits(LARGE, 0.4)
        generator = random.Random(0)
        within = [choice for choice in everything(limits) if limits.holds(choice)]
        assert len(within) > 5
        found = Counter(draw(limits, generator) for _ in range(200 * len(within)))
        assert set(found) == set(within)
        statistic = sum((count - 200) ** 2 / 200 for count in found.values())
        assert statistic < len(within) + 4 * (2 * len(within)) ** 0.5  # chi-squared

    def test_the_only_one_within_is_found(self) -> None:
        costs_SO = np.tile([1.0, 2.0, 3.0, 4.0], (12, 1))  # 1 in 16 million
        limits = Limits(((0, 1, 2, 3),) * 12, costs_SO, budget=12.0)
        assert draw(limits, random.Random(0)) == (0,) * 12


class TestDrawLike:
    def test_it_costs_as_much_as_it_should(self) -> None:
        generator = random.Random(0)
        costs_SO = np.random.default_rng(0).uniform(0.1, 1, (12, 5))
        limits = Limits((tuple(range(5)),) * 12, costs_SO, 0.5, budget=6.0)
        ends = limits.cost(limits.cheapest()), 0.5 + costs_SO.max(axis=1).sum()
        for target in np.linspace(*ends, 8)[
            1:-1
        ]:  # from all but the cheapest to all but the dearest
            drawn = {draw_like(limits, target, 0.01, generator) for _ in range(5)}
            assert len(drawn) > 1
            assert [limits.cost(choice) for choice in drawn] == pytest.approx(
                [target] * len(drawn), rel=0.01
            )

    @pytest.mark.slow
    def test_all_that_cost_as_much_have_the_same_probability(self) -> None:
        limits = random_limits(LARGE, None)
        costs = {choice: limits.cost(choice) or 0 for choice in everything(limits)}
        target = float(np.median(list(costs.values())))
        like = [choice for choice, cost in costs.items() if abs(cost / target - 1) <= 0.1]
        assert 5 < len(like) < len(costs)
        generator = random.Random(0)
        found = Counter(draw_like(limits, target, 0.1, generator) for _ in range(100 * len(like)))
        assert set(found) == set(like)
        statistic = sum((count - 100) ** 2 / 100 for count in found.values())
        assert statistic < len(like) + 4 * (2 * len(like)) ** 0.5

    @pytest.mark.parametrize("target", [-5.0, 1.3, 100.0])
    def test_the_nearest_is_given_where_none_costs_as_much(self, target: float) -> None:
        limits = random_limits(LARGE, None)
        gaps = [abs((limits.cost(choice) or 0) - target) for choice in everything(limits)]
        found = draw_like(limits, target, 1e-6, random.Random(0))
        assert abs((limits.cost(found) or 0) - target) == pytest.approx(min(gaps))


class TestMutate:
    @pytest.mark.parametrize("limits", SPACES)
    def test_one_site_gets_another_operation(self, limits: Limits) -> None:
        generator = random.Random(0)
        parent = limits.cheapest()
        near = {
            choice
            for choice in everything(limits)
            if limits.holds(choice) and sum(np.array(choice) != parent) == 1
        }
        found = {mutate(limits, parent, generator) for _ in range(300)}
        assert found == (near or found)
        assert near or len(everything(limits)) == 1 or all(map(limits.holds, found))

    def test_every_site_that_can_has_the_same_probability(self) -> None:
        limits = Limits(((0,), (0, 1), (0, 1, 2, 3)))
        generator = random.Random(0)
        mutants = [mutate(limits, (0, 0, 0), generator) for _ in range(2000)]
        assert np.mean([mutant[1] != 0 for mutant in mutants]) == pytest.approx(0.5, abs=0.05)

    def test_the_only_network_is_its_own_mutant(self) -> None:
        assert mutate(Limits(((3,), (1,))), (3, 1), random.Random(0)) == (3, 1)


class TestRepair:
    def test_what_is_within_stays(self) -> None:
        for seed in range(20):
            limits = random_limits(seed)
            for choice in everything(limits):
                if limits.holds(choice):
                    assert repair(limits, choice, random.Random(0)) == choice

    def test_what_is_over_gets_cheaper_at_some_sites_only(self) -> None:
        limits = random_limits(LARGE, 0.3)
        over = [choice for choice in everything(limits) if not limits.holds(choice)]
        assert limits.costs_SO is not None
        for choice in over:
            repaired = repair(limits, choice, random.Random(0))
            costs = [
                limits.costs_SO[np.arange(len(each)), list(each)] for each in (choice, repaired)
            ]
            changed = np.array(choice) != repaired
            assert (costs[1] < costs[0])[changed].all()
