"""Published figures of the paper's networks, to be set beside ours.

Han et al., Learning Features with Parameter-Free Layers, ICLR 2022; from the README of its code.
Times are the authors' on their GPU, relative to ResNet-50; of "+" networks, trained for more
epochs, the figures are those of the shorter training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Published:
    """What was published of a network.

    Attributes:
        name: As the paper calls it.
        params: Parameters, by which it is known again, with the MACs.
        macs: Multiply-accumulates.
        top1_percent: On ImageNet.
        top5_percent: On ImageNet.
        relative_latency: Time relative to that of ResNet-50.
    """

    name: str
    params: int
    macs: int
    top1_percent: float
    top5_percent: float | None = None
    relative_latency: float | None = None


PUBLISHED = (
    Published("R50", 25_557_032, 4_089_184_256, 76.2, 93.8, 1.0),
    Published("R50-max", 14_232_232, 2_239_496_192, 74.3, 92.0, 6.8 / 8.7),
    Published("R50-hybrid", 17_330_600, 2_586_312_704, 77.1, 93.1, 7.3 / 8.7),
    Published("ViT-S-max", 23_819_368, 4_743_822_336, 74.2),
    Published("PiT-S-max", 25_119_784, 2_813_372_640, 75.7),
)

KEYS = ("published", "published_top1_percent", "published_top5_percent", "published_latency")


def published_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was published of the network of a record; ``None`` each where nothing was."""
    cost = record["cost"]
    size = (cost["params"], cost["macs"])
    found = next((each for each in PUBLISHED if (each.params, each.macs) == size), None)
    if found is None:
        return dict.fromkeys(KEYS)
    values = (found.name, found.top1_percent, found.top5_percent, found.relative_latency)
    return dict(zip(KEYS, values, strict=True))
