"""Spatial operations: what can stand at a site.

Every operation keeps the contract ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))`` with the
channels and the stride of the layer that it replaces.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import Operation


@dataclass(frozen=True)
class Layer:
    """What an operation must know of the layer that it replaces.

    Attributes:
        in_channels: Channels that come in.
        out_channels: Channels that must go out.
        kernel_size: Side of the window, odd.
        stride: Step of the window.
        bias: Whether the replaced layer adds a bias.
    """

    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int
    bias: bool = False

    @property
    def padding(self) -> int:
        """Padding that puts out ``ceil(H / s)`` rows: ``(k - 1) / 2``."""
        return (self.kernel_size - 1) // 2


def build_operation(operation: Operation, layer: Layer) -> nn.Module:
    """Build the module that stands in the place of a layer.

    Where the layer changes the number of channels and the operation cannot, a 1x1 convolution
    follows it.

    Raises:
        PfstudyError: The kernel size is even, so that no padding keeps the grid.
    """
    if operation.has_kernel and layer.kernel_size % 2 == 0:
        raise PfstudyError(
            f"{operation.name} takes an odd kernel_size, but got {layer.kernel_size}."
        )
    target = operation.target
    if isinstance(target, str):
        module_name, function_name = target.split(":")
        target = getattr(importlib.import_module(module_name), function_name)
    module: nn.Module = target(layer)
    if layer.in_channels != layer.out_channels and not operation.changes_channels:
        from pfstudy.ops.convolution import projection

        return Projected(module, projection(layer))
    return module


class Projected(nn.Sequential):
    """An operation and the 1x1 convolution that reaches the channels of the replaced layer."""
