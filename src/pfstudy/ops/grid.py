"""Brings what a site sees onto a grid, where every operation works, and back."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from pfstudy.errors import PfstudyError


def grid_side(num_positions: int) -> int:
    """Height and width of a square grid.

    Raises:
        PfstudyError: The positions form no square.
    """
    side = math.isqrt(num_positions)
    if side * side != num_positions:
        raise PfstudyError(f"{num_positions} tokens form no square grid; check prefix_tokens.")
    return side


class OnGrid(nn.Module):
    """An operation ``(N, C, H, W) -> (N, C, H, W)`` where the network has another layout.

    Tokens are laid out row by row on a square grid. Those in front of it, such as a class token,
    pass through unchanged. Further arguments, which an attention may take, are ignored.

    Args:
        operation: The operation.
        layout: ``NHWC`` for a feature map, ``NLC`` or ``NCL`` for tokens.
        prefix_tokens: Number of tokens in front of the grid.
    """

    def __init__(self, operation: nn.Module, layout: str, prefix_tokens: int = 0) -> None:
        super().__init__()
        self.operation = operation
        self.layout = layout
        self.prefix_tokens = prefix_tokens

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Apply the operation; the layout stays."""
        if self.layout == "NHWC":
            moved: torch.Tensor = self.operation(x.permute(0, 3, 1, 2))
            return moved.permute(0, 2, 3, 1)
        x_NLC = x.transpose(1, 2) if self.layout == "NCL" else x
        prefix, on_grid = x_NLC[:, : self.prefix_tokens], x_NLC[:, self.prefix_tokens :]
        side = grid_side(on_grid.shape[1])
        y_NCHW = self.operation(on_grid.unflatten(1, (side, side)).permute(0, 3, 1, 2))
        if self.layout == "NCL":
            y_NCL = y_NCHW.flatten(2)
            return torch.cat([prefix.transpose(1, 2), y_NCL], 2) if self.prefix_tokens else y_NCL
        y_NLC = y_NCHW.permute(0, 2, 3, 1).flatten(1, 2)
        return torch.cat([prefix, y_NLC], 1) if self.prefix_tokens else y_NLC
