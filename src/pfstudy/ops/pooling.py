"""Parameter-free operations: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``."""

from __future__ import annotations

from torch import nn

from pfstudy.ops.layer import Layer


def maxpool(layer: Layer) -> nn.MaxPool2d:
    r"""Maximum over the window, per channel; pixels outside the image never win.

    .. math:: y_{c,i,j} = \max_{u,v} x_{c,\, si + u - p,\, sj + v - p}

    The operation of R50-max (Han et al. 2022, Sec. 3).
    """
    return nn.MaxPool2d(layer.kernel_size, stride=layer.stride, padding=layer.padding)


def avgpool(layer: Layer) -> nn.AvgPool2d:
    r"""Mean over those pixels of the window that lie in the image, per channel.

    .. math:: y_{c,i,j} = \frac{1}{|W_{ij}|} \sum_{(u,v) \in W_{ij}} x_{c,u,v}
    """
    return nn.AvgPool2d(
        layer.kernel_size, stride=layer.stride, padding=layer.padding, count_include_pad=False
    )


def identity(layer: Layer) -> nn.Module:
    """No mixing of positions: the input, or every ``s``-th row and column of it."""
    if layer.stride == 1:
        return nn.Identity()
    return nn.MaxPool2d(1, stride=layer.stride)
