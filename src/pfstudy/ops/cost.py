"""What an operation costs: the terms that every cost function of `pfstudy.ops` is written in."""

from __future__ import annotations

from dataclasses import dataclass

from pfstudy.ops.layer import Layer

BYTES_PER_ELEMENT = 4
"""Of float32."""


@dataclass(frozen=True)
class OperationCost:
    """The cost of an operation for one image in float32.

    Attributes:
        macs: Multiply-accumulates of convolutions, linear layers and matrix products; all other
            arithmetic counts as zero.
        bytes_moved: The least traffic with memory: the input read once, the output written once
            and the parameters read once. What an implementation moves in between comes on top.
    """

    macs: int
    bytes_moved: int

    def __add__(self, other: OperationCost) -> OperationCost:
        """The cost of one operation after the other."""
        return OperationCost(self.macs + other.macs, self.bytes_moved + other.bytes_moved)


def least_cost(
    layer: Layer,
    height: int,
    width: int,
    *,
    macs: int = 0,
    num_parameters: int = 0,
    out_channels: int | None = None,
) -> OperationCost:
    """Cost of an operation that moves no more than it must.

    Args:
        layer: The replaced layer.
        height: Rows that come in.
        width: Columns that come in.
        macs: Multiply-accumulates of the whole map.
        num_parameters: Number of parameters.
        out_channels: Channels that the operation puts out; ``None`` for as many as come in.
    """
    rows, columns = layer.grid(height, width)
    num_read = layer.in_channels * height * width + num_parameters
    num_written = (out_channels or layer.in_channels) * rows * columns
    return OperationCost(macs, BYTES_PER_ELEMENT * (num_read + num_written))


def pooling_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of an operation without parameters and products: it reads and it writes."""
    return least_cost(layer, height, width)
