"""Building variants of ResNet-50 against timm's own `create_model`.

    python benchmarks/build.py

Both draw the initial weights. Variants alternate with timm in one process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import timm
import torch

import pfstudy
from _measuring import machine, show

NUM_ROUNDS = 15
VARIANTS = {
    "unsubstituted": [],
    "R50-max": ["paper=r50_max"],
    "R50-hybrid": ["paper=r50_hybrid"],
    "dwconv": ["block.spatial=dwconv"],
    "groupconv": ["block.spatial=groupconv"],
    "dilated_conv": ["block.spatial=dilated_conv"],
    "self_attention in stages 3 and 4": [
        "block.stage3.spatial=self_attention",
        "block.stage4.spatial=self_attention",
    ],
    "deform_maxpool": ["block.spatial=deform_maxpool"],
    "maxpool_mlp": ["block.spatial=maxpool_mlp"],
}


def seconds(build: Callable[[], object]) -> float:
    started = time.perf_counter()
    build()
    return time.perf_counter() - started


def main() -> None:
    print(machine())
    torch.set_num_threads(1)
    reference: list[float] = []
    for name, overrides in VARIANTS.items():
        config = pfstudy.compose(["model=resnet50", "data=synthetic", *overrides])
        ours: list[float] = []
        theirs: list[float] = []
        for number in range(NUM_ROUNDS + 1):
            pair = [
                (theirs, lambda: timm.create_model("resnet50")),
                (ours, lambda config=config: pfstudy.build_network(config, seed=0)),
            ]
            for found, build in pair if number % 2 else reversed(pair):
                found.append(seconds(build))
        reference += theirs[1:]
        ratios = [a / b for a, b in zip(ours[1:], theirs[1:], strict=True)]
        show(f"building {name}, ratio to timm", ratios, "x", "1.1x")
    show("timm.create_model('resnet50')", reference, "s")


if __name__ == "__main__":
    main()
