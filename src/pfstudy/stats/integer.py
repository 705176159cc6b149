"""One option for every site, the most valuable within a budget: an integer program.

max sum_so values_SO x_SO  such that  sum_o x_SO = 1 for every s,  sum_so costs_SO x_SO <= budget,
x_SO in {0, 1}: the multiple-choice knapsack (Kellerer, Pferschy and Pisinger 2004, Sec. 11). It is
solved exactly, by HiGHS's branch and bound; what it returns is added up again, as HiGHS takes a
millionth more than the budget for the budget.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array, vstack

from pfstudy.errors import PfstudyError

_OPTIMAL, _INFEASIBLE = 0, 2
_RANGE = 1e4  # of all values together: HiGHS stops when a gap in the objective is below 1e-6
_SAME = 1e-9  # relative to the sum of what the sites differ in: below it, two sums are equal


@dataclass(frozen=True)
class Choice:
    """What was chosen.

    Attributes:
        options: Of every site the index of its option.
        value: The sum of their values.
        cost: The sum of their costs.
    """

    options: tuple[int, ...]
    value: float
    cost: float


class Program:
    """The program of some values and costs; its matrices are built once.

    Args:
        values_SO: Value of every option at every site; NaN where it is not offered.
        costs_SO: Its cost, likewise.
        groups_S: Of every site the number of its group: sites of a group get the same option.
            ``None`` for a group of its own each.

    Raises:
        PfstudyError: Some group of sites has no option that is offered at all of them.
    """

    def __init__(
        self, values_SO: np.ndarray, costs_SO: np.ndarray, groups_S: Sequence[int] | None = None
    ) -> None:
        number = len(values_SO)
        groups = list(range(number)) if groups_S is None else list(groups_S)
        names, self._group_S = np.unique(groups, return_inverse=True)
        offered_SO = np.isfinite(values_SO) & np.isfinite(costs_SO)
        self._offered_GO = np.ones((len(names), values_SO.shape[1]), bool)
        np.logical_and.at(self._offered_GO, self._group_S, offered_SO)
        if not self._offered_GO.any(axis=1).all():
            raise PfstudyError("sites that must have the same operation have none in common.")
        self._values_GO = self._added(values_SO)
        self._costs_GO = self._added(costs_SO)
        self._same_value = _SAME * _spread(self._values_GO)
        self._same_cost = _SAME * _spread(self._costs_GO)
        group_X, self._option_X = np.nonzero(self._offered_GO)
        self._group_X = group_X
        number_X = np.arange(len(group_X))
        one_each = csr_array((np.ones(len(group_X)), (group_X, number_X)))
        self._scale = 1 / (np.nanmax(np.abs(self._costs_GO)) or 1.0)
        costs = self._costs_GO[group_X, self._option_X] * self._scale
        self._rows = vstack([one_each, csr_array(costs[None])], format="csr")
        self._costs_X = costs

    def _added(self, figures_SO: np.ndarray) -> np.ndarray:
        """The sums of the sites of every group."""
        sums_GO = np.zeros(self._offered_GO.shape)
        np.add.at(sums_GO, self._group_S, figures_SO)
        sums_GO[~self._offered_GO] = np.nan
        return sums_GO

    @property
    def least_cost(self) -> float:
        """The cost of the cheapest choice: no budget below it can be kept."""
        return float(np.nanmin(self._costs_GO, axis=1).sum())

    @property
    def most_cost(self) -> float:
        """The cost of the dearest choice: no budget above it changes anything."""
        return float(np.nanmax(self._costs_GO, axis=1).sum())

    def best(
        self, budget: float, excluded: Sequence[Choice] = (), values_SO: np.ndarray | None = None
    ) -> Choice | None:
        """Choose the most valuable within a budget, and of several the cheapest.

        Args:
            budget: What the costs may add up to.
            excluded: Choices that are not wanted.
            values_SO: Other values of the options; the cheapest of several is not sought then.

        Returns:
            ``None`` if there is none.
        """
        values_GO = self._values_GO if values_SO is None else self._added(values_SO)
        spread = _spread(values_GO)
        values_X = values_GO[self._group_X, self._option_X]
        values_X = (values_X - np.nanmax(values_GO, axis=1)[self._group_X]) * _RANGE / spread
        cuts = [self._indices(choice) for choice in excluded]
        found = self._solve(-values_X, budget, cuts)
        if found is None or values_SO is not None:
            return None if found is None else self._choice(found, values_GO)
        least = float(values_X[found].sum()) - _SAME * _RANGE
        cheapest = self._solve(self._costs_X, budget, cuts, (values_X, least))
        assert cheapest is not None
        return self._choice(cheapest, values_GO)

    def _solve(
        self,
        objective_X: np.ndarray,
        budget: float,
        cuts: Sequence[np.ndarray],
        at_least: tuple[np.ndarray, float] | None = None,
    ) -> np.ndarray | None:
        """Minimise an objective: the numbers of the variables that are 1, one for every group."""
        num_groups = len(self._costs_GO)
        low = np.array([*np.ones(num_groups), -np.inf])
        allowed = budget + self._same_cost
        high = np.array([*np.ones(num_groups), allowed * self._scale])
        rows = self._rows
        if at_least is not None:
            rows = vstack([rows, csr_array(at_least[0][None])], format="csr")
            low, high = np.append(low, at_least[1]), np.append(high, np.inf)
        cuts = list(cuts)
        while True:
            constraint = LinearConstraint(
                vstack([rows, *map(self._cut, cuts)], format="csc"),
                np.append(low, [-np.inf] * len(cuts)),
                np.append(high, [num_groups - 1.0] * len(cuts)),
            )
            with _silence():
                result = milp(
                    objective_X,
                    integrality=np.ones(len(objective_X)),
                    bounds=Bounds(0, 1),
                    constraints=constraint,
                    options={"mip_rel_gap": 0.0},
                )
            if result.status == _INFEASIBLE:
                return None
            if result.status != _OPTIMAL:
                raise RuntimeError(f"HiGHS: {result.message}")
            chosen = np.flatnonzero(result.x > 0.5)
            if self._costs_GO[self._group_X[chosen], self._option_X[chosen]].sum() <= allowed:
                return chosen
            cuts.append(chosen)  # within HiGHS's tolerance of the budget alone

    def _cut(self, indices: np.ndarray) -> csr_array:
        """A row that adds up to the number of groups for one choice alone."""
        row = np.zeros((1, len(self._group_X)))
        row[0, indices] = 1
        return csr_array(row)

    def _indices(self, choice: Choice) -> np.ndarray:
        options_G = np.zeros(len(self._costs_GO), int)
        options_G[self._group_S] = choice.options
        return np.flatnonzero(self._option_X == options_G[self._group_X])

    def _choice(self, indices: np.ndarray, values_GO: np.ndarray) -> Choice:
        options_G = self._option_X[indices]
        groups_G = np.arange(len(options_G))
        return Choice(
            tuple(int(option) for option in options_G[self._group_S]),
            float(values_GO[groups_G, options_G].sum()),
            float(self._costs_GO[groups_G, options_G].sum()),
        )

    def trace(self, budgets: Sequence[float]) -> list[Choice]:
        """Choose the best for every budget; see `trace_front`."""
        found: list[Choice] = []
        for budget in sorted(budgets, reverse=True):
            if found and found[-1].cost <= budget + self._same_cost:
                continue  # what was best for more is within this budget
            choice = self.best(budget)
            if choice is None:
                break
            while found and found[-1].value <= choice.value + self._same_value:
                found.pop()
            found.append(choice)
        return found[::-1]

    def front(self, most: int) -> list[Choice] | None:
        """List all choices that no other one beats in value and cost, cheapest first.

        Args:
            most: The most that are listed.

        Returns:
            ``None`` if there are more.
        """
        found: list[Choice] = []
        budget = self.most_cost
        while (choice := self.best(budget)) is not None:
            if len(found) == most:
                return None
            found.append(choice)
            budget = choice.cost - 2 * self._same_cost
        return found[::-1]

    def list_best(self, budget: float, number: int) -> list[Choice]:
        """List the best within a budget; see `list_best`."""
        found: list[Choice] = []
        while len(found) < number:
            choice = self.best(budget, found)
            if choice is None:
                break
            found.append(choice)
        return found


def trace_front(
    values_SO: np.ndarray,
    costs_SO: np.ndarray,
    budgets: Sequence[float],
    groups_S: Sequence[int] | None = None,
) -> list[Choice]:
    """Choose the best for each of many budgets.

    Args:
        values_SO: As for `Program`.
        costs_SO: Likewise.
        budgets: In any order; those that nothing keeps are left out.
        groups_S: As for `Program`.

    Returns:
        The choices, cheapest first, each more valuable than all before it; of equally valuable
        ones the cheapest, and none twice.
    """
    return Program(values_SO, costs_SO, groups_S).trace(budgets)


def list_best(
    values_SO: np.ndarray,
    costs_SO: np.ndarray,
    budget: float,
    number: int,
    groups_S: Sequence[int] | None = None,
) -> list[Choice]:
    """List the most valuable choices within a budget, the best first.

    Each is found by excluding those before it.

    Returns:
        As many as asked for, or all that there are.
    """
    return Program(values_SO, costs_SO, groups_S).list_best(budget, number)


def _spread(figures_GO: np.ndarray) -> float:
    """By how much sums over the groups differ at most; 1 where they do not."""
    widths_G = np.nanmax(figures_GO, axis=1) - np.nanmin(figures_GO, axis=1)
    return float(widths_G.sum()) or 1.0


@contextmanager
def _silence() -> Iterator[None]:
    """Keep off the standard output what HiGHS prints there, although it is told to print nothing.

    It does so from C, past `sys.stdout`.
    """
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        ctypes.CDLL(None).fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
