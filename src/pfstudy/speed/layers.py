"""Where the time of a network goes, before and after, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pfstudy.speed.blocktable import what_stands
from pfstudy.speed.summary import Ceilings, SegmentTimings
from pfstudy.variant import Variant

REST = "rest"
"""Stands for what follows the last site."""


@dataclass(frozen=True)
class Segment:
    """A part of a pass.

    Attributes:
        milliseconds: Its median time.
        macs: Multiply-accumulates of the batch.
        num_bytes: Bytes that its operators read and write, of the batch.
    """

    milliseconds: float
    macs: int
    num_bytes: int

    def macs_share(self, ceilings: Ceilings) -> float:
        """Achieved rate of multiply-accumulates, as a share of the device's."""
        return self.macs / (self.milliseconds / 1e3) / ceilings.macs_per_s

    def bytes_share(self, ceilings: Ceilings) -> float:
        """Achieved rate of bytes, as a share of the device's; more than 1 where caches help."""
        return self.num_bytes / (self.milliseconds / 1e3) / ceilings.bytes_per_s

    def __add__(self, other: Segment) -> Segment:
        return Segment(
            self.milliseconds + other.milliseconds,
            self.macs + other.macs,
            self.num_bytes + other.num_bytes,
        )


@dataclass(frozen=True)
class Place:
    """A block, or the rest, of the backbone and of the variant.

    Attributes:
        address: ``stage2.block1``, or ``rest``.
        operation: What stands at its site in the variant.
        before: Of the unsubstituted backbone.
        after: Of the variant.
    """

    address: str
    operation: str
    before: Segment
    after: Segment

    @property
    def ratio(self) -> float:
        """Time relative to the unsubstituted backbone's."""
        return self.after.milliseconds / self.before.milliseconds


@dataclass(frozen=True)
class Layers:
    """Where the time of a network goes.

    Attributes:
        model: Name of the backbone's declaration.
        label: What is substituted.
        setting: Device, host and setting.
        ceilings: What the device could do at best.
        places: The blocks, and the rest.
    """

    model: str
    label: str
    setting: Mapping[str, Any]
    ceilings: Ceilings
    places: tuple[Place, ...]

    @property
    def stages(self) -> list[Place]:
        """The same, block by block added up to stages."""
        found: dict[str, list[Place]] = {}
        for place in self.places:
            found.setdefault(place.address.partition(".")[0], []).append(place)
        return [total(name, places) for name, places in found.items()]

    @property
    def whole(self) -> Place:
        """The whole network."""
        return total("all", self.places)


def total(name: str, places: Sequence[Place]) -> Place:
    """Add places up."""
    before, after = places[0].before, places[0].after
    for place in places[1:]:
        before, after = before + place.before, after + place.after
    operations = dict.fromkeys(place.operation for place in places if place.operation)
    return Place(name, ", ".join(operations), before, after)


def put_together(
    variants: Sequence[Variant],
    processes: Sequence[SegmentTimings],
    costs: Sequence[Sequence[Mapping[str, int]]],
    ceilings: Ceilings,
    setting: Mapping[str, Any],
) -> list[Layers]:
    """Put together what several processes have timed.

    Args:
        variants: The networks; the baseline first.
        processes: What each has found.
        costs: For every network and segment, ``macs`` and ``memory_traffic_bytes`` of an image.
        ceilings: What the device could do at best.
        setting: Device, host and setting.

    Returns:
        One for every network but the baseline.
    """
    batch_size, itemsize = setting["batch_size"], _itemsize(str(setting["dtype"]))
    medians_PNS = np.array([np.median(np.asarray(t.segments_ms), axis=1) for t in processes])
    medians_NS = np.median(medians_PNS, axis=0)

    def segment(network: int, place: int) -> Segment:
        cost = costs[network][place]
        num_bytes = cost["memory_traffic_bytes"] * itemsize / 4 * batch_size
        return Segment(
            float(medians_NS[network, place]), cost["macs"] * batch_size, round(num_bytes)
        )

    found = []
    for index, variant in enumerate(variants[1:], 1):
        stands = [*what_stands(variant).items(), (REST, "")]
        places = tuple(
            Place(address, operation, segment(0, place), segment(index, place))
            for place, (address, operation) in enumerate(stands)
        )
        model = variant.config.model.name
        found.append(Layers(model, variant.label, setting, ceilings, places))
    return found


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
