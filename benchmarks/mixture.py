"""A weight step of the mixture against the steps of the networks that it mixes.

    python benchmarks/mixture.py

The mixture of the default search, and as many networks that have one of its operations at all
sites, with the norm behind it, as it has. In every round each takes a step of SGD on the same
batch, in turn; compared are the times of a round: the mixture's against the sum of the others'.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from _measuring import machine, show
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.schema.compose import compose
from pfstudy.space import make_space
from pfstudy.supernet.architecture import Architecture
from pfstudy.supernet.network import build_supernet

NUM_ROUNDS = 40
CASES = {
    "default network, batch 64": ([], 64),
    "ResNet-20, CIFAR-size images, batch 64": (["model=resnet20", "data=synthetic"], 64),
    "ResNet-50, 224x224, batch 4": (["model=resnet50", "data=synthetic"], 4),
}


def step(network: nn.Module, before: Callable[[], None], shape: tuple[int, ...]) -> float:
    """Seconds of a step of SGD."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    images, labels = torch.randn(shape), torch.zeros(shape[0], dtype=torch.long)
    started = time.perf_counter()
    before()
    loss = functional.cross_entropy(network(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def main() -> None:
    print(machine())
    torch.set_num_threads(1)
    for name, (overrides, batch_size) in CASES.items():
        space = make_space(compose([*overrides, "search=darts"]))
        shape = (batch_size, *image_shape(space.config.data))
        supernet = build_supernet(space, 0, mixes=True)
        architecture = Architecture(len(space.groups), len(space.operations), space.group_of)
        number = len(space.sites)
        networks = [
            build_network(space.place((k,) * number), 0) for k in range(len(space.operations))
        ]

        def mix(supernet=supernet, architecture=architecture) -> None:  # type: ignore[no-untyped-def]
            with torch.no_grad():
                supernet.mix(architecture.by_site(architecture.log_probabilities(1.0)))

        mixture, others = [], []
        for turn in range(NUM_ROUNDS if batch_size > 4 else NUM_ROUNDS // 4):
            mixed = step(supernet, mix, shape)
            summed = sum(step(network, lambda: None, shape) for network in networks)
            if turn > 1:
                mixture.append(mixed)
                others.append(summed)
        show(f"{name}: step of the mixture", [1e3 * s for s in mixture], "ms")
        show(f"  sum of {len(networks)} networks' steps", [1e3 * s for s in others], "ms")
        ratios = [a / b for a, b in zip(mixture, others, strict=True)]
        show("  ratio of rounds", ratios, "x", "1.1x")


if __name__ == "__main__":
    main()
