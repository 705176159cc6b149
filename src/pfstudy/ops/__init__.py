"""Spatial operations: what can stand at a site.

Every operation keeps the contract ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))`` with the
channels and the stride of the layer that it replaces.
"""

from __future__ import annotations

import importlib

from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.ops.convolution import projection
from pfstudy.ops.layer import Layer
from pfstudy.schema.operations import Operation

__all__ = ["Layer", "Projected", "build_operation"]


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
        return Projected(module, projection(layer))
    return module


class Projected(nn.Sequential):
    """An operation and the 1x1 convolution that reaches the channels of the replaced layer."""
