"""Backbones for small images that timm does not have, registered with timm."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from pfstudy.errors import unknown_name

_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


@register_model  # type: ignore[untyped-decorator]
def pfstudy_small_resnet(
    pretrained: bool = False,
    *,
    block: str = "bottleneck",
    layers: tuple[int, ...] = (2, 2),
    channels: tuple[int, ...] = (16, 32),
    stem_channels: int = 16,
    in_chans: int = 3,
    **kwargs: Any,
) -> ResNet:
    """timm's ResNet with a 3x3 stem that keeps the resolution, as for CIFAR (He et al. 2016).

    Args:
        pretrained: There are no weights for it.
        block: ``basic`` or ``bottleneck``.
        layers: Number of blocks in each stage.
        channels: Width of each stage; a bottleneck puts out four times as many.
        stem_channels: Width of the stem, even.
        in_chans: Channels of the images.
        kwargs: Further arguments of timm's ``ResNet``.

    Returns:
        A network ``(N, in_chans, H, W) -> (N, num_classes)``; stage ``i`` works at
        ``H / 2^(i - 1)``.
    """
    if pretrained:
        raise ValueError("pfstudy_small_resnet has no pretrained weights.")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)
    if block not in _BLOCKS:
        raise unknown_name("block type", block, _BLOCKS)
    network = ResNet(
        block=_BLOCKS[block],
        layers=tuple(layers),
        channels=tuple(channels),
        in_chans=in_chans,
        stem_type="deep",
        stem_width=stem_channels // 2,
        **kwargs,
    )
    stem = nn.Conv2d(in_chans, stem_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    network.conv1 = stem
    for stage in range(len(layers) + 1, 5):  # timm's forward runs four stages
        network.add_module(f"layer{stage}", nn.Identity())
    network.maxpool = nn.Identity()
    return network
