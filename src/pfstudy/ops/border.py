"""What stands beyond the border of a map."""

from __future__ import annotations

import torch
from torch.nn import functional


def repeat_border(x_NCHW: torch.Tensor, width: int) -> torch.Tensor:
    """Repeat the pixels at the border: ``(N, C, H, W) -> (N, C, H + 2 width, W + 2 width)``."""
    if not torch.compiler.is_compiling():
        return functional.pad(x_NCHW, (width,) * 4, mode="replicate")
    # compiled by torch 2.15, the gradient of that padding has wrong strides in channels_last
    for axis in (2, 3):
        first, last = x_NCHW.narrow(axis, 0, 1), x_NCHW.narrow(axis, -1, 1)
        x_NCHW = torch.cat([*[first] * width, x_NCHW, *[last] * width], axis)
    return x_NCHW
