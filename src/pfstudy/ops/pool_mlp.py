"""A pool between two linear layers: the token mixer of ViT-max (Han et al. 2022)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pfstudy.ops.cost import OperationCost, least_cost
from pfstudy.ops.initial import linear
from pfstudy.ops.layer import Layer
from pfstudy.ops.pooling import avgpool, maxpool

EXPANSION = 3


def maxpool_mlp(layer: Layer) -> nn.Module:
    r"""Linear layer, GELU, max-pool, GELU, linear layer: the mixer of ViT-max (Han et al. 2022).

    .. math:: y = W_2 \operatorname{GELU}(\operatorname{maxpool}(
              \operatorname{GELU}(W_1 x + b_1))) + b_2

    at every position, with ``3 C`` channels in between. Nothing that mixes positions has
    parameters. Shapes: ``(N, C, H, W) -> (N, C', h, w)`` with ``h = ceil(H / s)``, ``w = ceil(W /
    s)``. MACs: ``3 C (C H W + C' h w)``.
    """
    return _PoolMlp(layer, maxpool(layer))


def avgpool_mlp(layer: Layer) -> nn.Module:
    """`maxpool_mlp` with an average pool over the pixels in the image."""
    return _PoolMlp(layer, avgpool(layer))


def maxpool_mlp_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `maxpool_mlp`."""
    rows, columns = layer.grid(height, width)
    channels, out_channels = layer.in_channels, layer.out_channels
    hidden = EXPANSION * channels
    return least_cost(
        layer,
        height,
        width,
        macs=hidden * (channels * height * width + out_channels * rows * columns),
        num_parameters=(channels + 1) * hidden + (hidden + 1) * out_channels,
        out_channels=out_channels,
    )


avgpool_mlp_cost = maxpool_mlp_cost


class _PoolMlp(nn.Module):
    def __init__(self, layer: Layer, pool: nn.Module) -> None:
        super().__init__()
        hidden = EXPANSION * layer.in_channels
        self.expand = linear(layer.in_channels, hidden, layer.weight_std)
        self.pool = pool
        self.reduce = linear(hidden, layer.out_channels, layer.weight_std)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NHWC = x_NCHW.permute(0, 2, 3, 1).contiguous()  # or linear adds its bias separately
        h_NHWC = functional.gelu(self.expand(x_NHWC))
        h_NCHW = functional.gelu(self.pool(h_NHWC.permute(0, 3, 1, 2)))
        y_NHWC: torch.Tensor = self.reduce(h_NCHW.permute(0, 2, 3, 1))
        return y_NHWC.permute(0, 3, 1, 2)
