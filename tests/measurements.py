"""Measurements of speed as they are written, made by hand."""

from __future__ import annotations

from typing import Any

from pfstudy.speed.pooling import figures_of_processes

SETTING: dict[str, Any] = {
    "device": "Some CPU",
    "host": "here",
    "batch_size": 1,
    "layout": "contiguous",
    "dtype": "float32",
    "backend": "eager",
    "passes": "forward",
    "cache": "warm",
    "cuda_graph": False,
    "num_threads": 1,
    "version": "torch2.9.0",
    "driver": None,
    "measuring": 1,
}
NAMED = "Some CPU, 1 thread, batch 1, contiguous, float32, eager"
"""The setting, as a caption names it."""

ENVIRONMENT: dict[str, Any] = {"host": "here", "versions": {"torch": "2.9.0"}}


def measurement(relative: float = 1.0, **changes: Any) -> dict[str, Any]:
    """A measurement beside a baseline of 2 ms, with an interval of ±1 %."""
    return {
        "schema_version": 1,
        **SETTING,
        "device_kind": "cpu",
        "num_processes": 5,
        "num_rounds": 40,
        "stopped_by": "interval_width",
        "others_load": 0.0,
        "max_load": 0.1,
        "latency_ms": 2 * relative,
        "latency_p10_ms": 1.9 * relative,
        "latency_p90_ms": 2.2 * relative,
        "throughput_images_per_s": 500 / relative,
        "baseline_latency_ms": 2.0,
        "relative_latency": relative,
        "relative_latency_low": 0.99 * relative,
        "relative_latency_high": 1.01 * relative,
        "peak_memory_bytes": 3 * 2**20,
        "energy_j": None,
        "fell_back": False,
        **changes,
    }


def of_processes(*ratios: float, first: int = 0, **changes: Any) -> dict[str, Any]:
    """A measurement with the figures of every process, beside a baseline of 2 ms.

    Args:
        ratios: Relative time in each process.
        first: Number of the first process, by which processes are told apart.
        changes: What else it says.
    """
    processes = [
        {
            "id": f"process{number}",
            "num_rounds": 40,
            "others_load": 0.0,
            "latency_ms": 2 * ratio,
            "latency_p10_ms": 1.9 * ratio,
            "latency_p90_ms": 2.2 * ratio,
            "baseline_latency_ms": 2.0,
            "relative_latency": ratio,
        }
        for number, ratio in enumerate(ratios, first)
    ]
    figures = figures_of_processes(processes, 1)
    return measurement(**{**figures, "processes": processes, **changes})
