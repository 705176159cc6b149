"""Measures what is within a pass, in one process: segments, the device's ceilings, the cost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch

from pfstudy.complexity import count_segments
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.schema.config import Speed
from pfstudy.speed.load import GpuLoad, Load
from pfstudy.speed.measure import (
    Report,
    build_for_speed,
    draw_images,
    fitting,
    memory_that_ends,
    set_up,
    time_rounds,
)
from pfstudy.speed.segments import Stopwatch, mark_segments, segment_paths
from pfstudy.speed.step import make_step, tensor_dtype
from pfstudy.speed.summary import Ceilings, SegmentTimings
from pfstudy.variant import Variant

_LEAST_ROUNDS = 3
_COPY_BYTES = 256 * 2**20
_PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}
_CEILING_ROUNDS = 10


def time_segments(
    variants: Sequence[Variant],
    whole: Sequence[Variant],
    settings: Speed,
    on_gpu: bool,
    cores: Iterable[int],
    seconds: float,
    report: Report,
) -> SegmentTimings:
    """Time the segments of networks, and whole passes of others, in interleaved rounds.

    Args:
        variants: The networks that are cut; the baseline first.
        whole: The networks that are timed as a whole, without marks.
        settings: How to measure.
        on_gpu: Whether to time on the GPU that this process sees.
        cores: The cores whose use by others is counted.
        seconds: For how long, once everything has been built.
        report: Told of ``"built"`` and ``"round"``.

    Raises:
        PfstudyError: A network cannot be built, cut or compiled, or the batch does not fit.
    """
    device = set_up(settings, on_gpu)
    watches = []
    with memory_that_ends(device):
        for index, variant in enumerate([*variants, *whole]):
            network = build_for_speed(variant, device)
            if index < len(variants):
                mark_segments(network, variant)
            with fitting(variant, settings, device):
                images = draw_images(variant, settings.batch_size, device)
                step = make_step(network, images, settings, variant.label)
            watches.append(Stopwatch(step.run, device))
            report("built", {"label": variant.label})
        times: list[list[list[float]]] = [[] for _ in watches]
        load: GpuLoad | Load = GpuLoad() if on_gpu else Load(cores)
        began, number = time.monotonic(), -1
        while number < _LEAST_ROUNDS or time.monotonic() - began < seconds:
            for offset in range(len(watches)):
                chosen = (number + offset) % len(watches)
                found = watches[chosen]()
                if number >= 0:  # the first round warms up
                    times[chosen].append(found)
            number += 1
            report("round", {"number": number})
        others = load.of_others()
    totals = [[sum(found) for found in rounds] for rounds in times[len(variants) :]]
    return SegmentTimings(times[: len(variants)], totals, others)


def find_ceilings(settings: Speed, on_gpu: bool, report: Report) -> Ceilings:
    """Measure what the device could do at best: copy memory, multiply matrices.

    Args:
        settings: Threads and dtype.
        on_gpu: Whether to measure the GPU that this process sees.
        report: Not used.
    """
    del report
    device = set_up(settings, on_gpu)
    dtype = tensor_dtype(settings)
    source = torch.ones(_COPY_BYTES // dtype.itemsize, dtype=dtype, device=device)
    target = torch.empty_like(source)
    side = _PRODUCT_SIDE[device.type]
    left, right = (torch.randn(side, side).to(device, dtype) for _ in range(2))
    out = left @ right

    def copy() -> None:
        target.copy_(source)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    time_rounds([copy, multiply], 2, settings, device)
    copies, products = time_rounds([copy, multiply], _CEILING_ROUNDS, settings, device)
    return Ceilings(
        bytes_per_s=2 * _COPY_BYTES / (min(copies) / 1e3),
        macs_per_s=side**3 / (min(products) / 1e3),
    )


def cost_of_segments(variants: Sequence[Variant], report: Report) -> list[list[dict[str, Any]]]:
    """Count what each segment of networks costs for one image, on the meta device.

    Args:
        variants: The networks.
        report: Not used.

    Returns:
        For every network and segment, the rest included: ``macs``, ``activations`` and
        ``memory_traffic_bytes``.
    """
    del report
    found = []
    for variant in variants:
        with torch.device("meta"):
            network = build_network(variant.without_weights().config)
        paths = list(segment_paths(variant).values())
        reached = count_segments(network, image_shape(variant.config.data), paths)
        steps = [asdict(cost) for cost in reached]
        found.append(
            [
                {key: after[key] - before[key] for key in after}
                for before, after in pairwise([dict.fromkeys(steps[0], 0), *steps])
            ]
        )
    return found
