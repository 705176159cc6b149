"""Counts of wrong findings and of intervals that cover, and the bounds that they have to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import numpy as np

from pfstudy.stats.comparison import CONFIDENCE, Estimate, decide, withhold

_CHUNK = 1000  # families; the arrays of all of them would not fit into 2 GB


@dataclass(frozen=True)
class Figure:
    """A share of families or intervals, or another figure, and its bound.

    Attributes:
        value: The figure.
        limit: Its bound; ``None`` if there is none.
        is_most: Whether it may be no larger than the bound; or else it may be no smaller.
        number: Families that a share was counted in; 0 of another figure.
    """

    value: float
    limit: float | None = None
    is_most: bool = True
    number: int = 0

    def is_missed(self, num_errors: float = 0.0) -> bool:
        """Whether the bound is missed by more than so many standard errors of the simulation."""
        if self.limit is None:
            return False
        error = (self.limit * (1 - self.limit) / self.number) ** 0.5 if self.number else 0.0
        beyond = self.value - self.limit if self.is_most else self.limit - self.value
        return beyond > num_errors * error


Figures = dict[str, Figure]
Measure = Callable[[int, np.random.Generator], Figures]


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        part: Key of the table.
        columns: What distinguishes the row.
        measure: Samples so many families, and counts.
        share: How many families it samples, relative to the number that is asked for.
    """

    part: str
    columns: dict[str, Any]
    measure: Measure
    share: float = 1.0

    def run(self, number: int) -> Figures:
        """Simulate so many families. The random numbers do not depend on the other rows."""
        seed = crc32(f"{self.part} {self.columns}".encode())
        generator = np.random.Generator(np.random.SFC64(seed))
        return self.measure(max(round(number * self.share), 1), generator)


def chunks(number: int) -> Iterator[int]:
    """Numbers of families that are simulated at once."""
    for start in range(0, number, _CHUNK):
        yield min(_CHUNK, number - start)


class Tally:
    """Counts of families whose true differences are known.

    Args:
        num_variants: In a family.
        truth: The true difference of all variants, in points.
        confidence: That the intervals of a family hold at once.
        lost: Whether runs of each member have failed, the baseline's first.
    """

    def __init__(
        self,
        num_variants: int,
        truth: float = 0.0,
        confidence: float = CONFIDENCE,
        lost: Sequence[bool] = (),
    ) -> None:
        self._truth, self._confidence, self._lost = truth, confidence, lost
        self._number = self._num_wrong = self._num_all = 0
        self._alone_V, self._shown_V = np.zeros(num_variants), np.zeros(num_variants)

    def add(self, made: Estimate) -> np.ndarray:
        """Count families.

        Returns:
            ``(F,)``, which have a variant that is called better or worse.
        """
        low_FV, high_FV = made.ends(len(self._shown_V), self._confidence)
        assert np.isfinite(low_FV).all()
        shown_FV = (low_FV <= self._truth) & (self._truth <= high_FV)
        low_alone_FV, high_alone_FV = made.ends(1)
        alone_FV = (low_alone_FV <= self._truth) & (self._truth <= high_alone_FV)
        found_F: np.ndarray = findings(low_FV, high_FV, self._lost).any(axis=1)
        self._number += len(found_F)
        self._num_wrong += int(found_F.sum())
        self._num_all += int(shown_FV.all(axis=1).sum())
        self._alone_V += alone_FV.sum(axis=0)
        self._shown_V += shown_FV.sum(axis=0)
        return found_F

    def figures(self, alike_V: Sequence[int] | None = None) -> Figures:
        """Make shares of the counts.

        Args:
            alike_V: Numbers of groups of variants with the same distribution; all are in one if
                it is left out. The coverage is that of the group with the least.
        """
        alike_V = [0] * len(self._shown_V) if alike_V is None else alike_V
        groups = [np.equal(alike_V, group) for group in np.unique(alike_V)]
        alone, shown = (
            min(float(counts_V[is_V].mean()) / self._number for is_V in groups)
            for counts_V in (self._alone_V, self._shown_V)
        )
        wrong = float("nan") if self._truth else self._num_wrong / self._number
        return {
            "wrong finding": Figure(wrong, number=self._number),
            "all hold": Figure(self._num_all / self._number, number=self._number),
            "alone": Figure(alone, number=self._number),
            "as shown": Figure(shown, number=self._number),
        }


def bound(
    figures: Figures, *, at_most: dict[str, float | None], at_least: dict[str, float | None]
) -> Figures:
    """Set bounds of figures, by name; none if it is ``None``."""
    found = dict(figures)
    for limits, is_most in ((at_most, True), (at_least, False)):
        for name, limit in limits.items():
            found[name] = replace(found[name], limit=limit, is_most=is_most)
    return found


def findings(low_FV: np.ndarray, high_FV: np.ndarray, lost: Sequence[bool] = ()) -> np.ndarray:
    """Which variants are called better or worse: ``(F, V)``."""
    ends = zip(low_FV.ravel().tolist(), high_FV.ravel().tolist(), strict=True)
    verdicts = [decide(low, high) for low, high in ends]
    if any(lost):
        of_variants, num_variants = list(lost[1:]), low_FV.shape[-1]
        verdicts = [
            withhold(verdict, lost=of_variants[i % num_variants], baseline_lost=lost[0])
            for i, verdict in enumerate(verdicts)
        ]
    found = [verdict in ("better", "worse") for verdict in verdicts]
    return np.array(found).reshape(low_FV.shape)
