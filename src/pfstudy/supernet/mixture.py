"""What stands at a site of a supernet: candidates, all of them or one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Mixture(nn.Module):
    r"""Several operations at one site, whose outputs have the same shape.

    .. math:: y = \sum_o w_o \, f_o(x)

    or :math:`y = f_o(x)` of a chosen one alone.

    Args:
        candidates: What computes, each once.
        candidate_of: For every operation of the search, the index of what computes it: of two
            names for the same thing, such as ``conv`` and ``original``, there is one candidate.

    Attributes:
        weights_K: Weight of every operation ``(K,)``; set before a pass.
        chosen: Index of the operation that alone computes; ``None`` for the mixture.
    """

    def __init__(self, candidates: Sequence[nn.Module], candidate_of: Sequence[int]) -> None:
        super().__init__()
        self.candidates = nn.ModuleList(candidates)
        self.candidate_of = tuple(candidate_of)
        self.weights_K: torch.Tensor | None = None
        self.chosen: int | None = None

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Compute the mixture, or the chosen operation; further arguments go to each."""
        if self.chosen is not None:
            chosen: torch.Tensor = self.candidates[self.candidate_of[self.chosen]](
                x, *args, **kwargs
            )
            return chosen
        assert self.weights_K is not None
        mixed: torch.Tensor | None = None
        for index, candidate in enumerate(self.candidates):
            names = [k for k, of in enumerate(self.candidate_of) if of == index]
            weight = self.weights_K[names[0]] if len(names) == 1 else self.weights_K[names].sum()
            y = candidate(x, *args, **kwargs)
            weight = weight.to(y.dtype)
            mixed = weight * y if mixed is None else torch.addcmul(mixed, weight, y)
        assert mixed is not None
        return mixed


class ScaleNorm(nn.Module):
    """Batch norm without parameters: makes the scales of candidates comparable.

    Args:
        num_channels: Number of channels.
        layout: Where they lie: ``NCHW``, ``NHWC``, ``NLC`` or ``NCL``.
    """

    def __init__(self, num_channels: int, layout: str) -> None:
        super().__init__()
        self.axis = layout.index("C")
        kind = nn.BatchNorm2d if len(layout) == 4 else nn.BatchNorm1d
        self.norm = kind(num_channels, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise every channel over images and positions; the layout stays."""
        normed: torch.Tensor = self.norm(x.movedim(self.axis, 1))
        return normed.movedim(1, self.axis)


class Normed(nn.Module):
    """An operation and the norm behind it; further arguments go to the operation."""

    def __init__(self, operation: nn.Module, *norms: nn.Module) -> None:
        super().__init__()
        self.operation = operation
        self.norms = nn.Sequential(*norms)

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Apply both."""
        y: torch.Tensor = self.norms(self.operation(x, *args, **kwargs))
        return y
