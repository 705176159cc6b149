"""Mixing by the Fourier transform."""

from __future__ import annotations

import torch
from torch import nn

from pfstudy.ops.cost import pooling_cost
from pfstudy.ops.layer import Layer
from pfstudy.ops.precision import at_least_float32


def fourier(layer: Layer) -> nn.Module:
    r"""Real part of the discrete Fourier transform over rows, columns and channels.

    .. math:: y_{c,i,j} = \frac{1}{\sqrt{C H W}} \sum_{d,m,n} x_{d,m,n}
              \cos 2 \pi \left(\frac{c d}{C} + \frac{i m}{H} + \frac{j n}{W}\right)

    The token mixer of FNet (Lee-Thorp et al. 2021, Sec. 3), with two axes of positions and
    scaled so that the transform keeps the norm. With a stride, every ``s``-th frequency is kept.
    Shapes: ``(N, C, H, W) -> (N, C, ceil(H / s), ceil(W / s))``. MACs: none, by the convention
    that counts matrix products alone. Half precision is transformed in float32.
    """
    return _Fourier(layer.stride)


fourier_cost = pooling_cost


class _Fourier(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        spectrum_NCHW: torch.Tensor = torch.fft.fftn(
            at_least_float32(x_NCHW), dim=(1, 2, 3), norm="ortho"
        )
        kept_NCHW = spectrum_NCHW.real[:, :, :: self.stride, :: self.stride]
        # a copy, so that the imaginary part can be freed
        return kept_NCHW.to(x_NCHW.dtype).contiguous()
