"""Pools of a window, parameter-free: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``."""

from __future__ import annotations

import torch
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.ops.cost import OperationCost, pooling_cost
from pfstudy.ops.layer import Layer
from pfstudy.ops.precision import at_least_float32

LPPOOL_EPSILON = 1e-12
"""Keeps the gradient finite where a window is zero."""


def maxpool(layer: Layer) -> nn.MaxPool2d:
    r"""Maximum over the window, per channel; pixels outside the image never win.

    .. math:: y_{c,i,j} = \max_{u,v} x_{c,\, si + u - p,\, sj + v - p}

    The operation of R50-max (Han et al. 2022, Sec. 3).
    """
    return nn.MaxPool2d(layer.kernel_size, stride=layer.stride, padding=layer.padding)


maxpool_cost = pooling_cost


def minpool(layer: Layer) -> nn.Module:
    r"""Minimum over the window, per channel; pixels outside the image never win.

    .. math:: y_{c,i,j} = \min_{u,v} x_{c,\, si + u - p,\, sj + v - p} = -\max_{u,v} (-x)
    """
    return _MinPool(layer.kernel_size, stride=layer.stride, padding=layer.padding)


minpool_cost = pooling_cost


def avgpool(layer: Layer) -> nn.AvgPool2d:
    r"""Mean over those pixels of the window that lie in the image, per channel.

    .. math:: y_{c,i,j} = \frac{1}{|W_{ij}|} \sum_{(u,v) \in W_{ij}} x_{c,u,v}
    """
    return nn.AvgPool2d(
        layer.kernel_size, stride=layer.stride, padding=layer.padding, count_include_pad=False
    )


avgpool_cost = pooling_cost


def lppool(layer: Layer) -> nn.Module:
    r"""L2 norm of the window, per channel; pixels outside the image count as zero.

    .. math:: y_{c,i,j} = \sqrt{\epsilon + \sum_{u,v} x_{c,\, si + u - p,\, sj + v - p}^2}

    with :math:`\epsilon = 10^{-12}`, so that a window of zeros has a gradient: zero. With a kernel
    of size 1 it is the absolute value. Lp pooling of Sermanet et al. 2012, with p = 2. Squares
    are added in float32 also where the input is in half precision: float16 ends at 256 squared.
    """
    return _L2Pool(layer)


lppool_cost = pooling_cost


def poolformer(layer: Layer) -> nn.Module:
    r"""Average pool minus the pixel itself: the token mixer of PoolFormer (Yu et al. 2022).

    .. math:: y_{c,i,j} = \frac{1}{|W_{ij}|} \sum_{(u,v) \in W_{ij}} x_{c,u,v} - x_{c,si,sj}

    Raises:
        PfstudyError: The kernel has size 1, which leaves nothing but zeros.
    """
    if layer.kernel_size == 1:
        raise PfstudyError(
            "poolformer takes a kernel_size of 3 or more, but got 1, with which it puts out zeros; "
            "choose a larger kernel or identity."
        )
    return _PoolMinusInput(layer)


poolformer_cost = pooling_cost


def identity(layer: Layer) -> nn.Module:
    """No mixing of positions: the input, or every ``s``-th row and column of it."""
    if layer.stride == 1:
        return nn.Identity()
    return nn.MaxPool2d(1, stride=layer.stride)


def identity_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `identity`: nothing at stride 1, where the input itself goes through."""
    if layer.stride == 1:
        return OperationCost(macs=0, bytes_moved=0)
    return pooling_cost(layer, height, width)


class _MinPool(nn.MaxPool2d):
    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        highest_NCHW: torch.Tensor = super().forward(-x_NCHW)
        return -highest_NCHW


class _L2Pool(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.sum = nn.AvgPool2d(
            layer.kernel_size, stride=layer.stride, padding=layer.padding, divisor_override=1
        )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        squares_NCHW: torch.Tensor = self.sum(at_least_float32(x_NCHW).square())
        return (squares_NCHW + LPPOOL_EPSILON).sqrt().to(x_NCHW.dtype)


class _PoolMinusInput(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.pool = avgpool(layer)
        self.stride = layer.stride

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        mean_NCHW: torch.Tensor = self.pool(x_NCHW)
        return mean_NCHW - x_NCHW[:, :, :: self.stride, :: self.stride]
