"""From timings of several processes to a figure with an interval. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

_NUM_DRAWS = 2000
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Timings:
    """What one process has found out about several networks.

    Attributes:
        latencies_ms: ``[network][round]``.
        load: Cores, or share of the GPU, that others have used meanwhile.
        peak_memory_bytes: Of each network; ``None`` where it was not asked for or is not known.
        energy_j: Joules of a pass of each network, of the whole device; ``None`` likewise.
        fell_back: Indices of the networks that were computed eagerly, as they do not compile.
    """

    latencies_ms: Sequence[Sequence[float]]
    load: float
    peak_memory_bytes: Sequence[int | None]
    energy_j: Sequence[float | None]
    fell_back: Sequence[int]


@dataclass(frozen=True)
class SegmentTimings:
    """What one process has found out about what is within a pass.

    Attributes:
        segments_ms: ``[network][round][segment]``; the last segment is the rest.
        totals_ms: ``[held-out network][round]``, of whole passes.
        load: Cores, or share of the GPU, that others have used meanwhile.
    """

    segments_ms: Sequence[Sequence[Sequence[float]]]
    totals_ms: Sequence[Sequence[float]]
    load: float


@dataclass(frozen=True)
class Ceilings:
    """What a device could do at best.

    Attributes:
        bytes_per_s: Bytes read and written by a copy that no cache holds.
        macs_per_s: Multiply-accumulates of a product of large matrices.
    """

    bytes_per_s: float
    macs_per_s: float


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

    The interval is an expanded percentile interval (Hesterberg 2015) of a hierarchical bootstrap:
    processes are drawn with replacement, and in each of them rounds. Fresh processes differ by
    more than the rounds within one, so the rounds alone would give an interval that is too
    narrow; and of the few processes that there are, plain percentiles would, too.

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
    tail = _expanded_tail(num_processes)
    low, high = np.percentile(drawn, [100 * tail, 100 * (1 - tail)])
    return Ratio(float(np.median(np.median(ratios_PR, axis=1))), float(low), float(high))


def _expanded_tail(number: int) -> float:
    """Share of bootstrap draws to leave out at each end, for a sample of some size."""
    tail = (1 - _CONFIDENCE) / 2
    if number == 1:
        return tail
    return float(ndtr(np.sqrt(number / (number - 1)) * stdtrit(number - 1, tail)))


def percentiles_ms(latencies: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Median over processes of each one's median, p10 and p90.

    Args:
        latencies: ``[process][round]``, in milliseconds.
    """
    by_process = np.percentile(np.asarray(latencies), [50, 10, 90], axis=1)
    median, low, high = np.median(by_process, axis=1)
    return float(median), float(low), float(high)
