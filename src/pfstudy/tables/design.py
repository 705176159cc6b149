"""A design: networks that were chosen, what is predicted of them, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pfstudy.schema.operations import ORIGINAL
from pfstudy.speed.blocktable import BlockTable
from pfstudy.tables.offers import Measured, Offers, Option

NUM_DRAWS = 100
"""How often effects are drawn from what is known of them."""

_SLOWER = 1.02  # a ratio below is as good as none


@dataclass(frozen=True)
class Figure:
    """A predicted figure with half of its 95 % interval, ``None`` where that is not known."""

    value: float
    half_width: float | None

    @property
    def low(self) -> float | None:
        """Lower end."""
        return None if self.half_width is None else self.value - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end."""
        return None if self.half_width is None else self.value + self.half_width


@dataclass(frozen=True)
class Network:
    """A network that was chosen.

    Attributes:
        options: What stands at every site, by its address.
        label: In a few words.
        latency: Time relative to the unsubstituted backbone.
        worth: Predicted accuracy in percent, or the sum of log-probabilities.
        difference: By how much that differs from the unsubstituted backbone's; ``None`` where that
            means nothing.
    """

    options: Mapping[str, Option]
    label: str
    latency: Figure
    worth: Figure
    difference: Figure | None

    @property
    def operations(self) -> dict[str, str]:
        """The label of what stands at every site."""
        return {address: option.label for address, option in self.options.items()}


@dataclass(frozen=True)
class Place:
    """One site of a network that was chosen.

    Attributes:
        address: The site.
        option: What stands there.
        effect: What that is worth.
        share: Share of the site's block in the time of the unsubstituted backbone.
        share_before: That of the original there.
        share_of_draws: Share of draws of the effects in which the same is chosen there; ``None``
            if nothing tells how sure they are.
    """

    address: str
    option: Option
    effect: Figure
    share: float
    share_before: float
    share_of_draws: float | None


@dataclass(frozen=True)
class Design:
    """What was chosen, and from what.

    Attributes:
        offers: What could be chosen.
        table: What it takes.
        latency: The budget; ``None`` if only the curve was asked for.
        curve: The best networks for many budgets, the fastest first.
        fastest: The time of the fastest network there is.
        baseline: The unsubstituted backbone; ``None`` if it is not among what is offered.
        best: The best within the budget, the best first; empty without one.
        places: The sites of the very best.
        optimism: By how much the prediction of the best is too high, in points, because the best
            of noisy predictions was taken; ``None`` if nothing tells.
        is_here: Whether the times are of this machine.
        is_whole: Whether the curve has every network that no other one beats in both, and not
            those for evenly spaced budgets alone.
    """

    offers: Offers
    table: BlockTable
    latency: float | None
    curve: tuple[Network, ...]
    fastest: float
    baseline: Network | None
    best: tuple[Network, ...] = ()
    places: tuple[Place, ...] = ()
    optimism: float | None = None
    is_here: bool = True
    is_whole: bool = True

    @property
    def chosen(self) -> Network | None:
        """The best network within the budget."""
        return self.best[0] if self.best else None


def slower_sites(offers: Offers, table: BlockTable) -> dict[str, dict[str, float]]:
    """Find the sites where an operation takes longer than the original.

    Returns:
        Ratios by operation and site.
    """
    found: dict[str, dict[str, float]] = {}
    for address, options in offers.options.items():
        for option in options:
            ratio = table.cells[address][option.key] / table.cells[address][ORIGINAL]
            if ratio > _SLOWER:
                found.setdefault(option.label, {})[address] = ratio
    return found


def predict_measured(table: BlockTable, measured: Measured) -> float | None:
    """The time of a network whose worth is known; ``None`` if the table lacks what it has."""
    if table.lacks(measured.keys.items()):
        return None
    share = table.rest + sum(table.cells[site][key] for site, key in measured.keys.items())
    return share / table.baseline
