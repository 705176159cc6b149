"""The speed phase of a sweep: which variants to measure, in how many processes, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pfstudy import files, store
from pfstudy.schema.config import Config, Speed
from pfstudy.speed.summary import Ratio, paired_ratio, percentiles_ms
from pfstudy.variant import SCHEMA_VERSION, Variant

MOST_TOGETHER = 8
"""Most variants that are timed beside the baseline in one process."""

Measure = Callable[[Sequence[Variant]], Sequence[Sequence[float]]]


def setting_of(settings: Speed) -> dict[str, Any]:
    """What a measurement is comparable by, besides the device."""
    return {
        "batch_size": settings.batch_size,
        "layout": "contiguous",
        "dtype": "float32",
        "backend": "eager",
        "num_threads": settings.num_threads,
    }


def expected_device(config: Config) -> dict[str, str]:
    """What a config alone says of the device that speed is measured on: its kind, or nothing."""
    wanted = config.speed.device if config.speed.device != "auto" else config.trainer.accelerator
    return {} if wanted == "auto" else {"device_kind": wanted}


def find_measured(variant: Variant, place: Mapping[str, str]) -> dict[str, Any] | None:
    """Find the measurement of a variant in its config's setting.

    Args:
        variant: The variant.
        place: Where it must be from: ``host``, and ``device`` or ``device_kind`` where known.
    """
    wanted = {**setting_of(variant.config.speed), **place}
    for found in store.read_speeds(store.variant_directory(variant)):
        if all(found.get(key) == value for key, value in wanted.items()):
            return found
    return None


def group_for_measuring(variants: Sequence[Variant]) -> list[list[list[Variant]]]:
    """Group variants by baseline and setting, in portions that fit into one process.

    Returns:
        Portions; each is a list of networks, the baseline's first, and each network a list of
        the variants that share it.
    """
    families: dict[str, dict[str, list[Variant]]] = {}
    for variant in variants:
        baseline = variant.baseline()
        key = repr((baseline.architecture_hash, variant.config.speed))
        family = families.setdefault(key, {baseline.architecture_hash: [baseline]})
        family.setdefault(variant.architecture_hash, []).append(variant)
    portions = []
    for family in families.values():
        first, *others = family.values()
        for start in range(0, max(1, len(others)), MOST_TOGETHER):
            portions.append([first, *others[start : start + MOST_TOGETHER]])
    return portions


def measure_portion(
    portion: Sequence[Sequence[Variant]],
    measure: Measure,
    progress: Callable[[int, float], None],
    place: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Measure networks in fresh processes until every ratio is known well enough.

    Args:
        portion: As `group_for_measuring` makes it.
        measure: Times networks side by side in one fresh process.
        progress: Told the number of processes so far, and the relative width of the widest
            interval.
        place: Host, device and kind of device, which become part of each measurement.

    Returns:
        One measurement for every network.
    """
    networks = [shared[0] for shared in portion]
    settings = networks[0].config.speed
    started = time.monotonic()
    timings: list[list[Sequence[float]]] = [[] for _ in networks]
    while True:
        done = measure(networks)
        for timing, latencies in zip(timings, done, strict=True):
            timing.append(latencies)
        number = len(timings[0])
        ratios = [paired_ratio(timing, timings[0]) for timing in timings]
        widest = max(ratio.relative_width for ratio in ratios)
        progress(number, widest)
        stopped_by = _stop(settings, number, widest, time.monotonic() - started)
        if stopped_by:
            break
    return [
        _result(timing, timings[0], ratio, settings, place, stopped_by)
        for timing, ratio in zip(timings, ratios, strict=True)
    ]


def relative_width(result: Mapping[str, Any]) -> float:
    """Width of a measurement's 95 % interval, relative to its ratio."""
    width: float = result["relative_latency_high"] - result["relative_latency_low"]
    return width / float(result["relative_latency"])


def save(variant: Variant, result: Mapping[str, Any]) -> Path:
    """Write a measurement beside the runs of a variant, in a file named after its setting."""
    name = "_".join(
        [
            str(result["device"]),
            str(result["host"]),
            str(result["dtype"]),
            str(result["layout"]),
            f"b{result['batch_size']}",
            f"t{result['num_threads']}",
            str(result["backend"]),
        ]
    )
    path = store.variant_directory(variant) / "speed" / f"{files.file_name(name)}.json"
    files.write_json(path, result)
    return path


def _stop(settings: Speed, number: int, widest: float, seconds: float) -> str | None:
    if number < settings.num_processes:
        return None
    if widest <= settings.interval_width:
        return "interval_width"
    if number >= settings.max_processes:
        return "max_processes"
    return "max_seconds" if seconds > settings.max_seconds else None


def _result(
    timing: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    ratio: Ratio,
    settings: Speed,
    place: Mapping[str, str],
    stopped_by: str,
) -> dict[str, Any]:
    median, low, high = percentiles_ms(timing)
    return {
        "schema_version": SCHEMA_VERSION,
        **place,
        **setting_of(settings),
        "latency_ms": median,
        "latency_p10_ms": low,
        "latency_p90_ms": high,
        "throughput_images_per_s": 1e3 * settings.batch_size / median,
        "baseline_latency_ms": percentiles_ms(baseline)[0],
        "relative_latency": ratio.value,
        "relative_latency_low": ratio.low,
        "relative_latency_high": ratio.high,
        "num_processes": len(timing),
        "num_rounds": settings.num_rounds,
        "stopped_by": stopped_by,
    }
