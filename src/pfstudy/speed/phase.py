"""Which variants to measure side by side, in how many processes, and the result."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from pfstudy.schema.config import Speed
from pfstudy.speed.pooling import PROCESSES, figures_of_processes
from pfstudy.speed.setting import setting_of
from pfstudy.speed.summary import Timings, paired_mean, paired_ratio, percentiles_ms
from pfstudy.variant import SCHEMA_VERSION, Variant, architecture_of

MOST_TOGETHER = 8
"""Most networks that are timed next to the first one in one process."""

_BESIDE = (
    *("relative_latency", "relative_latency_low", "relative_latency_high", "num_processes"),
    *("others_load", "max_load"),
)

Measure = Callable[[Sequence[Variant], bool, float], Timings]


def may_stand(measured: Mapping[str, Any], settings: Speed) -> bool:
    """Whether a figure is what is asked for: one that fell back only where that is allowed."""
    return settings.fallback or not measured.get("fell_back")


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


def group_baselines(
    variants: Sequence[Variant], among: Sequence[Variant] = ()
) -> list[list[list[Variant]]]:
    """Group the baselines of variants that share a setting and the size of images.

    Only the baselines of ``variants`` are timed relative to the reference. Backbones that were
    measured elsewhere, such as by another sweep, are not timed again to link them to these.

    Args:
        variants: The variants to measure.
        among: All variants of the command, measured before or not. The baseline of the first of
            them in a setting is the reference, so that a resumed sweep has the same one.

    Returns:
        Portions as `measure_portion` takes them, a network for each baseline, the reference first;
        none where there is one baseline.
    """

    def key_of(baseline: Variant) -> str:
        images = architecture_of(baseline.canonical)["data"]
        return repr((baseline.config.speed, images))

    references: dict[str, Variant] = {}
    for baseline in map(Variant.baseline, (*among, *variants)):
        references.setdefault(key_of(baseline), baseline)
    others: dict[str, dict[str, Variant]] = {}
    for baseline in map(Variant.baseline, variants):
        key = key_of(baseline)
        if baseline.architecture_hash != references[key].architecture_hash:
            others.setdefault(key, {}).setdefault(baseline.architecture_hash, baseline)
    portions = []
    for key, found in others.items():
        networks = [[baseline] for baseline in found.values()]
        for start in range(0, len(networks), MOST_TOGETHER):
            portions.append([[references[key]], *networks[start : start + MOST_TOGETHER]])
    return portions


def describe_beside(
    portion: Sequence[Sequence[Variant]], results: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What measurements say of baselines that were timed side by side.

    Args:
        portion: Of `group_baselines`.
        results: Of `measure_portion`.

    Returns:
        The content of the key ``beside`` by the identity of each baseline but the first: the
        identity of the reference, and the time relative to it with its interval.
    """
    reference = portion[0][0].architecture_hash
    return {
        shared[0].architecture_hash: {
            "architecture": reference,
            **{key: result[key] for key in _BESIDE},
        }
        for shared, result in zip(portion[1:], results[1:], strict=True)
    }


def measure_portion(
    portion: Sequence[Sequence[Variant]],
    measure: Measure,
    progress: Callable[[int, float], None],
    place: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Measure networks in fresh processes until every ratio is known well enough.

    Args:
        portion: As `group_for_measuring` or `group_baselines` makes it.
        measure: Times networks side by side in one fresh process; told whether to find out memory
            and energy, too, and for how many seconds at most.
        progress: Told the number of processes so far, and the relative width of the widest
            interval.
        place: Host, device, kind of device and environment, which become part of each measurement.

    Returns:
        One measurement for every network.
    """
    networks = [shared[0] for shared in portion]
    settings = networks[0].config.speed
    started = time.monotonic()
    done: list[Timings] = []
    while True:
        left = max(settings.num_processes - len(done), 1)
        seconds = (settings.max_seconds - (time.monotonic() - started)) / left
        done.append(measure(networks, not done, seconds))
        timings = [[each.latencies_ms[index] for each in done] for index in range(len(networks))]
        ratios = [paired_ratio(timing, timings[0]) for timing in timings]
        widest = max(ratio.relative_width for ratio in ratios)
        progress(len(done), widest)
        stopped_by = _stop(settings, len(done), widest, time.monotonic() - started)
        if stopped_by:
            break
    ids = [uuid4().hex[:12] for _ in done]
    shared = {
        "schema_version": SCHEMA_VERSION,
        **place,
        **setting_of(settings),
        "stopped_by": stopped_by,
        "max_load": settings.max_load,
    }
    return [
        shared
        | _figures(timing, timings[0], done, ids, settings.batch_size)
        | {
            "peak_memory_bytes": done[0].peak_memory_bytes[index],
            "energy_j": done[0].energy_j[index],
            "fell_back": any(index in each.fell_back for each in done),
        }
        for index, timing in enumerate(timings)
    ]


def relative_width(result: Mapping[str, Any]) -> float:
    """Width of a measurement's 95 % interval, relative to its ratio."""
    width: float = result["relative_latency_high"] - result["relative_latency_low"]
    return width / float(result["relative_latency"])


def was_busy(measured: Mapping[str, Any]) -> bool:
    """Whether others used so much of the machine that the figure is not to be trusted."""
    load = measured.get("others_load")
    return load is not None and bool(load > measured.get("max_load", float("inf")))


def _stop(settings: Speed, number: int, widest: float, seconds: float) -> str | None:
    if number < settings.num_processes:
        return "max_seconds" if number > 1 and seconds > settings.max_seconds else None
    if widest <= settings.interval_width:
        return "interval_width"
    if number >= settings.max_processes:
        return "max_processes"
    return "max_seconds" if seconds > settings.max_seconds else None


def _figures(
    timing: Sequence[Sequence[float]],
    baseline: Sequence[Sequence[float]],
    done: Sequence[Timings],
    ids: Sequence[str],
    batch_size: int,
) -> dict[str, Any]:
    """Figures of a network, and those of every process that they are made of."""
    processes = []
    for rounds, others, process, id in zip(timing, baseline, done, ids, strict=True):
        median, low, high = percentiles_ms([rounds])
        processes.append(
            {
                "id": id,
                "num_rounds": len(rounds),
                "others_load": process.load,
                "latency_ms": median,
                "latency_p10_ms": low,
                "latency_p90_ms": high,
                "baseline_latency_ms": percentiles_ms([others])[0],
                "relative_latency": paired_mean(rounds, others),
            }
        )
    return {**figures_of_processes(processes, batch_size), PROCESSES: processes}
