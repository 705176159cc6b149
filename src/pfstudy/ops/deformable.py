"""Deformable pooling."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pfstudy.ops.cost import OperationCost, least_cost
from pfstudy.ops.layer import Layer
from pfstudy.ops.precision import at_least_float32


def deform_maxpool(layer: Layer) -> nn.Module:
    r"""Maximum over samples at positions that a convolution predicts.

    .. math:: y_{c,i,j} = \max_{u,v} x_c(si + u - p + \Delta^y_{u,v,i,j},\;
                                         sj + v - p + \Delta^x_{u,v,i,j})

    :math:`x_c(\cdot, \cdot)` interpolates between the four pixels around a position, after
    moving a position outside of the image to the border. The offsets :math:`\Delta`, in pixels,
    are what a ``k x k`` convolution with bias makes of the same input, as in deformable
    convolution (Dai et al. 2017); it starts at zero, and with it the operation as the max-pool
    (up to the rounding of positions): what a window repeats at the border lies in it anyway.

    Shapes: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``. MACs: ``2 k^4 C`` per output
    position, of the convolution. Positions and samples are computed in float32 also where the
    input is in half precision, which cannot tell positions of a large map apart.
    """
    return _DeformMaxPool(layer)


def deform_maxpool_cost(layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of `deform_maxpool`."""
    rows, columns = layer.grid(height, width)
    num_offsets = 2 * layer.kernel_size**2
    num_weights = layer.kernel_size**2 * layer.in_channels * num_offsets
    return least_cost(
        layer,
        height,
        width,
        macs=num_weights * rows * columns,
        num_parameters=num_weights + num_offsets,
    )


class _DeformMaxPool(nn.Module):
    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.kernel_size, self.stride, self.padding = layer.kernel_size, layer.stride, layer.padding
        self.offset = nn.Conv2d(
            layer.in_channels,
            2 * layer.kernel_size**2,
            layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
        )
        nn.init.zeros_(self.offset.weight)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        side = self.kernel_size
        source_NCHW = at_least_float32(x_NCHW)
        offsets_N2UVhw = self.offset(x_NCHW).to(source_NCHW.dtype).unflatten(1, (2, side, side))
        dy_NUVhw, dx_NUVhw = offsets_N2UVhw.unbind(1)
        height, width = dy_NUVhw.shape[3:]
        y_NUVhw = dy_NUVhw + self._positions(height, dy_NUVhw)[:, None, :, None]
        x_NUVhw = dx_NUVhw + self._positions(width, dx_NUVhw)[:, None, :]
        grid_NUVhw2 = torch.stack(
            [_normalised(x_NUVhw, x_NCHW.shape[3]), _normalised(y_NUVhw, x_NCHW.shape[2])], dim=-1
        )
        # the places of a window are laid out as rows, because grid_sample takes a 2-d grid
        samples = functional.grid_sample(
            source_NCHW, grid_NUVhw2.flatten(1, 3), padding_mode="border", align_corners=True
        )
        y_NChw: torch.Tensor = samples.unflatten(2, (side * side, height)).amax(2)
        return y_NChw.to(x_NCHW.dtype)

    def _positions(self, length: int, like: torch.Tensor) -> torch.Tensor:
        """Positions ``(k, length)`` of the places of all windows along an axis, in pixels."""
        places = torch.arange(self.kernel_size, device=like.device, dtype=like.dtype)
        starts = torch.arange(length, device=like.device, dtype=like.dtype) * self.stride
        return places[:, None] - self.padding + starts


def _normalised(position: torch.Tensor, length: int) -> torch.Tensor:
    """Map pixels 0 and ``length - 1`` to -1 and 1."""
    return position * (2 / max(length - 1, 1)) - 1
