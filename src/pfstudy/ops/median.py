"""The median of a window, by a sorting network that all positions go through at once.

`torch.median` of unfolded windows looks at one window after the other, and on a CPU takes 5 (7x7)
to 50 (3x3) times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import nn

from pfstudy.ops.border import repeat_border
from pfstudy.ops.cost import OperationCost, pooling_cost
from pfstudy.ops.layer import Layer
from pfstudy.ops.pooling import identity, identity_cost


def medianpool(layer: Layer) -> nn.Module:
    r"""Median over the window, per channel, with the pixels at the border repeated beyond it.

    .. math:: y_{c,i,j} = \operatorname{median}_{u,v} x_{c,\, si + u - p,\, sj + v - p}

    Shapes: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``. The median filter (Tukey 1977).
    Pixels that tie for the median share its gradient equally.
    """
    return identity(layer) if layer.kernel_size == 1 else _MedianPool(layer)


def medianpool_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `medianpool`; comparisons count as zero."""
    cost = identity_cost if layer.kernel_size == 1 else pooling_cost
    return cost(layer, height, width)


class Network(NamedTuple):
    """Comparisons that find the median of a square of wires, numbered row by row.

    Attributes:
        columns: Pairs of rows that are put in order first, in all columns.
        comparisons: ``(low, high, needs_low, needs_high)``: the smaller value of two wires goes
            to ``low`` and the larger one to ``high``, where anything later needs it.
        median: The wire that has the median in the end.
    """

    columns: tuple[tuple[int, int], ...]
    comparisons: tuple[tuple[int, int, bool, bool], ...]
    median: int


def median_network(side: int) -> Network:
    """Sort the columns, then the rows, then the wires that can still be the median.

    Those are the ones that have no more than half of the square before and behind them. What the
    median does not depend on is left out.
    """
    half = side**2 // 2
    rows = [[i * side + j for j in range(side)] for i in range(side)]
    possible = [
        rows[i][j]
        for i in range(side)
        for j in range(side)
        if (i + 1) * (j + 1) - 1 <= half and (side - i) * (side - j) - 1 <= half
    ]
    pairs = [
        (wires[low], wires[high])
        for wires in [*rows, possible]
        for low, high in _sorting_network(len(wires))
    ]
    median = possible[len(possible) // 2]
    needed, comparisons = {median}, []
    for low, high in reversed(pairs):
        if low in needed or high in needed:
            comparisons.append((low, high, low in needed, high in needed))
            needed |= {low, high}
    return Network(tuple(_sorting_network(side)), tuple(reversed(comparisons)), median)


def _sorting_network(num_wires: int) -> Iterator[tuple[int, int]]:
    """Pairs of wires to put in order until all are: merge exchange (Batcher 1968).

    In the form of Algorithm M of Knuth 1998, Sec. 5.2.2.
    """
    top = 1 << (num_wires - 1).bit_length() >> 1
    step = top
    while step:
        reach, offset, distance = top, 0, step
        while True:
            for wire in range(num_wires - distance):
                if wire & step == offset:
                    yield wire, wire + distance
            if reach == step:
                break
            distance, reach, offset = reach - step, reach // 2, step
        step //= 2


class _MedianPool(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.network = median_network(layer.kernel_size)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        padded_NCHW = repeat_border(x_NCHW, self.padding)
        y_NCHW: torch.Tensor = _Median.apply(
            padded_NCHW, self.kernel_size, self.stride, self.network
        )
        return y_NCHW


class _Median(torch.autograd.Function):
    """Median of all windows that lie in the map.

    A function of its own, so that the backward pass needs two maps and not every comparison.
    """

    @staticmethod
    def forward(
        x_NCHW: torch.Tensor, kernel_size: int, stride: int, network: Network
    ) -> torch.Tensor:
        # a column is sorted once for all windows that it lies in
        rows = _along(2, x_NCHW, kernel_size, stride)
        for low, high in network.columns:
            first, second = rows[low], rows[high]
            rows[low], rows[high] = torch.minimum(first, second), torch.maximum(first, second)
        wires = [wire for row in rows for wire in _along(3, row, kernel_size, stride)]
        for low, high, needs_low, needs_high in network.comparisons:
            first, second = wires[low], wires[high]
            if needs_low:
                wires[low] = torch.minimum(first, second)
            if needs_high:
                wires[high] = torch.maximum(first, second)
        return wires[network.median]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x_NCHW, ctx.kernel_size, ctx.stride, _ = inputs
        ctx.save_for_backward(x_NCHW, output)

    @staticmethod
    def backward(ctx: Any, grad_NCHW: torch.Tensor) -> Any:
        x_NCHW, y_NCHW = ctx.saved_tensors
        hits = [window == y_NCHW for window in _windows(x_NCHW, ctx.kernel_size, ctx.stride)]
        share_NCHW = grad_NCHW / sum(hit.to(grad_NCHW.dtype) for hit in hits)
        # contiguous: torch 2.15 compiles sums into strided views of channels_last to NaN
        grad_x_NCHW = x_NCHW.new_zeros(x_NCHW.shape)
        grad_windows = _windows(grad_x_NCHW, ctx.kernel_size, ctx.stride)
        for grad_window, hit in zip(grad_windows, hits, strict=True):
            grad_window += share_NCHW * hit
        return grad_x_NCHW, None, None, None


def _windows(x_NCHW: torch.Tensor, kernel_size: int, stride: int) -> list[torch.Tensor]:
    """Views of what stands at each of the ``k x k`` places of all windows."""
    rows = _along(2, x_NCHW, kernel_size, stride)
    return [place for row in rows for place in _along(3, row, kernel_size, stride)]


def _along(axis: int, x: torch.Tensor, kernel_size: int, stride: int) -> list[torch.Tensor]:
    """Views of what stands at each of the ``k`` places of all windows along an axis."""
    length = x.shape[axis] - kernel_size + 1
    whole = (slice(None),) * axis
    return [x[(*whole, slice(place, place + length, stride))] for place in range(kernel_size)]
