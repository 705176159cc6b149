"""An operation for every site, the best within a budget of time: from offers to a design."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.speed.blocktable import BlockTable
from pfstudy.stats.integer import Choice, Program
from pfstudy.tables.design import NUM_DRAWS, Design, Figure, Network, Place
from pfstudy.tables.offers import Offers, Option
from pfstudy.variant import label_of

NUM_BUDGETS = 50
_SEED = 0


def make_design(
    offers: Offers,
    table: BlockTable,
    latency: float | None,
    num_best: int = 1,
    *,
    is_here: bool = True,
) -> Design:
    """Choose.

    Args:
        offers: What may be chosen.
        table: The time of every option at every site, which it must have.
        latency: The budget, relative to the unsubstituted backbone; ``None`` for the curve alone.
        num_best: How many networks within the budget are wanted.
        is_here: Whether the table is of this machine.

    Raises:
        PfstudyError: Nothing is so fast.
    """
    solver = _Solver(offers, table)
    if latency is not None:
        solver.check(latency)
    whole = solver.program.front(NUM_BUDGETS)
    curve = tuple(solver.make_networks(solver.trace(latency) if whole is None else whole))
    baseline = solver.baseline()
    design = Design(
        offers,
        table,
        latency,
        curve,
        solver.fastest,
        baseline,
        is_here=is_here,
        is_whole=whole is not None,
    )
    if latency is None:
        return design
    found = solver.program.list_best(latency - solver.rest, num_best)
    drawn = solver.draw(latency)
    return replace(
        design,
        best=tuple(solver.make_networks(found)),
        places=tuple(solver.make_places(found[0], drawn)),
        optimism=solver.optimism(drawn),
    )


class _Solver:
    """Options as numbers: values and times by site and option."""

    def __init__(self, offers: Offers, table: BlockTable) -> None:
        self.offers, self.table = offers, table
        self.sites = list(offers.options)
        most = max(map(len, offers.options.values()))
        self.values_SO = np.full((len(self.sites), most), np.nan)
        self.times_SO = np.full((len(self.sites), most), np.nan)
        for s, (address, options) in enumerate(offers.options.items()):
            for o, option in enumerate(options):
                self.values_SO[s, o] = offers.points[address, option.label]
                self.times_SO[s, o] = table.cells[address][option.key] / table.baseline
        self.rest = table.rest / table.baseline
        self.program = Program(self.values_SO, self.times_SO, offers.groups)

    @cached_property
    def fastest(self) -> float:
        """The time of the fastest network there is."""
        return self.rest + self.program.least_cost

    @cached_property
    def offers_original(self) -> bool:
        """Whether the unsubstituted backbone is among what is offered."""
        options = self.offers.options.values()
        return all(any(option.label == ORIGINAL for option in each) for each in options)

    def check(self, latency: float) -> None:
        """Refuse a budget that nothing keeps.

        Raises:
            PfstudyError: It is one; says what can be reached.
        """
        if not latency > 0:
            raise PfstudyError(
                "--latency is a share of the unsubstituted backbone's time, such as 0.8, but got "
                f"{latency:g}; the fastest network takes {_rounded_up(self.fastest):.3f} of it."
            )
        if self.program.best(latency - self.rest) is None:
            raise PfstudyError(
                f"--latency {latency:g} cannot be reached: the fastest network of these operations "
                f"takes {_rounded_up(self.fastest):.3f} of the unsubstituted backbone's time on "
                f"{self.table.setting.get('device')}."
            )

    def trace(self, latency: float | None) -> list[Choice]:
        """The best for some budgets, from the fastest network to the most valuable of all."""
        most = self.program.best(self.program.most_cost)
        assert most is not None
        budgets = np.linspace(self.program.least_cost, most.cost, NUM_BUDGETS).tolist()
        if latency is not None:
            budgets.append(latency - self.rest)
        return self.program.trace(budgets)

    def options_of(self, choice: Choice) -> dict[str, Option]:
        """What a choice has at every site."""
        listed = zip(self.offers.options.items(), choice.options, strict=True)
        return {address: options[index] for (address, options), index in listed}

    def make_networks(self, choices: Sequence[Choice]) -> list[Network]:
        """Predict time and worth of choices."""
        offers = self.offers
        options = [self.options_of(choice) for choice in choices]
        operations = [{a: o.label for a, o in each.items()} for each in options]
        worths = [Figure(choice.value, None) for choice in choices]
        differences: list[Figure | None] = [None] * len(choices)
        if offers.predictor is not None:
            predicted = offers.predictor.predict(operations, offers.num_seeds)
            worths = _figures(predicted.values_V, predicted.half_widths_V)
            if self.offers_original:
                predicted = offers.predictor.predict_differences(operations, offers.num_seeds)
                differences = [*_figures(predicted.values_V, predicted.half_widths_V)]
        return [
            Network(
                option,
                label_of(stands, offers.config.model),
                self.predict_latency(choice.cost),
                worth,
                difference,
            )
            for option, stands, choice, worth, difference in zip(
                options, operations, choices, worths, differences, strict=True
            )
        ]

    def baseline(self) -> Network | None:
        """The unsubstituted backbone, whose time is 1 by definition."""
        if not self.offers_original:
            return None
        labels = [[option.label for option in o] for o in self.offers.options.values()]
        options = tuple(options.index(ORIGINAL) for options in labels)
        value = float(self.values_SO[np.arange(len(labels)), list(options)].sum())
        (network,) = self.make_networks([Choice(options, value, 1 - self.rest)])
        difference = None if network.difference is None else Figure(0.0, None)
        return replace(network, latency=Figure(1.0, None), difference=difference)

    def predict_latency(self, cost: float) -> Figure:
        """The time of a network whose sites take a share of the backbone's."""
        value, error = self.rest + cost, self.table.relative_error
        return Figure(value, None if error is None else value * error)

    def draw(self, latency: float) -> list[tuple[Choice, np.ndarray]] | None:
        """Choose for draws of the effects from what is known of them.

        Returns:
            Choices, and the values that each was made by; ``None`` if nothing is known.
        """
        predictor = self.offers.predictor
        drawn_NF = None if predictor is None else predictor.draw_effects(NUM_DRAWS, _SEED)
        if predictor is None or drawn_NF is None:
            return None
        columns = {feature: number for number, feature in enumerate(predictor.fit.features)}
        found = []
        for effects_F in drawn_NF:
            values_SO = self.values_SO.copy()
            for s, (address, options) in enumerate(self.offers.options.items()):
                for o, option in enumerate(options):
                    if (address, option.label) in columns:
                        values_SO[s, o] = effects_F[columns[address, option.label]]
            choice = self.program.best(latency - self.rest, values_SO=values_SO)
            assert choice is not None
            found.append((choice, values_SO))
        return found

    def optimism(self, drawn: Sequence[tuple[Choice, np.ndarray]] | None) -> float | None:
        """By how much what is chosen by noisy values is worth less than they say, on average."""
        if drawn is None:
            return None
        rows = np.arange(len(self.sites))
        true = [float(self.values_SO[rows, list(choice.options)].sum()) for choice, _ in drawn]
        return float(np.mean([choice.value for choice, _ in drawn]) - np.mean(true))

    def make_places(
        self, choice: Choice, drawn: Sequence[tuple[Choice, np.ndarray]] | None
    ) -> list[Place]:
        """Say of every site what was chosen, and how sure that is."""
        places = []
        for s, (address, option) in enumerate(self.options_of(choice).items()):
            same = None
            if drawn is not None:
                same = float(np.mean([c.options[s] == choice.options[s] for c, _ in drawn]))
            cells, whole = self.table.cells[address], self.table.baseline
            places.append(
                Place(
                    address,
                    option,
                    self.effect_of(address, option),
                    cells[option.key] / whole,
                    cells[ORIGINAL] / whole,
                    same,
                )
            )
        return places

    def effect_of(self, address: str, option: Option) -> Figure:
        """What an option is worth at a site."""
        predictor = self.offers.predictor
        if predictor is None or (address, option.label) not in predictor.fit.features:
            return Figure(self.offers.points[address, option.label], None)
        return Figure(*predictor.effect(address, option.label))


def _rounded_up(value: float) -> float:
    """So that what is said to be reachable can be asked for."""
    return math.ceil(1000 * value) / 1000


def _figures(values_V: np.ndarray, half_widths_V: np.ndarray | None) -> list[Figure]:
    halves = [None] * len(values_V) if half_widths_V is None else half_widths_V.tolist()
    return [Figure(float(value), half) for value, half in zip(values_V, halves, strict=True)]
