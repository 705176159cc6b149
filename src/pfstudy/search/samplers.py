"""How the networks that a search evaluates are proposed: at random, by evolution, or by Optuna.

Every sampler depends on nothing but its seed and what it is asked and told, so that one which is
asked and told a recorded history again is as it was when that was recorded.
"""

from __future__ import annotations

import itertools
import math
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.search.drawing import Limits, draw, mutate, repair
from pfstudy.space import Choice

if TYPE_CHECKING:
    import optuna

_NUM_TRIES = 100
_TRIES_PER_DISTANCE = 20
_NUM_ASKS = 10  # of Optuna, until a network is new and within the budget
_NUM_FIRST = 10  # networks that TPE's first model is made of
_WORST = -1e6  # what is over the budget has a lower score


class Sampler(Protocol):
    """Proposes networks, and is told how good they are."""

    def ask(self) -> Choice:
        """Propose a network within the budget; a new one, unless hardly any are left."""

    def tell(self, choice: Choice, score: float) -> None:
        """Say how good a network is, be it proposed or not: higher is better.

        Raises:
            PfstudyError: The score is no finite number.
        """


class RandomSampler:
    """Draws networks within the budget, as `draw` does, without repeating itself.

    Args:
        limits: What may be proposed.
        seed: Of the draws.
    """

    def __init__(self, limits: Limits, seed: int) -> None:
        assert limits.holds(limits.cheapest())
        self._limits = limits
        self._generator = random.Random(seed)
        self._seen: set[Choice] = set()

    def ask(self) -> Choice:
        """Propose a network."""
        return self._first_new(draw(self._limits, self._generator) for _ in range(_NUM_TRIES))

    def tell(self, choice: Choice, score: float) -> None:
        """Say how good a network is.

        Raises:
            PfstudyError: The score is no finite number.
        """
        if not math.isfinite(score):
            raise PfstudyError(f"the score of a network must be a finite number, but is {score}.")
        offered = self._limits.offered
        assert len(choice) == len(offered)
        assert all(option in options for option, options in zip(choice, offered, strict=True))
        self._seen.add(choice)

    def _first_new(self, choices: Iterable[Choice]) -> Choice:
        """The first that was not seen before, or else the last."""
        for choice in choices:
            if choice not in self._seen:
                break
        self._seen.add(choice)
        return choice


class RegularizedEvolution(RandomSampler):
    """Mutates the best of a few members of a population, of which the oldest dies.

    This is aging evolution (Real et al. 2019, algorithm 1), but what was seen before is not
    proposed again: another mutant is tried, and after some, one of more mutations.

    Args:
        limits: What may be proposed.
        population: Number of members; as many networks are drawn at random first.
        tournament: Number of members, drawn with replacement, of which the best is mutated.
        seed: Of the draws.
    """

    def __init__(self, limits: Limits, population: int, tournament: int, seed: int) -> None:
        super().__init__(limits, seed)
        self._members: deque[tuple[Choice, float]] = deque(maxlen=population)
        self._tournament = tournament

    def ask(self) -> Choice:
        """Propose a network."""
        if len(self._members) < (self._members.maxlen or 0):
            return super().ask()
        few = self._generator.choices(self._members, k=self._tournament)
        parent, _ = max(few, key=lambda member: member[1])
        return self._first_new(_mutants(self._limits, parent, self._generator))

    def tell(self, choice: Choice, score: float) -> None:
        """Say how good a network is.

        Raises:
            PfstudyError: The score is no finite number.
        """
        super().tell(choice, score)
        self._members.append((choice, score))


def _mutants(limits: Limits, parent: Choice, generator: random.Random) -> Iterator[Choice]:
    for number in range(_NUM_TRIES):
        choice = parent
        for _ in range(1 + number // _TRIES_PER_DISTANCE):
            choice = mutate(limits, choice, generator)
        yield choice


class OptunaSampler(RandomSampler):
    """Proposes what a sampler of Optuna's does, after some networks at random.

    ``tpe`` is the tree-structured Parzen estimator (Bergstra et al. 2011) of all sites together,
    ``nsgaii`` the genetic algorithm of Deb et al. 2002 for the one objective. Others of Optuna's
    are left out: for CMA-ES and quasi-Monte-Carlo, categories are drawn at random, and Gaussian
    processes are too slow for hundreds of networks.

    What is over the budget is told to Optuna as worse than all that is within, by as much as it is
    over (Deb 2000): with one objective, this is what Optuna's own constraints do, whose interface
    Optuna 5 deprecates for one that Optuna 4 lacks. What was seen before is told as failed, which
    Optuna ignores. After some of either, what was last proposed is repaired and, unless that is
    new, mutated.

    Args:
        limits: What may be proposed.
        name: ``tpe`` or ``nsgaii``.
        population: Number of members of ``nsgaii``.
        seed: Of the draws.
    """

    def __init__(self, limits: Limits, name: str, population: int, seed: int) -> None:
        super().__init__(limits, seed)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler: optuna.samplers.BaseSampler
        with warnings.catch_warnings():  # Optuna 4 calls some arguments experimental
            warnings.simplefilter("ignore")
            if name == "nsgaii":
                self._num_first = population
                sampler = optuna.samplers.NSGAIISampler(population_size=population, seed=seed)
            else:
                self._num_first = _NUM_FIRST
                sampler = optuna.samplers.TPESampler(
                    n_startup_trials=_NUM_FIRST, seed=seed, multivariate=True, constant_liar=False
                )
        self._failed = optuna.trial.TrialState.FAIL
        self._study = optuna.create_study(direction="maximize", sampler=sampler)
        self._sites: dict[str, optuna.distributions.BaseDistribution] = {
            f"site{site}": optuna.distributions.CategoricalDistribution(options)
            for site, options in enumerate(limits.offered)
        }
        self._asked: dict[Choice, optuna.Trial] = {}
        self._num_told = 0

    def ask(self) -> Choice:
        """Propose a network."""
        if self._num_told < self._num_first:
            return super().ask()
        for _ in range(_NUM_ASKS):
            trial = self._study.ask(self._sites)
            values = trial.params  # a copy at every access
            choice = tuple(values[name] for name in self._sites)
            if excess := self._limits.excess(choice):
                self._study.tell(trial, _WORST - excess)
            elif choice in self._seen:
                self._study.tell(trial, state=self._failed)
            else:
                self._asked[choice] = trial
                return self._first_new([choice])
        repaired = repair(self._limits, choice, self._generator)
        mutants = _mutants(self._limits, repaired, self._generator)
        return self._first_new(itertools.chain([repaired], mutants))

    def tell(self, choice: Choice, score: float) -> None:
        """Say how good a network is.

        Raises:
            PfstudyError: The score is no finite number.
        """
        super().tell(choice, score)
        trial = self._asked.pop(choice, None)
        if trial is None:
            self._study.enqueue_trial(dict(zip(self._sites, choice, strict=True)))
            trial = self._study.ask(self._sites)
        self._study.tell(trial, max(score, _WORST))
        self._num_told += 1


def _make_random(limits: Limits, population: int, tournament: int, seed: int) -> Sampler:
    del population, tournament
    return RandomSampler(limits, seed)


def _make_tpe(limits: Limits, population: int, tournament: int, seed: int) -> Sampler:
    del tournament
    return OptunaSampler(limits, "tpe", population, seed)


def _make_nsgaii(limits: Limits, population: int, tournament: int, seed: int) -> Sampler:
    del tournament
    return OptunaSampler(limits, "nsgaii", population, seed)


SAMPLERS: dict[str, Callable[[Limits, int, int, int], Sampler]] = {
    "random": _make_random,
    "evolution": RegularizedEvolution,
    "tpe": _make_tpe,
    "nsgaii": _make_nsgaii,
}
_OF_OPTUNA = ("tpe", "nsgaii")


def check_sampler(name: str, *, population: int) -> None:
    """Check that a sampler can be made.

    Args:
        name: One of `SAMPLERS`.
        population: Number of members, of samplers that have some.

    Raises:
        PfstudyError: There is no such sampler, it needs a package that is not installed, or more
            members.
    """
    if name not in SAMPLERS:
        raise unknown_name("search.sampler", name, SAMPLERS)
    if name in _OF_OPTUNA and find_spec("optuna") is None:
        raise PfstudyError(f"search.sampler={name} needs Optuna: pip install 'pfstudy[search]'.")
    if name == "nsgaii" and population < 2:
        raise PfstudyError(
            "search.sampler=nsgaii crosses two members with each other, but got "
            f"search.population={population}; give it more."
        )


def make_sampler(
    name: str, limits: Limits, *, population: int, tournament: int, seed: int
) -> Sampler:
    """Make a sampler by its name.

    Args:
        name: One of `SAMPLERS`.
        limits: What may be proposed.
        population: Number of members, of samplers that have some.
        tournament: Number of members of which the best is mutated, by evolution.
        seed: Of the draws.

    Raises:
        PfstudyError: The same as of `check_sampler`.
    """
    check_sampler(name, population=population)
    return SAMPLERS[name](limits, population, tournament, seed)
