"""What an operation must know of the layer that it replaces."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Layer:
    """What an operation must know of the layer that it replaces.

    Attributes:
        in_channels: Channels that come in.
        out_channels: Channels that must go out.
        kernel_size: Side of the window, odd.
        stride: Step of the window.
        bias: Whether the replaced layer adds a bias.
        groups: Groups of the replaced convolution; 1 where it was dense or no convolution.
        convolution: The replaced convolution itself, if it was one; a convolution whose weights
            have the same shape starts from them, drawn or pretrained.
        weight_std: Standard deviation of the weights of the replaced layer's linear layers, from
            which new ones are drawn; ``None`` where it has none.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    bias: bool = False
    groups: int = 1
    weight_std: float | None = field(default=None, compare=False)
    convolution: nn.Conv2d | None = field(default=None, compare=False, repr=False)

    @property
    def padding(self) -> int:
        """Padding that puts out ``ceil(H / s)`` rows: ``(k - 1) / 2``."""
        return (self.kernel_size - 1) // 2

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns that go out: ``(ceil(H / s), ceil(W / s))``."""
        return -(-height // self.stride), -(-width // self.stride)
