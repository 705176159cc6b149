"""Study designs: which variants a sweep over sites is made of, and which of them are dropped."""

from __future__ import annotations

import itertools
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pfstudy.errors import PfstudyError, unknown_name

Sites = Sequence[str]

RANDOM = "random"
"""The design whose variants have an operation drawn for every site."""


def _one_at_a_time(sites: Sites) -> list[Sites]:
    return [[site] for site in sites]


def _pairs(sites: Sites) -> list[Sites]:
    return [list(pair) for pair in itertools.combinations(sites, 2)]


def _from_front(sites: Sites) -> list[Sites]:
    return [sites[:number] for number in range(1, len(sites) + 1)]


def _from_back(sites: Sites) -> list[Sites]:
    return [sites[-number:] for number in range(1, len(sites) + 1)]


def _alternate(sites: Sites) -> list[Sites]:
    return [chosen for chosen in (sites[::2], sites[1::2]) if chosen]


def _all(sites: Sites) -> list[Sites]:
    return [sites]


DESIGNS: dict[str, Callable[[Sites], list[Sites]]] = {
    "one_at_a_time": _one_at_a_time,
    "pairs": _pairs,
    "from_front": _from_front,
    "from_back": _from_back,
    "alternate": _alternate,
    "all": _all,
}
"""From the sites of a sweep to the sets of them that get the operation `swap` together."""


def choose_sites(designs: Sequence[str], sites: Sites) -> list[Sites]:
    """List the sets of sites that designs consist of, those that coincide once.

    Args:
        designs: Names in `DESIGNS`.
        sites: The sites of the sweep, in the order of the backbone.

    Raises:
        PfstudyError: There is no such design.
    """
    chosen: dict[tuple[str, ...], None] = {}
    for name in designs:
        if name not in DESIGNS:
            raise unknown_name("design", name, [*DESIGNS, RANDOM])
        chosen |= dict.fromkeys(tuple(sorted(s, key=natural_order)) for s in DESIGNS[name](sites))
    return list(chosen)


def draw_operations(
    sites: Sites, operations: Sequence[str], num_samples: int, seed: int
) -> list[dict[str, str]]:
    """Draw networks uniformly, each with one of the operations at every site, no two the same.

    Args:
        sites: The sites.
        operations: The operations; ``original`` may be one of them.
        num_samples: Number of networks.
        seed: Seed of the draw.

    Raises:
        PfstudyError: There are not so many networks.
    """
    if len(set(operations)) ** len(sites) < num_samples:
        raise PfstudyError(
            f"study.num_samples is {num_samples}, but {len(set(operations))} operations at "
            f"{len(sites)} sites make {len(set(operations)) ** len(sites)} networks."
        )
    generator = random.Random(seed)
    drawn: dict[tuple[str, ...], None] = {}
    while len(drawn) < num_samples:
        drawn[tuple(generator.choice(operations) for _ in sites)] = None
    return [dict(zip(sites, network, strict=True)) for network in drawn]


def natural_order(site: str) -> tuple[int, ...]:
    """Sort key by which ``stage1.block2`` stands before ``stage1.block10``."""
    return tuple(int(number) for number in re.findall(r"\d+", site))


METRICS = ("sites", "params", "macs", "activations", "memory_traffic_bytes")
_RELATIONS = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}
_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.]+(?:[eE][+-]?\d+)?)(x?)\s*")


@dataclass(frozen=True)
class Constraint:
    """What a variant must satisfy to be trained.

    Attributes:
        text: As it was written.
        metric: ``sites`` (number of substituted ones), or a figure of `pfstudy.cost`.
        relation: ``<=``, ``>=``, ``<`` or ``>``.
        bound: What the metric is compared with.
        relative: Whether the bound is a multiple of the unsubstituted backbone's figure.
    """

    text: str
    metric: str
    relation: str
    bound: float
    relative: bool

    def holds(self, figures: Mapping[str, float], baseline: Mapping[str, float]) -> bool:
        """Whether a variant's figures satisfy it, beside those of its baseline."""
        bound = self.bound * baseline[self.metric] if self.relative else self.bound
        return bool(_RELATIONS[self.relation](figures[self.metric], bound))


def parse_constraints(texts: Sequence[str]) -> list[Constraint]:
    """Read constraints such as ``sites <= 3``, ``macs <= 2.5e9`` or ``params <= 0.6x``.

    Raises:
        PfstudyError: One cannot be read.
    """
    constraints = []
    for text in texts:
        match = _CONSTRAINT.fullmatch(text)
        if match is None:
            raise PfstudyError(
                f"study.constraints: {text!r} cannot be read; write METRIC <= NUMBER, or NUMBERx "
                f"for a multiple of the backbone's; the metrics are {', '.join(METRICS)}."
            )
        metric, relation, bound, multiple = match.groups()
        if metric not in METRICS:
            raise unknown_name("study.constraints: the metric", metric, METRICS)
        try:
            number = float(bound)
        except ValueError:
            raise PfstudyError(f"study.constraints: {text!r} has no number.") from None
        constraints.append(Constraint(text, metric, relation, number, bool(multiple)))
    return constraints
