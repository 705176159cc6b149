"""From timings of several processes to a figure with an interval. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

_NUM_DRAWS = 10_000
_TRIMMED = 0.2
_CONFIDENCE = 0.95

BETWEEN_PROCESSES = 0.05
"""Standard deviation of the logarithm of a network's time between fresh processes.

That is what was seen on an idle machine. It stands for what a measurement does not tell.
"""


@dataclass(frozen=True)
class Timings:
    """What one process has found out about several networks.

    Attributes:
        latencies_ms: ``[network][round]``.
        load: Cores, or share of the GPU, that others have used meanwhile; ``None`` if not known.
        peak_memory_bytes: Of each network; ``None`` where it was not asked for or is not known.
        energy_j: Joules of a pass of each network, of the whole device; ``None`` likewise.
        fell_back: Indices of the networks that were computed eagerly, as they do not compile.
    """

    latencies_ms: Sequence[Sequence[float]]
    load: float | None
    peak_memory_bytes: Sequence[int | None]
    energy_j: Sequence[float | None]
    fell_back: Sequence[int]


@dataclass(frozen=True)
class SegmentTimings:
    """What one process has found out about what is within a pass.

    Attributes:
        segments_ms: ``[network][round][segment]``; the last segment is the rest.
        totals_ms: ``[network][round]``, of whole passes without marks; in a block table those of
            the unsubstituted backbone come first, then those of the held-out networks.
        load: Cores, or share of the GPU, that others have used meanwhile.
    """

    segments_ms: Sequence[Sequence[Sequence[float]]]
    totals_ms: Sequence[Sequence[float]]
    load: float | None


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
        value: Median over processes of each one's trimmed mean over paired rounds.
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

    The interval is that of a bootstrap over the hierarchy of processes and rounds: processes are
    drawn with replacement, and each brings its rounds as they are (Davison and Hinkley 1997, Sec.
    3.8: drawing them again, too, would count their spread twice). The rounds of one process
    alone would give an interval that is too narrow wherever processes differ; and so would plain
    percentiles of few processes, so these are expanded (Hesterberg 2015), and the interval is at
    least as wide as Student's for the mean over processes: a median of fewer than five can be no
    further off than they are themselves.

    Args:
        latencies: ``[process][round]``; numbers of rounds may differ between processes.
        baseline: The same of the baseline.
    """
    pairs = zip(latencies, baseline, strict=True)
    return pooled_ratio(np.array([paired_mean(*pair) for pair in pairs]))


def paired_mean(latencies: Sequence[float], baseline: Sequence[float]) -> float:
    """Trimmed mean over the rounds of a process of the ratio of two networks."""
    return float(trimmed_mean(np.divide(latencies, baseline)))


def pooled_ratio(ratios_P: np.ndarray) -> Ratio:
    """Median over processes of a ratio, with the interval of `paired_ratio`.

    Args:
        ratios_P: `paired_mean` of every process.
    """
    number = len(ratios_P)
    if number == 1:  # says nothing about the others
        return Ratio(float(ratios_P[0]), 0.0, float("inf"))
    generator = np.random.default_rng(0)
    drawn = np.median(ratios_P[generator.integers(number, size=(_NUM_DRAWS, number))], axis=1)
    tail = _expanded_tail(number)
    low, high = np.percentile(drawn, [100 * tail, 100 * (1 - tail)])
    value = float(np.median(ratios_P))
    error = float(np.log(ratios_P).std(ddof=1)) / number**0.5  # a ratio is never below 0
    half = np.exp(float(stdtrit(number - 1, (1 + _CONFIDENCE) / 2)) * error)
    return Ratio(value, min(float(low), value / half), max(float(high), value * half))


def log_error(low: Any, high: Any, num_processes: Any) -> np.ndarray:
    """Standard error of the logarithm of a ratio, from its 95 % interval.

    Half the interval's width over Student's quantile of P - 1 degrees of freedom. Where there is
    no interval, as for one process, it is `BETWEEN_PROCESSES`.

    Args:
        low: Lower ends, in any shape.
        high: Upper ends, of the same shape.
        num_processes: Numbers of processes P, of the same shape; NaN where they are not known.
    """
    ends = np.asarray(low, float), np.asarray(high, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = (np.log(ends[1]) - np.log(ends[0])) / 2
        errors = half / joint_quantile(num_processes, 1)
    return np.where(np.isfinite(errors), errors, BETWEEN_PROCESSES)


def joint_interval(
    ratio: Any, low: Any, high: Any, num_processes: Any, num_networks: int
) -> tuple[np.ndarray, np.ndarray]:
    """Widen 95 % intervals of ratios so that those of several networks hold at once.

    Bonferroni's correction: the interval of each network holds at 1 - 0.05 / V, by the ratio of
    Student's quantiles on the logarithmic scale.

    Args:
        ratio: Ratios, in any shape.
        low: Lower ends of each network's own interval, of the same shape.
        high: Upper ends, of the same shape.
        num_processes: Numbers of processes, of the same shape; NaN where they are not known.
        num_networks: Number of networks V that are compared.

    Returns:
        Lower and upper ends. An interval of one process is not bounded.
    """
    values = np.asarray(ratio, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = joint_quantile(num_processes, num_networks) / joint_quantile(num_processes, 1)
        factor = np.where(np.isnan(factor), 1.0, factor)
        below, above = (np.log(values / np.asarray(end, float)) for end in (low, high))
        return values * np.exp(-factor * below), values * np.exp(-factor * above)


def joint_quantile(num_processes: Any, num_networks: int) -> np.ndarray:
    """Half width of intervals of several networks that hold at once, in standard errors.

    Args:
        num_processes: Numbers of processes, in any shape; Student's quantile of one degree of
            freedom less. NaN where they are not known; the normal quantile.
        num_networks: Number of networks.
    """
    number = np.asarray(num_processes, float)
    degrees = np.where(np.isnan(number), np.inf, number - 1)
    tail = (1 - _CONFIDENCE) / 2 / num_networks
    quantiles: np.ndarray = np.where(np.isinf(degrees), -ndtri(tail), -stdtrit(degrees, tail))
    return quantiles


def trimmed_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without a fifth of the values at each end.

    Outliers count as little as in a median, and it needs two thirds of the rounds.
    """
    ordered = np.sort(values, axis=-1)
    cut = int(_TRIMMED * values.shape[-1])
    mean: np.ndarray = ordered[..., cut : values.shape[-1] - cut].mean(axis=-1)
    return mean


def trimmed_error(values: np.ndarray) -> np.ndarray:
    """Standard error of `trimmed_mean` over the last axis (Tukey and McLaughlin 1963)."""
    number, cut = values.shape[-1], int(_TRIMMED * values.shape[-1])
    ordered = np.sort(values, axis=-1)
    ends = ordered[..., cut, None], ordered[..., number - cut - 1, None]
    spread = np.clip(ordered, *ends).std(axis=-1, ddof=1)
    error: np.ndarray = spread / ((1 - 2 * cut / number) * np.sqrt(number))
    return error


def over_processes(rounds: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Mean over processes of trimmed means over rounds, and its standard error.

    Args:
        rounds: ``(..., R)`` of every process; their numbers of rounds may differ.
    """
    means = np.array([trimmed_mean(each) for each in rounds])
    variance = np.mean([trimmed_error(each) ** 2 for each in rounds], axis=0)
    if len(means) > 1:  # rounds of one process do not tell how processes differ
        variance = np.maximum(variance, means.var(axis=0, ddof=1))
    return means.mean(axis=0), np.sqrt(variance / len(means))


def mean_load(processes: Iterable[SegmentTimings]) -> float | None:
    """What others used of the machine, over processes; ``None`` if that is not known."""
    loads = [timings.load for timings in processes if timings.load is not None]
    return round(max(0.0, float(np.mean(loads))), 3) if loads else None


def _expanded_tail(number: int) -> float:
    """Share of bootstrap draws to leave out at each end, for a sample of some size."""
    quantile = stdtrit(number - 1, (1 - _CONFIDENCE) / 2)
    return float(ndtr(np.sqrt(number / (number - 1)) * quantile))


def percentiles_ms(latencies: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Median over processes of each one's median, p10 and p90.

    Args:
        latencies: ``[process][round]``, in milliseconds.
    """
    by_process = [np.percentile(rounds, [50, 10, 90]) for rounds in latencies]
    median, low, high = np.median(by_process, axis=0)
    return float(median), float(low), float(high)
