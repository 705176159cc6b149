"""Where the time of a network goes, before and after, and what bounds it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pfstudy.speed.blocktable import what_stands
from pfstudy.speed.summary import (
    Ceilings,
    SegmentTimings,
    joint_quantile,
    mean_load,
    over_processes,
)
from pfstudy.variant import Variant

REST = "rest"
"""Stands for what follows the last site."""

_HALF_PRECISION = ("bfloat16", "float16")
_NORMAL_QUANTILE = 1.96


@dataclass(frozen=True)
class Segment:
    """A part of a pass.

    Attributes:
        milliseconds: Its median time.
        macs: Multiply-accumulates of the batch.
        num_bytes: Bytes that its operators read and write, one by one, of the batch.
    """

    milliseconds: float
    macs: int
    num_bytes: int

    def macs_share(self, ceilings: Ceilings) -> float:
        """Achieved rate of multiply-accumulates, as a share of the device's."""
        return self.macs / (self.milliseconds / 1e3) / ceilings.macs_per_s

    def bytes_share(self, ceilings: Ceilings) -> float:
        """Achieved rate of bytes, as a share of the device's.

        More than 1 where caches help, or a compiler fuses operators so that fewer bytes are moved.
        """
        return self.num_bytes / (self.milliseconds / 1e3) / ceilings.bytes_per_s


@dataclass(frozen=True)
class Place:
    """A block, a stage, the rest or all, of the backbone and of the variant.

    Attributes:
        address: ``stage2.block1``, ``stage2``, ``rest`` or ``all``.
        operation: What stands at its sites in the variant.
        before: Of the unsubstituted backbone.
        after: Of the variant.
        ratio: Time relative to the unsubstituted backbone's in the same round.
        ratio_error: Standard error of the ratio.
    """

    address: str
    operation: str
    before: Segment
    after: Segment
    ratio: float
    ratio_error: float

    @property
    def half_interval(self) -> float:
        """Half the width of the ratio's 95 % interval."""
        return _NORMAL_QUANTILE * self.ratio_error

    def joint_half_interval(self, number: int) -> float:
        """The same of an interval that holds at once for a number of ratios (Bonferroni)."""
        return float(joint_quantile(math.nan, number)) * self.ratio_error


@dataclass(frozen=True)
class Layers:
    """Where the time of a network goes.

    Attributes:
        variant: The network.
        setting: Device, host and setting.
        ceilings: What the device could do at best.
        places: The blocks that have a site, each from the end of the one before, and the rest.
        stages: The same, block by block added up to stages.
        whole: The whole network.
        others_load: Cores, or share of the GPU, that others used meanwhile; ``None`` if not known.
        max_load: What they may have used.
    """

    variant: Variant
    setting: Mapping[str, Any]
    ceilings: Ceilings
    places: tuple[Place, ...]
    stages: tuple[Place, ...]
    whole: Place
    others_load: float | None
    max_load: float

    @property
    def model(self) -> str:
        """Name of the backbone's declaration."""
        return self.variant.config.model.name


def stage_of(address: str) -> str:
    """The stage of a block; the rest is one of its own."""
    return address.partition(".")[0]


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
    times = [np.asarray(timings.segments_ms) for timings in processes]
    medians_NS = np.median([np.median(times_NRS, axis=1) for times_NRS in times], axis=0)

    def segment(network: int, parts: Sequence[int]) -> Segment:
        cost = {
            key: batch_size * sum(costs[network][part][key] for part in parts)
            for key in ("macs", "memory_traffic_bytes")
        }
        milliseconds = float(medians_NS[network, parts].sum())
        return Segment(
            milliseconds, cost["macs"], round(cost["memory_traffic_bytes"] * itemsize / 4)
        )

    def place(network: int, address: str, parts: Sequence[int]) -> Place:
        stands = list(what_stands(variants[network]).values())
        operations = dict.fromkeys(stands[part] for part in parts if part < len(stands))
        sums = [times_NRS[:, :, parts].sum(axis=-1) for times_NRS in times]
        ratio, error = over_processes([sums_NR[network] / sums_NR[0] for sums_NR in sums])
        before, after = segment(0, parts), segment(network, parts)
        return Place(address, ", ".join(operations), before, after, float(ratio), float(error))

    addresses = [*what_stands(variants[0]), REST]
    stages: dict[str, list[int]] = {}
    for part, address in enumerate(addresses):
        stages.setdefault(stage_of(address), []).append(part)
    return [
        Layers(
            variant,
            setting,
            ceilings,
            tuple(place(network, address, [part]) for part, address in enumerate(addresses)),
            tuple(place(network, stage, parts) for stage, parts in stages.items()),
            place(network, "all", list(range(len(addresses)))),
            mean_load(processes),
            variant.config.speed.max_load,
        )
        for network, variant in enumerate(variants[1:], 1)
    ]


def _itemsize(dtype: str) -> int:
    return 2 if dtype in _HALF_PRECISION else 4
