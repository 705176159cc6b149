"""Depthwise filters that are not learned: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from pfstudy.errors import PfstudyError
from pfstudy.ops.border import repeat_border
from pfstudy.ops.cost import OperationCost, least_cost, pooling_cost
from pfstudy.ops.layer import Layer


def blurpool(layer: Layer) -> nn.Module:
    r"""Blur with a binomial kernel, border pixels repeated beyond the border (Zhang 2019).

    .. math:: y_{c,i,j} = \sum_{u,v} b_u b_v \, x_{c,\, si + u - p,\, sj + v - p}, \qquad
              b_u = \binom{k - 1}{u} / 2^{k - 1}

    MACs: ``k^2 C`` per output position, those of `pfstudy.ops.convolution.dwconv`.
    """
    return _BlurPool(layer)


def blurpool_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `blurpool`; its kernel is a constant and no parameter that is read."""
    rows, columns = layer.grid(height, width)
    macs = layer.kernel_size**2 * layer.in_channels * rows * columns
    return least_cost(layer, height, width, macs=macs)


def shift(layer: Layer) -> nn.Module:
    r"""Every group of channels moves by an offset of its own; zeros come in (Wu et al. 2018).

    .. math:: y_{c,i,j} = x_{c,\, si + u_c - p,\, sj + v_c - p}, \qquad
              (u_c, v_c) = (\lfloor g / k \rfloor, g \bmod k), \quad g = \lfloor c / G \rfloor

    with groups of :math:`G = \lfloor C / k^2 \rfloor` channels; the channels that are left over
    stay where they are. MACs: none.

    Raises:
        PfstudyError: There are fewer channels than offsets.
    """
    num_offsets = layer.kernel_size**2
    if layer.in_channels < num_offsets:
        raise PfstudyError(
            f"shift with kernel_size {layer.kernel_size} takes {num_offsets} channels or more, "
            f"one per offset, but got {layer.in_channels}; choose another operation here."
        )
    return _Shift(layer)


shift_cost = pooling_cost


class _BlurPool(nn.Module):
    kernel: torch.Tensor

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.stride, self.padding = layer.stride, layer.padding
        degree = layer.kernel_size - 1
        row = torch.tensor([math.comb(degree, u) / 2**degree for u in range(degree + 1)])
        kernel = torch.outer(row, row).repeat(layer.in_channels, 1, 1, 1)
        self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        padded_NCHW = repeat_border(x_NCHW, self.padding)
        return functional.conv2d(
            padded_NCHW, self.kernel, stride=self.stride, groups=len(self.kernel)
        )


class _Shift(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.stride, self.padding = layer.stride, layer.padding
        side = range(layer.kernel_size)
        group, rest = divmod(layer.in_channels, layer.kernel_size**2)
        self.sizes = [group] * layer.kernel_size**2 + [rest] * (rest > 0)
        self.offsets = [(u, v) for u in side for v in side] + [(layer.padding,) * 2] * (rest > 0)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        height, width = x_NCHW.shape[2:]
        groups = functional.pad(x_NCHW, (self.padding,) * 4).split(self.sizes, dim=1)
        moved = [
            group[:, :, u : u + height : self.stride, v : v + width : self.stride]
            for group, (u, v) in zip(groups, self.offsets, strict=True)
        ]
        return torch.cat(moved, dim=1)
