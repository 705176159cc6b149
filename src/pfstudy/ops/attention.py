"""Self-attention over the positions of a map."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pfstudy.errors import PfstudyError
from pfstudy.ops.cost import OperationCost, least_cost
from pfstudy.ops.initial import linear
from pfstudy.ops.layer import Layer

HEAD_WIDTH = 32
"""Channels of a head."""


def self_attention(layer: Layer) -> nn.Module:
    r"""Multi-head self-attention over all positions (Vaswani et al. 2017).

    .. math:: y = W_o \,[\operatorname{softmax}(Q_h K_h^\top / \sqrt{d}) \, V_h]_h + b_o, \qquad
              (Q, K, V) = W x + b

    in heads of ``d = 32`` channels, or one head of ``C`` if there are fewer. It knows no
    positions. With a stride, queries are taken at every ``s``-th row and column, keys and values
    everywhere. Shapes: ``(N, C, H, W) -> (N, C', h, w)`` with ``h = ceil(H / s)``, ``w = ceil(W /
    s)``, and at least two positions. MACs: ``2 H W C^2 + h w C (C + C') + 2 h w H W C``.

    Raises:
        PfstudyError: The channels cannot be divided into heads; when called, that the map has a
            single position, so that there is nothing to mix.
    """
    return _SelfAttention(layer)


def self_attention_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `self_attention`."""
    channels, out_channels = layer.in_channels, layer.out_channels
    rows, columns = layer.grid(height, width)
    num_queries, num_keys = rows * columns, height * width
    per_query = channels * (channels + out_channels) + 2 * num_keys * channels
    return least_cost(
        layer,
        height,
        width,
        macs=2 * num_keys * channels**2 + num_queries * per_query,
        num_parameters=channels * 3 * (channels + 1) + (channels + 1) * out_channels,
        out_channels=out_channels,
    )


class _SelfAttention(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        channels = layer.in_channels
        if channels > HEAD_WIDTH and channels % HEAD_WIDTH:
            raise PfstudyError(
                f"self_attention takes channels divisible by {HEAD_WIDTH}, or fewer, but got "
                f"{channels}; choose another operation here."
            )
        self.stride = layer.stride
        self.num_heads = max(channels // HEAD_WIDTH, 1)
        self.qkv = linear(channels, 3 * channels, layer.weight_std)
        self.project = linear(channels, layer.out_channels, layer.weight_std)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        if x_NCHW.shape[2:].numel() == 1:
            raise PfstudyError(
                "self_attention takes a map of at least two positions, but got 1x1; choose another "
                "operation here or larger images."
            )
        x_NHWC = x_NCHW.permute(0, 2, 3, 1).contiguous()  # or linear adds its bias separately
        grid = [-(-length // self.stride) for length in x_NCHW.shape[2:]]
        q, k, v = self._heads(x_NHWC)
        mixed_NhLD = functional.scaled_dot_product_attention(q, k, v)
        mixed_NLC = mixed_NhLD.transpose(1, 2).flatten(2)
        y_NHWC: torch.Tensor = self.project(mixed_NLC).unflatten(1, grid)
        return y_NHWC.permute(0, 3, 1, 2)

    def _heads(self, x_NHWC: torch.Tensor) -> list[torch.Tensor]:
        """Queries, keys and values, ``(N, heads, positions, d)`` each."""
        channels, s = x_NHWC.shape[3], self.stride
        if s == 1:
            qkv = self.qkv(x_NHWC).chunk(3, dim=3)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            queries = functional.linear(x_NHWC[:, ::s, ::s], weight[:channels], bias[:channels])
            keys_values = functional.linear(x_NHWC, weight[channels:], bias[channels:])
            qkv = (queries, *keys_values.chunk(2, dim=3))
        return [t.flatten(1, 2).unflatten(2, (self.num_heads, -1)).transpose(1, 2) for t in qkv]
