"""Samplers: what they find, what they keep to, and that they go on as if never interrupted."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest

from pfstudy.errors import PfstudyError
from pfstudy.search import samplers
from pfstudy.search.drawing import Limits
from pfstudy.search.samplers import SAMPLERS, Sampler, check_sampler, make_sampler
from pfstudy.space import Choice

Score = Callable[[Choice], float]

SITES, OPTIONS = 8, 4


def make(name: str, limits: Limits, seed: int = 0) -> Sampler:
    return make_sampler(name, limits, population=12, tournament=4, seed=seed)


def planted(seed: int) -> np.ndarray:
    """What every operation is worth at every site: ``(S, O)``."""
    return np.random.default_rng(seed).normal(size=(SITES, OPTIONS))


def added(worth_SO: np.ndarray) -> Score:
    return lambda choice: float(worth_SO[np.arange(len(choice)), list(choice)].sum())


def limits_of(budget: float | None) -> Limits:
    costs_SO = np.random.default_rng(7).uniform(0.2, 1, (SITES, OPTIONS)) / SITES
    return Limits((tuple(range(OPTIONS)),) * SITES, costs_SO, 0.1, budget)


def search(sampler: Sampler, score: Score, number: int) -> list[tuple[Choice, float]]:
    found = []
    for _ in range(number):
        choice = sampler.ask()
        found.append((choice, score(choice)))
        sampler.tell(*found[-1])
    return found


@pytest.fixture(scope="module", params=[None, 0.57], ids=["any", "tight"])
def limits(request: pytest.FixtureRequest) -> Limits:
    return limits_of(request.param)


class TestAll:
    @pytest.mark.parametrize("name", SAMPLERS)
    def test_proposals_are_new_and_within_the_budget(self, name: str, limits: Limits) -> None:
        found = search(make(name, limits), added(planted(0)), 60)
        assert all(limits.holds(choice) for choice, _ in found)
        assert len({choice for choice, _ in found}) == 60

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_only_what_is_offered_is_proposed(self, name: str) -> None:
        offered = ((2,), (0, 3), (1, 2, 3), (0,), (0, 1, 2, 3))
        found = search(make(name, Limits(offered)), lambda choice: -sum(choice), 24)
        assert {choice for choice, _ in found} == set(itertools.product(*offered))

    @pytest.mark.parametrize("name", SAMPLERS)
    @pytest.mark.parametrize("offered", [((1,), (3,)), ((0, 1), (0, 1))], ids=["one", "four"])
    def test_a_space_that_is_used_up_is_proposed_again(
        self, name: str, offered: tuple[tuple[int, ...], ...]
    ) -> None:
        found = search(make(name, Limits(offered)), sum, 30)
        assert {choice for choice, _ in found} == set(itertools.product(*offered))

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_the_only_network_within_the_budget_is_proposed(self, name: str) -> None:
        costs_SO = np.array([[1.0, 2.0, 3.0]] * 6)
        limits = Limits(((0, 1, 2),) * 6, costs_SO, budget=6.0)
        found = search(make(name, limits), sum, 20)
        assert {choice for choice, _ in found} == {(0,) * 6}

    @pytest.mark.parametrize("name", SAMPLERS)
    @pytest.mark.parametrize("number", [0, 7, 12, 40])
    def test_one_that_is_told_its_history_is_as_it_was(
        self, name: str, number: int, limits: Limits
    ) -> None:
        score = added(planted(1))
        uninterrupted = make(name, limits)
        history = search(uninterrupted, score, number)
        resumed = make(name, limits)
        for choice, value in history:
            assert resumed.ask() == choice
            resumed.tell(choice, value)
        assert search(resumed, score, 20) == search(uninterrupted, score, 20)

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_the_seed_decides(self, name: str, limits: Limits) -> None:
        first, again, other = (
            search(make(name, limits, seed), added(planted(1)), 30) for seed in (0, 0, 1)
        )
        assert first == again != other

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_one_that_is_told_what_it_never_proposed_goes_on(self, name: str) -> None:
        limits, score = limits_of(0.57), added(planted(1))
        sampler = make(name, limits)
        others = [choice for choice, _ in search(make(name, limits, seed=9), score, 30)]
        for choice in others:
            sampler.ask()
            sampler.tell(choice, score(choice))
        found = {choice for choice, _ in search(sampler, score, 20)}
        assert len(found) == 20
        assert not found & set(others)

    @pytest.mark.parametrize("name", SAMPLERS)
    def test_several_may_be_under_way(self, name: str, limits: Limits) -> None:
        sampler, score = make(name, limits), added(planted(1))
        for _ in range(6):
            asked = [sampler.ask() for _ in range(4)]
            assert len(set(asked)) == 4
            for choice in reversed(asked):
                sampler.tell(choice, score(choice))

    @pytest.mark.parametrize("name", SAMPLERS)
    @pytest.mark.parametrize("score", [float("nan"), float("inf")])
    def test_a_score_is_a_number(self, name: str, score: float) -> None:
        sampler = make(name, limits_of(None))
        with pytest.raises(PfstudyError, match=f"must be a finite number, but is {score}"):
            sampler.tell(sampler.ask(), score)


@pytest.mark.slow
class TestSearching:
    """How much of the way from the mean network to the best one is gone, of 65,536 or 1,114."""

    NUMBER = 100

    def share(self, name: str, limits: Limits, seed: int) -> float:
        choices_NS = np.array(list(itertools.product(*limits.offered)))
        costs_SO, worth_SO = limits.costs_SO, planted(seed)
        assert costs_SO is not None
        costs_N = costs_SO[np.arange(SITES), choices_NS].sum(axis=1) + limits.fixed_cost
        within_NS = choices_NS[costs_N <= limits.most]
        values_N = worth_SO[np.arange(SITES), within_NS].sum(axis=1)
        found = search(make(name, limits, seed), added(worth_SO), self.NUMBER)
        best = max(value for _, value in found)
        assert best <= values_N.max() + 1e-9
        return float((best - values_N.mean()) / (values_N.max() - values_N.mean()))

    @pytest.mark.parametrize(
        ("name", "least", "most"),
        [("random", 0.6, 0.82), ("evolution", 0.84, 1), ("tpe", 0.9, 1), ("nsgaii", 0.86, 1)],
    )
    def test_all_but_random_come_near_the_best(
        self, name: str, least: float, most: float, limits: Limits
    ) -> None:
        shares = [self.share(name, limits, seed) for seed in range(3)]
        assert least <= np.mean(shares) <= most

    def test_the_best_of_a_tournament_is_mutated_and_the_oldest_dies(self) -> None:
        limits = limits_of(None)
        sampler = make_sampler("evolution", limits, population=3, tournament=50, seed=0)
        told = [(0,) * SITES, (1,) * SITES, (2,) * SITES]
        for age, choice in enumerate(told):
            sampler.tell(choice, -age)  # the best is the oldest

        def parent_of(choice: Choice) -> Choice:
            return min(told, key=lambda each: int((np.array(choice) != each).sum()))

        assert all(parent_of(sampler.ask()) == told[0] for _ in range(10))
        told.append((3,) * SITES)
        sampler.tell(told[-1], -9)
        assert all(parent_of(sampler.ask()) == told[1] for _ in range(10))


class TestOptuna:
    @pytest.mark.parametrize("name", ["tpe", "nsgaii"])
    @pytest.mark.parametrize("seed", range(2))
    def test_what_is_over_the_budget_is_told_as_its_own_constraints_are(
        self, name: str, seed: int
    ) -> None:
        limits, score = limits_of(0.6), added(planted(seed))
        assert search_optuna(name, seed, limits, score, constrains=True) == search_optuna(
            name, seed, limits, score, constrains=False
        )

    def test_it_is_imported_only_where_it_is_used(self) -> None:
        code = (
            "import sys\n"
            "from pfstudy.search.drawing import Limits\n"
            "from pfstudy.search.samplers import make_sampler\n"
            "for name in ('random', 'evolution'):\n"
            "    make_sampler(name, Limits(((0,),)), population=2, tournament=1, seed=0).ask()\n"
            "print([name for name in ('optuna', 'torch') if name in sys.modules])"
        )
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"

    def test_it_says_nothing(self, capfd: pytest.CaptureFixture[str]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for name in ("tpe", "nsgaii"):
                search(make(name, limits_of(0.57)), added(planted(0)), 20)
        assert capfd.readouterr() == ("", "")


def search_optuna(
    name: str, seed: int, limits: Limits, score: Score, *, constrains: bool
) -> list[Choice]:
    """What Optuna proposes, within the budget or not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    settings: dict[str, Any] = {"seed": seed}
    if constrains:
        settings["constraints_func"] = lambda trial: (limits.excess(tuple(trial.params.values())),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "tpe":
            sampler = optuna.samplers.TPESampler(multivariate=True, **settings)
        else:
            sampler = optuna.samplers.NSGAIISampler(population_size=10, **settings)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    sites = {
        str(site): optuna.distributions.CategoricalDistribution(options)
        for site, options in enumerate(limits.offered)
    }
    found = []
    for _ in range(80):
        trial = study.ask(sites)
        choice = tuple(trial.params.values())
        excess = 0 if constrains else limits.excess(choice)
        study.tell(trial, samplers._WORST - excess if excess else score(choice))
        found.append(choice)
    return found


class TestChecks:
    def test_an_unknown_name_lists_the_choices(self) -> None:
        with pytest.raises(PfstudyError, match="'evolve' does not exist; choose from: random"):
            make("evolve", limits_of(None))

    def test_optuna_may_be_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(samplers, "find_spec", lambda name: None)
        for name in ("random", "evolution"):
            check_sampler(name, population=10)
        wanted = re.escape("search.sampler=tpe needs Optuna: pip install 'pfstudy[search]'.")
        with pytest.raises(PfstudyError, match=wanted):
            check_sampler("tpe", population=10)
        with pytest.raises(PfstudyError, match="nsgaii needs Optuna"):
            make("nsgaii", limits_of(None))

    def test_one_member_cannot_be_crossed(self) -> None:
        with pytest.raises(PfstudyError, match="population=1; give it more"):
            check_sampler("nsgaii", population=1)
        check_sampler("evolution", population=1)
