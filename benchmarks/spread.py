"""What makes fresh processes differ: the process itself, or the time at which it measures?

Several processes live at the same time, each with networks of its own, and take turns. What a
process has for its life (where its memory lies, what oneDNN chose) stays with it from turn to
turn; what the machine does at a time does not. Analysis of variance tells the two apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from _measuring import machine

NUM_PROCESSES = 8
NUM_TURNS = 8
NUM_ROUNDS = 5
NUM_WARMUP = 3
OVERRIDES = ("model=resnet50", "data=imagenet", "data.path=none")


def serve(pipe: Connection, layout: str, batch_size: int, core: int | None) -> None:
    import torch

    from pfstudy import compose
    from pfstudy.speed.measure import build_for_speed, draw_images, time_rounds
    from pfstudy.speed.step import make_step
    from pfstudy.variant import make_variant

    if core is not None:
        os.sched_setaffinity(0, [core])
    torch.set_num_threads(1)
    device = torch.device("cpu")
    steps = []
    for operation in ("original", "maxpool"):
        speed = (f"speed.layout={layout}", f"speed.batch_size={batch_size}")
        config = compose([*OVERRIDES, f"block.spatial={operation}", *speed])
        variant = make_variant(config, "none")
        images = draw_images(variant, batch_size, device)
        network = build_for_speed(variant, device)
        steps.append(make_step(network, images, config.speed, operation).run)
    time_rounds(steps, NUM_WARMUP, config.speed, device)
    pipe.send(None)
    while pipe.recv():
        baseline, maxpool = np.array(time_rounds(steps, NUM_ROUNDS, config.speed, device))
        pipe.send((float(np.median(maxpool / baseline)), float(np.median(baseline))))


def measure(layout: str, batch_size: int, core: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Ratios and times of the baseline in milliseconds, ``(processes, turns)``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "timm", "pfstudy.speed.measure", "pfstudy.speed.step"])
    pipes, children = [], []
    for _ in range(NUM_PROCESSES):
        ours, theirs = context.Pipe()
        child = context.Process(target=serve, args=(theirs, layout, batch_size, core))
        child.start()
        ours.recv()
        pipes.append(ours)
        children.append(child)
    found: list[list[Any]] = [[] for _ in pipes]
    for _ in range(NUM_TURNS):
        for place, pipe in enumerate(pipes):
            pipe.send(True)
            found[place].append(pipe.recv())
    for pipe, child in zip(pipes, children, strict=True):
        pipe.send(False)
        child.join()
    values = np.array(found)
    return values[..., 0], values[..., 1]


def components(ratios: np.ndarray) -> tuple[float, float]:
    """Standard deviations in percent: between processes, and between turns of one."""
    logs = 100 * np.log(ratios)
    within = float(np.mean(np.var(logs, axis=1, ddof=1)))
    between = float(np.var(logs.mean(axis=1), ddof=1)) - within / logs.shape[1]
    return float(np.sqrt(max(0.0, between))), float(np.sqrt(within))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", default="contiguous,channels_last")
    parser.add_argument("--batch-size", default="1", help="1,8")
    arguments = parser.parse_args()
    print(f"R50-max relative to R50, {machine()}; {NUM_PROCESSES} processes in {NUM_TURNS} turns")
    for batch_size in map(int, arguments.batch_size.split(",")):
        for layout in arguments.layout.split(","):
            for name, core in (("free", None), ("pinned", max(os.sched_getaffinity(0)))):
                ratios, baseline = measure(layout, batch_size, core)
                process, turn = components(ratios)
                drift = 100 * np.std(np.log(baseline))
                print(
                    f"batch {batch_size}, {layout:<13} {name:<6}: ratio {np.median(ratios):.3f}, "
                    f"sd between processes {process:.2f} %, between turns of one {turn:.2f} %; "
                    f"time of the baseline {np.median(baseline):.0f} ms, sd {drift:.1f} %",
                    flush=True,
                )


if __name__ == "__main__":
    main()
