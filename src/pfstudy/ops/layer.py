"""What an operation must know of the layer that it replaces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What an operation must know of the layer that it replaces.

    Attributes:
        in_channels: Channels that come in.
        out_channels: Channels that must go out.
        kernel_size: Side of the window, odd.
        stride: Step of the window.
        bias: Whether the replaced layer adds a bias.
        groups: Groups of the replaced convolution; 1 where it was none.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    bias: bool = False
    groups: int = 1

    @property
    def padding(self) -> int:
        """Padding that puts out ``ceil(H / s)`` rows: ``(k - 1) / 2``."""
        return (self.kernel_size - 1) // 2
