"""Spatial operations: what can stand at a site.

Every operation keeps the contract ``(N, C, H, W) -> (N, C', ceil(H / s), ceil(W / s))`` with the
channels and the stride of the layer that it replaces. A builder ``name(layer)`` makes the module,
and ``name_cost(layer, height, width)`` beside it says what it costs. By family:

- `convolution`: conv, groupconv, dwconv, dilated_conv, avgpool_conv
- `pooling`: maxpool, minpool, avgpool, lppool, poolformer, identity; `median`: medianpool
- `fixed`: blurpool, shift, filters that are not learned
- `deformable`: deform_maxpool
- `pool_mlp`: maxpool_mlp, avgpool_mlp
- `fourier` and `attention`: fourier and self_attention, which mix all positions
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.ops.convolution import projection, projection_cost
from pfstudy.ops.cost import OperationCost
from pfstudy.ops.layer import Layer
from pfstudy.schema.operations import Operation

__all__ = ["Layer", "OperationCost", "Projected", "build_operation", "operation_cost"]


def build_operation(operation: Operation, layer: Layer) -> nn.Module:
    """Build the module that stands in the place of a layer.

    Where the layer changes the number of channels and the operation cannot, a 1x1 convolution
    follows it.

    Raises:
        PfstudyError: The kernel size is even, so that no padding keeps the grid, or the operation
            cannot stand in the place of such a layer.
    """
    if operation.has_kernel and layer.kernel_size % 2 == 0:
        raise PfstudyError(
            f"{operation.name} takes an odd kernel_size, but got {layer.kernel_size}."
        )
    module: nn.Module = _resolve(operation.target)(layer)
    if _needs_projection(operation, layer):
        return Projected(module, projection(layer))
    return module


def operation_cost(operation: Operation, layer: Layer, height: int, width: int) -> OperationCost:
    """Cost of what `build_operation` builds, for one image, without building it.

    Args:
        operation: An entry of the registry.
        layer: The replaced layer.
        height: Rows that come in.
        width: Columns that come in.

    Returns:
        Multiply-accumulates and the least traffic with memory in float32, those of the 1x1
        convolution behind the operation included.

    Raises:
        PfstudyError: The operation has no cost function, or cannot stand in the place of such a
            layer.
    """
    if operation.cost is None:
        raise PfstudyError(
            f"{operation.name} has no cost function; register it with cost=module:function."
        )
    cost: OperationCost = _resolve(operation.cost)(layer, height, width)
    if _needs_projection(operation, layer):
        return cost + projection_cost(layer, *layer.grid(height, width))
    return cost


class Projected(nn.Sequential):
    """An operation and the 1x1 convolution that reaches the channels of the replaced layer."""


def _needs_projection(operation: Operation, layer: Layer) -> bool:
    return layer.in_channels != layer.out_channels and not operation.changes_channels


def _resolve(target: str | Callable[..., Any]) -> Callable[..., Any]:
    if not isinstance(target, str):
        return target
    module_name, function_name = target.split(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module_name), function_name)
    return function
