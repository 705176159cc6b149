"""Arithmetic that half precision is too coarse for."""

from __future__ import annotations

import torch


def at_least_float32(x: torch.Tensor) -> torch.Tensor:
    """The tensor in float32 if it is in half precision, and itself otherwise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
