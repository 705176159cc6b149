"""Trainable operations."""

from __future__ import annotations

import math

from torch import nn

from pfstudy.ops.layer import Layer


def conv(layer: Layer) -> nn.Conv2d:
    r"""Dense convolution.

    .. math:: y_{o,i,j} = \sum_{c,u,v} w_{o,c,u,v} \, x_{c,\, si + u - p,\, sj + v - p}

    Shapes: ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))``. MACs: ``k^2 C C'`` per output
    position. Weights are drawn from a normal distribution of variance ``2 / (k^2 C')`` (He et
    al. 2015, fan out), as timm does for the convolutions around it.
    """
    return _initialised(
        nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            bias=layer.bias,
        )
    )


def dwconv(layer: Layer) -> nn.Conv2d:
    r"""Depthwise convolution: one kernel per channel (Chollet 2017; Howard et al. 2017).

    .. math:: y_{c,i,j} = \sum_{u,v} w_{c,u,v} \, x_{c,\, si + u - p,\, sj + v - p}

    Shapes: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``. MACs: ``k^2 C`` per output
    position.
    """
    return _initialised(
        nn.Conv2d(
            layer.in_channels,
            layer.in_channels,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            groups=layer.in_channels,
            bias=layer.bias,
        )
    )


def avgpool_conv(layer: Layer) -> nn.Module:
    """Average pool ``s x s`` with stride ``s``, then a dense convolution with stride 1.

    What R50-hybrid has where the resolution falls (Han et al. 2022, Sec. 4). At stride 1 it is
    the convolution alone. Shapes: ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))``; a window
    that hangs over the border averages the pixels that exist.
    """
    behind = Layer(layer.in_channels, layer.out_channels, layer.kernel_size, 1, layer.bias)
    if layer.stride == 1:
        return conv(behind)
    return nn.Sequential(
        nn.AvgPool2d(layer.stride, layer.stride, ceil_mode=True, count_include_pad=False),
        conv(behind),
    )


def projection(layer: Layer) -> nn.Conv2d:
    """1x1 convolution that reaches the channels of the replaced layer."""
    return _initialised(nn.Conv2d(layer.in_channels, layer.out_channels, 1, bias=layer.bias))


def _initialised(module: nn.Conv2d) -> nn.Conv2d:
    fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module
