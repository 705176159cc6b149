"""From timings of several processes to a figure with an interval. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_NUM_DRAWS = 1000


@dataclass(frozen=True)
class Ratio:
    """Latency relative to the baseline.

    Attributes:
        value: Median over processes of each process's median over paired rounds.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    @property
    def relative_width(self) -> float:
        """Width of the interval relative to the value."""
        return (self.high - self.low) / self.value


def paired_ratio(
    latencies: Sequence[Sequence[float]], baseline: Sequence[Sequence[float]]
) -> Ratio:
    """Ratio of two networks that were timed in the same rounds of the same processes.

    The interval is a percentile interval of a hierarchical bootstrap: processes are drawn with
    replacement, and in each of them rounds. Fresh processes differ by more than the rounds
    within one, so the rounds alone would give an interval that is too narrow.

    Args:
        latencies: ``[process][round]``.
        baseline: The same of the baseline.
    """
    ratios_PR = np.asarray(latencies) / np.asarray(baseline)
    num_processes, num_rounds = ratios_PR.shape
    generator = np.random.default_rng(0)
    processes = generator.integers(num_processes, size=(_NUM_DRAWS, num_processes, 1))
    rounds = generator.integers(num_rounds, size=(_NUM_DRAWS, num_processes, num_rounds))
    drawn = np.median(np.median(ratios_PR[processes, rounds], axis=2), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Ratio(float(np.median(np.median(ratios_PR, axis=1))), float(low), float(high))


def percentiles_ms(latencies: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Median over processes of each one's median, p10 and p90.

    Args:
        latencies: ``[process][round]``, in milliseconds.
    """
    by_process = np.percentile(np.asarray(latencies), [50, 10, 90], axis=1)
    median, low, high = np.median(by_process, axis=1)
    return float(median), float(low), float(high)
