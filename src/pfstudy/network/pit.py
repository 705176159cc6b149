"""The pooling-based vision transformer without class token, registered with timm.

timm's reads its class token in the head; the networks of Han et al. 2022 average over the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, trunc_normal_
from timm.models import register_model
from timm.models.pit import ConvEmbedding
from timm.models.vision_transformer import Block
from torch import nn

from pfstudy.network.backbones import refuse_weights

_norm_layer = partial(nn.LayerNorm, eps=1e-6)


class _Stage(nn.Module):
    """Transformer blocks over the positions of a map: ``(N, C, H, W) -> (N, C, H, W)``."""

    def __init__(self, width: int, num_heads: int, drop_path_rates: Sequence[float]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                Block(width, num_heads, qkv_bias=True, drop_path=rate, norm_layer=_norm_layer)
                for rate in drop_path_rates
            )
        )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NLC: torch.Tensor = self.blocks(x_NCHW.flatten(2).transpose(1, 2))
        y_NCHW: torch.Tensor = y_NLC.transpose(1, 2).unflatten(2, x_NCHW.shape[2:])
        return y_NCHW


class _Pool(nn.Module):
    """Halves the resolution and changes the width, each channel by itself."""

    def __init__(self, width: int, next_width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, next_width, 3, stride=2, padding=1, groups=width)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NCHW: torch.Tensor = self.conv(x_NCHW)
        return y_NCHW


class PoolingTransformer(nn.Module):
    """PiT (Heo et al. 2021) without class token, as PiT-*-max has it (Han et al. 2022).

    Args:
        img_size: Height and width of the images.
        patch_size: Side of the patches.
        stride: Step from patch to patch.
        base_dim: Channels per head.
        depth: Number of blocks in each stage.
        heads: Number of heads in each stage; the width is ``base_dim`` times it.
        in_chans: Channels of the images.
        num_classes: Number of classes.
        drop_path_rate: Largest rate of stochastic depth.

    Shapes: ``(N, in_chans, img_size, img_size) -> (N, num_classes)``.
    """

    def __init__(
        self,
        img_size: int = 224,
        patch_size: int = 16,
        stride: int = 8,
        base_dim: int = 48,
        depth: Sequence[int] = (2, 6, 4),
        heads: Sequence[int] = (3, 6, 12),
        in_chans: int = 3,
        num_classes: int = 1000,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [base_dim * num_heads for num_heads in heads]
        self.patch_embed = ConvEmbedding(in_chans, widths[0], img_size, patch_size, stride)
        self.pos_embed = nn.Parameter(torch.zeros(1, widths[0], *self.patch_embed.grid_size))
        rates = calculate_drop_path_rates(drop_path_rate, list(depth), stagewise=True)
        self.transformers = nn.ModuleList(map(_Stage, widths, heads, rates))
        self.pools = nn.ModuleList(map(_Pool, widths[:-1], widths[1:]))
        self.norm = _norm_layer(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)
        trunc_normal_(self.pos_embed, std=0.02)

    def no_weight_decay(self) -> set[str]:
        """Parameters that weight decay leaves alone."""
        return {"pos_embed"}

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits: norm, mean over the grid, head."""
        y_NCHW = self.patch_embed(x_NCHW) + self.pos_embed
        for index, stage in enumerate(self.transformers):
            y_NCHW = stage(y_NCHW if index == 0 else self.pools[index - 1](y_NCHW))
        y_NLC = self.norm(y_NCHW.flatten(2).transpose(1, 2))
        logits: torch.Tensor = self.head(y_NLC.mean(1))
        return logits


@register_model  # type: ignore[untyped-decorator]
def pfstudy_pit(pretrained: bool = False, **kwargs: Any) -> PoolingTransformer:
    """Build a `PoolingTransformer`; there are no weights for it.

    Args:
        pretrained: Must be false.
        kwargs: Arguments of `PoolingTransformer`.
    """
    refuse_weights("pfstudy_pit", pretrained, kwargs)
    return PoolingTransformer(**kwargs)
