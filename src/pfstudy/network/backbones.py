"""Backbones for small images that timm does not have, registered with timm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.models import register_model
from timm.models.efficientnet import EfficientNet, decode_arch_def
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from pfstudy.errors import unknown_name

_BLOCKS = {"basic": BasicBlock, "bottleneck": Bottleneck}


@register_model  # type: ignore[untyped-decorator]
def pfstudy_small_resnet(
    pretrained: bool = False,
    *,
    block: str = "bottleneck",
    layers: Sequence[int] = (2, 2),
    channels: Sequence[int] = (16, 32),
    stem_channels: int = 16,
    in_chans: int = 3,
    **kwargs: Any,
) -> ResNet:
    """timm's ResNet with a 3x3 stem that keeps the resolution, as for CIFAR (He et al. 2016).

    Args:
        pretrained: There are no weights for it.
        block: ``basic`` or ``bottleneck``.
        layers: Number of blocks in each of at most four stages.
        channels: Width of each stage; a bottleneck puts out four times as many.
        stem_channels: Width of the stem, even.
        in_chans: Channels of the images.
        kwargs: Further arguments of timm's ``ResNet``.

    Returns:
        A network ``(N, in_chans, H, W) -> (N, num_classes)``; stage ``i`` works at
        ``H / 2^(i - 1)``.

    Raises:
        ValueError: A stage has no width, or there are too many.
    """
    refuse_weights("pfstudy_small_resnet", pretrained, kwargs)
    _check_widths("pfstudy_small_resnet", layers, channels)
    if len(layers) > 4:
        raise ValueError(f"pfstudy_small_resnet takes at most 4 stages, but got {len(layers)}.")
    if block not in _BLOCKS:
        raise unknown_name("block type", block, _BLOCKS)
    padding = int(sum(layers) == 1)  # timm divides by the number of blocks minus one
    network = ResNet(
        block=_BLOCKS[block],
        layers=(*layers, *[1] * padding),
        channels=(*channels, *channels[:padding]),
        in_chans=in_chans,
        stem_type="deep",
        stem_width=stem_channels // 2,
        **kwargs,
    )
    network.conv1 = _stem(in_chans, stem_channels)
    for stage in range(len(layers) + 1, 5):  # timm's forward runs four stages
        network.add_module(f"layer{stage}", nn.Identity())
    network.maxpool = nn.Identity()
    return network


@register_model  # type: ignore[untyped-decorator]
def pfstudy_small_mobilenet(
    pretrained: bool = False,
    *,
    layers: Sequence[int] = (2, 2),
    channels: Sequence[int] = (16, 32),
    expansion: int = 4,
    kernel_size: int = 3,
    stem_channels: int = 16,
    head_channels: int = 128,
    in_chans: int = 3,
    **kwargs: Any,
) -> EfficientNet:
    """timm's inverted residuals (Sandler et al. 2018) behind a 3x3 stem that keeps the resolution.

    Args:
        pretrained: There are no weights for it.
        layers: Number of blocks in each stage.
        channels: Width of each stage.
        expansion: How much wider a block is inside; that width is rounded to a multiple of 8.
        kernel_size: Side of the depthwise convolutions.
        stem_channels: Width of the stem.
        head_channels: Width of the 1x1 convolution before the classifier.
        in_chans: Channels of the images.
        kwargs: Further arguments of timm's ``EfficientNet``.

    Returns:
        A network ``(N, in_chans, H, W) -> (N, num_classes)``; stage ``i`` works at
        ``H / 2^(i - 1)``.

    Raises:
        ValueError: A stage has no width.
    """
    refuse_weights("pfstudy_small_mobilenet", pretrained, kwargs)
    _check_widths("pfstudy_small_mobilenet", layers, channels)
    stages = [
        [f"ir_r{depth}_k{kernel_size}_s{min(stage, 2)}_e{expansion}_c{width}"]
        for stage, (depth, width) in enumerate(zip(layers, channels, strict=True), 1)
    ]
    network = EfficientNet(
        decode_arch_def(stages),
        stem_size=stem_channels,
        fix_stem=True,
        num_features=head_channels,
        in_chans=in_chans,
        round_chs_fn=_as_given,
        **kwargs,
    )
    network.conv_stem = _stem(in_chans, stem_channels)
    return network


@register_model  # type: ignore[untyped-decorator]
def pfstudy_small_vit(
    pretrained: bool = False,
    *,
    img_size: int = 8,
    patch_size: int = 2,
    embed_dim: int = 48,
    depth: int = 4,
    num_heads: int = 6,
    **kwargs: Any,
) -> VisionTransformer:
    """timm's vision transformer without class token, with initial weights for a small width.

    timm draws linear layers and positions with a standard deviation of 0.02, which suits the
    width of ViT-B; narrow networks then hardly learn where a patch is. Here linear layers follow
    Glorot and Bengio 2010, the last of every branch is divided by ``sqrt(2 l)`` in block ``l``,
    and positions have a standard deviation of 1.

    Args:
        pretrained: There are no weights for it.
        img_size: Height and width of the images.
        patch_size: Side of the patches.
        embed_dim: Width.
        depth: Number of blocks.
        num_heads: Heads in each block.
        kwargs: Further arguments of timm's ``VisionTransformer``.

    Returns:
        A network ``(N, in_chans, img_size, img_size) -> (N, num_classes)``, which classifies the
        mean over the grid.
    """
    refuse_weights("pfstudy_small_vit", pretrained, kwargs)
    network = VisionTransformer(
        img_size=img_size,
        patch_size=patch_size,
        embed_dim=embed_dim,
        depth=depth,
        num_heads=num_heads,
        **{
            "class_token": False,
            "global_pool": "avg",
            "fc_norm": False,
            "weight_init": "moco",
            "fix_init": True,
            **kwargs,
        },
    )
    nn.init.normal_(network.pos_embed)
    return network


def refuse_weights(name: str, pretrained: bool, kwargs: dict[str, Any]) -> None:
    """Refuse to load weights that do not exist, and drop what timm says about them."""
    if pretrained:
        raise ValueError(f"{name} has no pretrained weights.")
    for key in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
        kwargs.pop(key, None)


def _check_widths(name: str, layers: Sequence[int], channels: Sequence[int]) -> None:
    if len(layers) != len(channels):
        raise ValueError(
            f"{name} takes a width for each stage, but got {len(channels)} channels for "
            f"{len(layers)} layers."
        )


def _stem(in_channels: int, channels: int) -> nn.Conv2d:
    stem = nn.Conv2d(in_channels, channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem


def _as_given(channels: int, **_: Any) -> int:
    """The width itself, where timm would round it to a multiple of 8."""
    return channels
