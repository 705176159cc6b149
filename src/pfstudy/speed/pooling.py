"""Several measurements of one network in one setting, pooled over their processes. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pfstudy.speed.setting import complete_setting
from pfstudy.speed.summary import pooled_ratio

PROCESSES = "processes"
"""Key of the figures of every process, each with an ``id`` by which it counts once."""

_MEDIANS = ("latency_ms", "latency_p10_ms", "latency_p90_ms", "baseline_latency_ms")
_ONCE = ("peak_memory_bytes", "energy_j", "beside")

Measurement = Mapping[str, Any]


def figures_of_processes(processes: Sequence[Measurement], batch_size: int) -> dict[str, Any]:
    """Figures of a network with the interval of its ratio, from those of every process.

    Args:
        processes: Each with the network's latency, the baseline's, and the trimmed mean of their
            ratio over paired rounds.
        batch_size: Images per pass.

    Returns:
        Medians over processes; ``relative_latency`` with its 95 % interval; how many processes
        there were, the least number of rounds, and what others used of the machine on average.
    """
    figures = {key: statistics.median(each[key] for each in processes) for key in _MEDIANS}
    ratio = pooled_ratio(np.array([each["relative_latency"] for each in processes]))
    loads = [load for each in processes if (load := each.get("others_load")) is not None]
    return {
        **figures,
        "throughput_images_per_s": 1e3 * batch_size / figures["latency_ms"],
        "relative_latency": ratio.value,
        "relative_latency_low": ratio.low,
        "relative_latency_high": ratio.high,
        "num_processes": len(processes),
        "num_rounds": min(each["num_rounds"] for each in processes),
        "others_load": round(statistics.mean(loads), 3) if loads else None,
    }


def pool(known: Measurement, new: Measurement) -> Measurement:
    """Pool two measurements of one network in one setting; no process is lost or counted twice.

    A measurement from before processes were kept cannot be pooled. It stays until the processes
    that were kept since are more than its own, or as many with a narrower interval. A network that
    fell back to eager mode is another one than the compiled network, which is kept of the two.

    Args:
        known: What is known.
        new: Measured later, or elsewhere.

    Returns:
        ``known`` itself where ``new`` adds nothing.
    """
    if complete_setting(known) != complete_setting(new):
        return new
    if bool(known.get("fell_back")) != bool(new.get("fell_back")):
        return new if known.get("fell_back") else known
    ours, theirs = ({each["id"]: each for each in m.get(PROCESSES, ())} for m in (known, new))
    if theirs and theirs.keys() <= ours.keys():
        return known
    processes = list((ours | theirs).values())
    whole = [each for each in (known, new) if not _is_sum(each)]
    if processes:
        base = {**known, **new} if _is_sum(known) else new if theirs else known
        once = {key: new.get(key) or known.get(key) for key in _ONCE}
        once = {key: value for key, value in once.items() if value is not None or key in base}
        beside = _better_beside(known.get("beside"), new.get("beside"))
        once |= {"beside": beside} if beside else {}
        figures = figures_of_processes(processes, base["batch_size"])
        whole.append({**base, **figures, **once})
    best = max(whole, key=_rank)
    return {**best, PROCESSES: processes} if processes else best


def _is_sum(measured: Measurement) -> bool:
    """Whether the figures of a measurement are those of its processes."""
    return bool(measured.get(PROCESSES)) and (
        len(measured[PROCESSES]) == measured.get("num_processes")
    )


def _rank(measured: Measurement) -> tuple[int, float]:
    """More processes are better, and of as many a narrower interval."""
    low, high = (measured.get(f"relative_latency_{end}") for end in ("low", "high"))
    width = float("inf")
    if low is not None and high is not None:
        width = (high - low) / measured["relative_latency"]
    return measured.get("num_processes", 0), -width


def _better_beside(known: Measurement | None, new: Measurement | None) -> Measurement | None:
    """The better of two measurements of a backbone beside another one, the first if they tie."""
    if known is None or new is None:
        return known or new
    if known["architecture"] != new["architecture"]:
        return known
    return max(known, new, key=_rank)
