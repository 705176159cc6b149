"""Convolutions."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.ops.cost import OperationCost, least_cost
from pfstudy.ops.initial import conv2d
from pfstudy.ops.layer import Layer

GROUP_WIDTH = 8
"""Channels of a group, as in RegNetY-400MF (Radosavovic et al. 2020)."""

DILATION = 2


def conv(layer: Layer) -> nn.Conv2d:
    r"""Dense convolution.

    .. math:: y_{o,i,j} = \sum_{c,u,v} w_{o,c,u,v} \, x_{c,\, si + u - p,\, sj + v - p}

    Shapes: ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))``. MACs: ``k^2 C C'`` per output
    position. Weights are drawn from a normal distribution of variance ``2 / (k^2 C')`` (He et
    al. 2015, fan out), as timm does for the convolutions around it; where they have the shape of
    the replaced convolution's, they are those.
    """
    return _convolution(layer)


def conv_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `conv`."""
    return _convolution_cost(layer, height, width)


def groupconv(layer: Layer) -> nn.Conv2d:
    r"""Grouped convolution: every group of channels is convolved by itself (Xie et al. 2017).

    .. math:: y_{o,i,j} = \sum_{c \in G(o),u,v} w_{o,c,u,v} \, x_{c,\, si + u - p,\, sj + v - p}

    It has the groups of the replaced layer if that is a grouped, not depthwise, convolution, and
    otherwise groups of 8 channels (RegNetY-400MF, Radosavovic et al. 2020). Shapes: ``(N, C, H,
    W) -> (N, C', ceil(H / s), ceil(W / s))``. MACs: ``k^2 C C' / groups`` per output position.

    Raises:
        PfstudyError: The channels cannot be divided into groups.
    """
    return _convolution(layer, groups=_num_groups(layer))


def groupconv_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `groupconv`."""
    return _convolution_cost(layer, height, width, groups=_num_groups(layer))


def dwconv(layer: Layer) -> nn.Conv2d:
    r"""Depthwise convolution: one kernel per channel (Chollet 2017; Howard et al. 2017).

    .. math:: y_{c,i,j} = \sum_{u,v} w_{c,u,v} \, x_{c,\, si + u - p,\, sj + v - p}

    Shapes: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``. MACs: ``k^2 C`` per output
    position.
    """
    return _convolution(_keeping_channels(layer), groups=layer.in_channels)


def dwconv_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `dwconv`."""
    return _convolution_cost(_keeping_channels(layer), height, width, groups=layer.in_channels)


def dilated_conv(layer: Layer) -> nn.Conv2d:
    r"""Dense convolution whose taps stand two pixels apart (Yu and Koltun 2016).

    .. math:: y_{o,i,j} = \sum_{c,u,v} w_{o,c,u,v} \, x_{c,\, si + 2(u - p),\, sj + 2(v - p)}

    Shapes: ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))``. MACs: ``k^2 C C'`` per output
    position, those of `conv`; its window is ``2 k - 1`` wide.
    """
    return _convolution(layer, dilation=DILATION)


def dilated_conv_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `dilated_conv`."""
    return _convolution_cost(layer, height, width)


def avgpool_conv(layer: Layer) -> nn.Module:
    """Average pool ``s x s`` with stride ``s``, then a dense convolution with stride 1.

    What R50-hybrid has where the resolution falls (Han et al. 2022, Sec. 4). At stride 1 it is
    the convolution alone. Shapes: ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))``; a window
    that hangs over the border averages the pixels that exist.
    """
    if layer.stride == 1:
        return _convolution(layer)
    return nn.Sequential(
        nn.AvgPool2d(layer.stride, layer.stride, ceil_mode=True, count_include_pad=False),
        _convolution(replace(layer, stride=1)),
    )


def avgpool_conv_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `avgpool_conv`."""
    return _convolution_cost(layer, height, width)


def projection(layer: Layer) -> nn.Conv2d:
    """1x1 convolution that reaches the channels of the replaced layer, at stride 1."""
    return _convolution(replace(layer, kernel_size=1, stride=1))


def projection_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `projection`, of a map that has the size of the replaced layer's output."""
    return _convolution_cost(replace(layer, kernel_size=1, stride=1), height, width)


def _num_groups(layer: Layer) -> int:
    if 1 < layer.groups < layer.in_channels:
        return layer.groups
    for channels, where in ((layer.in_channels, "coming in"), (layer.out_channels, "going out")):
        if channels % GROUP_WIDTH:
            raise PfstudyError(
                f"groupconv takes channels divisible by {GROUP_WIDTH}, but got {channels} {where}; "
                "choose another operation here."
            )
    groups = layer.in_channels // GROUP_WIDTH
    if layer.out_channels % groups:
        raise PfstudyError(
            f"groupconv with {groups} groups puts out channels divisible by {groups}, but got "
            f"{layer.out_channels} going out; choose another operation here."
        )
    return groups


def _keeping_channels(layer: Layer) -> Layer:
    return replace(layer, out_channels=layer.in_channels)


def _convolution(layer: Layer, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return conv2d(
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=dilation * layer.padding,
        dilation=dilation,
        groups=groups,
        bias=layer.bias,
        like=layer.convolution,
    )


def _convolution_cost(layer: Layer, height: int, width: int, groups: int = 1) -> OperationCost:
    rows, columns = layer.grid(height, width)
    num_weights = layer.kernel_size**2 * layer.in_channels * layer.out_channels // groups
    return least_cost(
        layer,
        height,
        width,
        macs=num_weights * rows * columns,
        num_parameters=num_weights + layer.bias * layer.out_channels,
        out_channels=layer.out_channels,
    )
