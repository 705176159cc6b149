"""Small operations and maps that the tests of all families share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pfstudy.ops import Layer, build_operation
from pfstudy.schema.operations import OPERATIONS, find_operation

ALL = list(OPERATIONS)
WITH_KERNEL = [name for name in ALL if OPERATIONS[name].has_kernel]


WITH_EVERY_KERNEL = [
    pytest.param(name, kernel_size, id=f"{name}-{kernel_size}")
    for name in ALL
    for kernel_size in (1, 3, 5, 7)
    if (name, kernel_size) != ("poolformer", 1)  # which refuses it
]
SIZES = [
    pytest.param((8, 8), id="even"),
    pytest.param((7, 7), id="odd"),
    pytest.param((5, 8), id="odd by even"),
    pytest.param((1, 1), id="one pixel"),
]


def num_channels(name: str, kernel_size: int) -> int:
    """Few channels that the operation takes; with ``shift`` some are left over."""
    return {"groupconv": 16, "shift": kernel_size**2 + 2}.get(name, 3)


def layer(name: str, **fields: int | bool) -> Layer:
    kernel_size = int(fields.get("kernel_size", 3))
    channels = num_channels(name, kernel_size)
    described = {"in_channels": channels, "kernel_size": kernel_size, "stride": 1, **fields}
    described.setdefault("out_channels", described["in_channels"])
    return Layer(**described)


def build(name: str, **fields: int | bool) -> nn.Module:
    """An operation of the registry, in float64; few channels unless told otherwise."""
    torch.manual_seed(0)
    return build_operation(find_operation(name), layer(name, **fields)).double()


def build_random(name: str, **fields: int | bool) -> nn.Module:
    """The same with parameters that are all drawn anew, those too that start at zero."""
    operation = build(name, **fields)
    for parameter in operation.parameters():
        nn.init.normal_(parameter, std=0.5)
    return operation


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def apart(*shape: int) -> torch.Tensor:
    """A map whose values lie at least 0.01 apart, so that small steps swap no ranks."""
    order = torch.randperm(math.prod(shape), generator=torch.Generator().manual_seed(1))
    return (order.double() - len(order) / 2).reshape(shape) / 100


def by_windows(x_NCHW: torch.Tensor, kernel: int, stride: int, reduce: object) -> torch.Tensor:
    """Apply a function to the pixels of every window that lie in the image, one by one."""
    x = x_NCHW.numpy()
    height, width = x.shape[2:]
    reach = (kernel - 1) // 2
    y = np.empty((*x.shape[:2], math.ceil(height / stride), math.ceil(width / stride)))
    for i in range(y.shape[2]):
        for j in range(y.shape[3]):
            top, left = i * stride - reach, j * stride - reach
            rows = slice(max(top, 0), top + kernel)
            columns = slice(max(left, 0), left + kernel)
            y[:, :, i, j] = reduce(x[:, :, rows, columns], axis=(2, 3))
    return torch.from_numpy(y)


def by_products(
    x_NCHW: torch.Tensor,
    weight: torch.Tensor,
    stride: int,
    bias: torch.Tensor | None = None,
    dilation: int = 1,
) -> torch.Tensor:
    """Dense convolution as a matrix product over unfolded windows."""
    kernel = weight.shape[-1]
    padding = dilation * (kernel - 1) // 2
    columns = functional.unfold(x_NCHW, kernel, dilation, padding, stride)
    y = weight.flatten(1) @ columns
    if bias is not None:
        y = y + bias[:, None]
    grid = [math.ceil(size / stride) for size in x_NCHW.shape[2:]]
    return y.reshape(len(x_NCHW), len(weight), *grid)
