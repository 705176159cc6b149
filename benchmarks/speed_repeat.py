"""Does a measured ratio come out again? R50-max relative to R50, in independent invocations.

Beside it the sequential mean over one process, which `benchmark.py` of timm prints: one network
after the other, a few passes to warm up, the mean of the rest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _measuring import machine

SEQUENTIAL = {1: (10, 40), 8: (3, 10)}  # passes to warm up, passes; timm's are the first
ROUNDS = {1: (3, 60), 8: (1, 10)}  # to warm up, and the most that are timed
SECONDS = {1: 60, 8: 100}
NETWORK = ("model=resnet50", "data=imagenet", "block.spatial=maxpool")


def invoke(batch_size: int, layout: str, extra: list[str]) -> dict[str, Any]:
    """Measure by the command line, in an empty directory."""
    warmup, rounds = ROUNDS[batch_size]
    with tempfile.TemporaryDirectory() as directory:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("pfstudy")), "speed", "--json", *NETWORK),
                *(f"speed.batch_size={batch_size}", f"speed.layout={layout}"),
                *(f"speed.num_warmup={warmup}", f"speed.num_rounds={rounds}"),
                *(f"speed.max_seconds={SECONDS[batch_size]}", *extra),
            ],
            cwd=directory,
            capture_output=True,
            text=True,
            check=True,
        )
    (network,) = json.loads(done.stdout)
    measured: dict[str, Any] = network["measured"]
    return measured


def sequential(batch_size: int, layout: str) -> float:
    """The ratio of the means of one process, one network after the other."""
    import torch

    from pfstudy import compose
    from pfstudy.speed.measure import build_for_speed, draw_images
    from pfstudy.speed.step import make_step
    from pfstudy.variant import make_variant

    torch.set_num_threads(1)
    device = torch.device("cpu")
    warmup, number = SEQUENTIAL[batch_size]
    means = []
    for operation in ("original", "maxpool"):
        overrides = [*NETWORK[:2], "data.path=none", f"block.spatial={operation}"]
        config = compose([*overrides, f"speed.layout={layout}", f"speed.batch_size={batch_size}"])
        variant = make_variant(config, "none")
        images = draw_images(variant, batch_size, device)
        step = make_step(build_for_speed(variant, device), images, config.speed, operation)
        for _ in range(warmup):
            step.run()
        started = time.perf_counter()
        for _ in range(number):
            step.run()
        means.append((time.perf_counter() - started) / number)
    return means[1] / means[0]


def spread(values: list[float]) -> float:
    return 100 * (max(values) / min(values) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=5, help="independent invocations")
    parser.add_argument("extra", nargs="*", help="further overrides, such as speed.device=gpu")
    arguments = parser.parse_args()
    print(f"R50-max relative to R50, {arguments.number} invocations each, {machine()}")
    context = multiprocessing.get_context("spawn")
    settings = list(itertools.product((1, 8), ("contiguous", "channels_last")))
    measured: dict[tuple[int, str], list[dict[str, Any]]] = {s: [] for s in settings}
    means: dict[tuple[int, str], list[float]] = {s: [] for s in settings}
    for _ in range(arguments.number):  # settings in turn: an invocation is not like its neighbour
        for setting in settings:
            measured[setting].append(invoke(*setting, arguments.extra))
            with context.Pool(1) as pool:
                means[setting].append(pool.apply(sequential, setting))
    for batch_size, layout in settings:
        found = measured[batch_size, layout]
        ratios = [m["relative_latency"] for m in found]
        lows, highs = ([m[f"relative_latency_{end}"] for m in found] for end in ("low", "high"))
        overlap = max(lows) <= min(highs)
        listed = ", ".join(f"{r:.3f} [{a:.3f}, {b:.3f}]" for r, a, b in zip(ratios, lows, highs, strict=True))  # fmt: skip  # noqa: E501
        each = means[batch_size, layout]
        print(f"batch {batch_size}, {layout}")
        print(f"  pfstudy speed: median {statistics.median(ratios):.3f}, medians within "
              f"{spread(ratios):.2f} % (asked: 2), every pair of intervals overlaps: {overlap}")  # fmt: skip  # noqa: E501
        print(f"    {listed}")
        print(f"    processes {[m['num_processes'] for m in found]}, others' load "
              f"{[m['others_load'] for m in found]} cores")  # fmt: skip
        print(f"  sequential means: median {statistics.median(each):.3f}, within "
              f"{spread(each):.2f} %: {', '.join(f'{r:.3f}' for r in each)}", flush=True)  # fmt: skip  # noqa: E501


if __name__ == "__main__":
    main()
