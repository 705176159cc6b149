"""The registry of operations: their names and what must be known of them without torch.

The implementations stand in `pfstudy.ops`; a registered target is imported when it is built.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pfstudy.errors import PfstudyError, unknown_name

ORIGINAL = "original"
"""The operation that leaves whatever the backbone has at a site."""


@dataclass(frozen=True)
class Operation:
    """An entry of the registry.

    Attributes:
        name: The name in configs and tables.
        target: ``module:function`` or the function itself; takes a `pfstudy.ops.Layer` and
            returns the module that stands in its place.
        trainable: Whether it has parameters that mix positions. With ``norm_act=auto`` the
            norm and activation of the replaced layer stay after a trainable operation.
        has_kernel: Whether ``kernel_size`` means anything to it.
        changes_channels: Whether it can put out another number of channels than it takes; one
            that cannot is followed by a 1x1 convolution where the replaced layer does.
        at_stride_1: Name of the operation that it is at a site which keeps the resolution.
        at_kernel_1: Name of the operation that it is with a kernel of size 1.
        cost: ``module:function`` or the function itself; takes a `pfstudy.ops.Layer`, a height
            and a width and returns a `pfstudy.ops.OperationCost`. ``None`` where it is unknown.
    """

    name: str
    target: str | Callable[..., Any]
    trainable: bool
    has_kernel: bool = True
    changes_channels: bool = False
    at_stride_1: str | None = None
    at_kernel_1: str | None = None
    cost: str | Callable[..., Any] | None = None


OPERATIONS: dict[str, Operation] = {}
REGISTERED_IN: dict[str, str] = {}
"""The file that registered each operation, which is part of the identity of a user's."""


def register(operation: Operation) -> None:
    """Add an operation to the registry.

    Raises:
        PfstudyError: The name is taken, or the target is nothing whose source can be told.
    """
    if not isinstance(operation.target, str) and not hasattr(operation.target, "__qualname__"):
        raise PfstudyError(
            f"operation {operation.name!r}: the target must be a function or a class, but is a "
            f"{type(operation.target).__name__}."
        )
    if operation.name in OPERATIONS or operation.name == ORIGINAL:
        raise PfstudyError(f"operation {operation.name!r} is registered already.")
    OPERATIONS[operation.name] = operation
    REGISTERED_IN[operation.name] = sys._getframe(1).f_globals.get("__file__", "")


def find_operation(name: str) -> Operation:
    """Look an operation up.

    Raises:
        PfstudyError: There is none of that name; lists the choices.
    """
    if name not in OPERATIONS:
        raise unknown_name("operation", name, [ORIGINAL, *OPERATIONS])
    return OPERATIONS[name]


def _shipped(name: str, module: str, **fields: Any) -> Operation:
    """An operation of `pfstudy.ops`, whose cost function stands beside its builder."""
    builder = f"pfstudy.ops.{module}:{name}"
    return Operation(name, builder, cost=f"{builder}_cost", **fields)


for _operation in (
    _shipped("conv", "convolution", trainable=True, changes_channels=True),
    _shipped("groupconv", "convolution", trainable=True, changes_channels=True),
    _shipped("dwconv", "convolution", trainable=True),
    _shipped("dilated_conv", "convolution", trainable=True, changes_channels=True),
    _shipped(
        "avgpool_conv", "convolution", trainable=True, changes_channels=True, at_stride_1="conv"
    ),
    _shipped("maxpool", "pooling", trainable=False, at_kernel_1="identity"),
    _shipped("minpool", "pooling", trainable=False, at_kernel_1="identity"),
    _shipped("medianpool", "median", trainable=False, at_kernel_1="identity"),
    _shipped("avgpool", "pooling", trainable=False, at_kernel_1="identity"),
    _shipped("lppool", "pooling", trainable=False),
    _shipped("poolformer", "pooling", trainable=False),
    _shipped("blurpool", "fixed", trainable=False, at_kernel_1="identity"),
    _shipped("shift", "fixed", trainable=False, at_kernel_1="identity"),
    _shipped("deform_maxpool", "deformable", trainable=True),
    _shipped("maxpool_mlp", "pool_mlp", trainable=False, changes_channels=True),
    _shipped("avgpool_mlp", "pool_mlp", trainable=False, changes_channels=True),
    _shipped("fourier", "fourier", trainable=False, has_kernel=False),
    _shipped(
        "self_attention", "attention", trainable=True, has_kernel=False, changes_channels=True
    ),
    _shipped("identity", "pooling", trainable=False, has_kernel=False),
):
    register(_operation)
