"""What a search may propose, and networks that are drawn from it, mutated and repaired."""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pfstudy.searches import Times
from pfstudy.space import Choice, Space

_SAME = 1e-9  # relative: sums of costs are equal, whatever the order they are added in
_NUM_DRAWS = 200  # until what is rarer is made of what is not


@dataclass(frozen=True, eq=False)
class Limits:
    """What may be proposed. Whoever makes them sees that there is a network within the budget.

    Attributes:
        offered: For every site, the indices of the operations that may stand there.
        costs_SO: ``(S, O)``, cost of every operation at every site; NaN where it is not offered.
            ``None`` if it is not known, and then there is no budget.
        fixed_cost: What a network costs besides.
        budget: What a network may cost at most; ``None`` for anything.
    """

    offered: tuple[tuple[int, ...], ...]
    costs_SO: np.ndarray | None = None
    fixed_cost: float = 0.0
    budget: float | None = None

    def __post_init__(self) -> None:
        """Check what would be a mistake of the program."""
        assert all(self.offered)
        if self.costs_SO is None:
            assert self.budget is None
        else:
            assert len(self.costs_SO) == len(self.offered)
            assert np.isfinite(self.costs_SO[self.is_offered]).all()

    @cached_property
    def is_offered(self) -> np.ndarray:
        """Whether an operation is offered at a site: ``(S, O)``."""
        number = 1 + max(max(options) for options in self.offered)
        if self.costs_SO is not None:
            number = self.costs_SO.shape[1]
        found = np.zeros((len(self.offered), number), bool)
        for site, options in enumerate(self.offered):
            found[site, list(options)] = True
        return found

    @property
    def most(self) -> float:
        """What a network within the budget costs at most, with what rounding adds."""
        return float("inf") if self.budget is None else self.budget + _SAME * abs(self.budget)

    def cost(self, choice: Choice) -> float | None:
        """What a network costs; ``None`` if it is not known."""
        if self.costs_SO is None:
            return None
        return self.fixed_cost + float(self.costs_SO[np.arange(len(choice)), list(choice)].sum())

    def excess(self, choice: Choice) -> float:
        """By how much a network is over the budget; 0 if it is within."""
        if self.budget is None:
            return 0.0
        cost = _known_cost(self, choice)
        return cost - self.budget if cost > self.most else 0.0

    def holds(self, choice: Choice) -> bool:
        """Whether a network is within the budget."""
        return self.excess(choice) == 0

    def cheapest(self) -> Choice:
        """The network that costs least."""
        if self.costs_SO is None:
            return tuple(options[0] for options in self.offered)
        costs_SO = np.where(self.is_offered, self.costs_SO, np.inf)
        return tuple(map(int, costs_SO.argmin(axis=1)))


def draw(limits: Limits, generator: random.Random) -> Choice:
    """Draw a network within the budget.

    It is drawn from all networks until it is within the budget, so that those within have the same
    probability. Where they are too few to be met, one that is over the budget is repaired.
    """
    if limits.budget is None:
        return tuple(generator.choice(options) for options in limits.offered)
    drawn_DS, costs_D = _draw_many(limits, generator)
    for index in np.flatnonzero(costs_D <= limits.most):
        if limits.holds(choice := _choice_of(drawn_DS[index])):
            return choice
    return repair(limits, _choice_of(drawn_DS[0]), generator)


def draw_like(
    limits: Limits, target_cost: float, tolerance: float, generator: random.Random
) -> Choice:
    """Draw a network of a certain cost, to compare another one of that cost with.

    All networks of about that cost have the same probability. Where they are too few to be met,
    operations at random sites of others are replaced by random ones that bring the cost nearer.
    The budget is left out of account: keeping within it, too, would make what is drawn cheaper.

    Args:
        limits: What is offered; with costs.
        target_cost: The cost.
        tolerance: By what share of it the cost may be off.
        generator: The source of randomness.

    Returns:
        The network, or the nearest that was found.
    """
    drawn_DS, costs_D = _draw_many(limits, generator)
    gaps_D = abs(costs_D - target_cost)
    within = tolerance * abs(target_cost)
    if (gaps_D <= within).any():
        return _choice_of(drawn_DS[(gaps_D <= within).argmax()])
    nearest, least = _choice_of(drawn_DS[0]), float("inf")
    for row_S in drawn_DS:
        choice = _approach(limits, _choice_of(row_S), target_cost, within, generator)
        gap = abs(_known_cost(limits, choice) - target_cost)
        if gap < least:
            nearest, least = choice, gap
        if least <= within:
            break
    return nearest


def mutate(limits: Limits, choice: Choice, generator: random.Random) -> Choice:
    """Give one random site another operation, so that the network is within the budget.

    Where no other operation at any one site does, a mutant over the budget is repaired; the only
    network of a space is its own mutant.
    """
    others_SO = limits.is_offered.copy()
    others_SO[np.arange(len(choice)), list(choice)] = False
    if not others_SO.any():
        return choice
    within_SO = others_SO
    if limits.budget is not None:
        room = limits.most - _known_cost(limits, choice)
        within_SO = others_SO & (_changes(limits, choice) <= room)
    mutant = _put_any(choice, within_SO if within_SO.any() else others_SO, generator)
    return repair(limits, mutant, generator)


def repair(limits: Limits, choice: Choice, generator: random.Random) -> Choice:
    """Give random sites a random cheaper operation each, until the network is within the budget."""
    while not limits.holds(choice):
        cheaper_SO = _changes(limits, choice) < 0
        assert cheaper_SO.any(), "the cheapest network is over the budget"
        choice = _put_any(choice, cheaper_SO, generator)
    return choice


def _draw_many(limits: Limits, generator: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Draw networks of any cost: ``(D, S)``, and their costs ``(D,)``."""
    assert limits.costs_SO is not None
    drawn_DS = np.array([generator.choices(options, k=_NUM_DRAWS) for options in limits.offered]).T
    costs_DS = limits.costs_SO[np.arange(len(limits.offered)), drawn_DS]
    return drawn_DS, limits.fixed_cost + costs_DS.sum(axis=1)


def _choice_of(row_S: np.ndarray) -> Choice:
    return tuple(row_S.tolist())


def _approach(
    limits: Limits, choice: Choice, target: float, within: float, generator: random.Random
) -> Choice:
    while abs(gap := _known_cost(limits, choice) - target) > within:
        nearer_SO = abs(gap + _changes(limits, choice)) < abs(gap) * (1 - _SAME)
        if not nearer_SO.any():
            break
        choice = _put_any(choice, nearer_SO, generator)
    return choice


def _changes(limits: Limits, choice: Choice) -> np.ndarray:
    """By how much the cost changes with one other operation: ``(S, O)``, NaN if not offered."""
    assert limits.costs_SO is not None
    costs_SO = np.where(limits.is_offered, limits.costs_SO, np.nan)
    changes_SO: np.ndarray = costs_SO - costs_SO[np.arange(len(choice)), list(choice)][:, None]
    return changes_SO


def _put_any(choice: Choice, allowed_SO: np.ndarray, generator: random.Random) -> Choice:
    site = generator.choice(np.flatnonzero(allowed_SO.any(axis=1)).tolist())
    option = generator.choice(np.flatnonzero(allowed_SO[site]).tolist())
    return (*choice[:site], option, *choice[site + 1 :])


def _known_cost(limits: Limits, choice: Choice) -> float:
    cost = limits.cost(choice)
    assert cost is not None
    return cost


def limits_of(space: Space, times: Times | None, budget: float | None) -> Limits:
    """Say what may be proposed at the sites of a space.

    Args:
        space: The space.
        times: What operations take; needed where there is a budget.
        budget: Most time, relative to the unsubstituted backbone; ``None`` for any.
    """
    offered = tuple(range(len(space.operations)))
    costs_SK = None if times is None else np.array(times.operations)
    rest = 0.0 if times is None else times.rest
    return Limits((offered,) * len(space.sites), costs_SK, rest, budget)
