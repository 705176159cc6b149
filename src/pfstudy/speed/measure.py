"""Timing networks side by side in one process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.schema.config import Speed
from pfstudy.variant import Variant


def measure_in_process(
    variants: Sequence[Variant],
    settings: Speed,
    on_gpu: bool,
    report: Callable[[str, Mapping[str, Any]], None],
) -> list[list[float]]:
    """Time one forward pass of each network, in interleaved rounds.

    Every round times every network once, beginning with another one than the round before, on
    the same random images. The caller holds the device alone meanwhile.

    Args:
        variants: The baseline first.
        settings: How to measure.
        on_gpu: Whether to time on the GPU that this process sees.
        report: Not used.

    Returns:
        Milliseconds: a row for every network, a column for every round.
    """
    torch.set_num_threads(settings.num_threads)
    device = torch.device("cuda" if on_gpu else "cpu")
    del report
    with torch.inference_mode():
        networks = [_build(variant, device) for variant in variants]
        data = variants[0].config.data
        shape = (settings.batch_size, *image_shape(data))
        images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        latencies: list[list[float]] = [[] for _ in networks]
        for number in range(-settings.num_warmup, settings.num_rounds):
            for offset in range(len(networks)):
                chosen = (number + offset) % len(networks)
                seconds = _time(networks[chosen], images)
                if number >= 0:
                    latencies[chosen].append(1e3 * seconds)
    return latencies


def _build(variant: Variant, device: torch.device) -> nn.Module:
    try:
        return build_network(variant.without_weights().config, seed=0).eval().to(device)
    except PfstudyError as error:
        raise PfstudyError(f"{variant.label}: {error}") from None


def _time(network: nn.Module, images: torch.Tensor) -> float:
    on_gpu = images.is_cuda
    with torch.cuda.device(images.device) if on_gpu else nullcontext():
        if on_gpu:
            torch.cuda.synchronize()
        started = time.perf_counter()
        network(images)
        if on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter() - started
