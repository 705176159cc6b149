from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from cases import (
    ALL,
    WITH_EVERY_KERNEL,
    WITH_KERNEL,
    apart,
    build,
    build_random,
    by_windows,
    images,
)
from cases import layer as describe
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.ops import Layer, Projected, build_operation
from pfstudy.schema.operations import OPERATIONS, Operation, find_operation

PARAMETER_FREE = [
    *["maxpool", "minpool", "medianpool", "avgpool", "lppool", "poolformer"],
    *["blurpool", "shift", "fourier", "identity"],
]

HEIGHTS = range(1, 8)


@pytest.fixture
def _compile_afresh() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("name", "kernel_size"), WITH_EVERY_KERNEL)
def test_the_grid_shrinks_by_the_stride_and_no_more(
    name: str, kernel_size: int, stride: int
) -> None:
    layer = describe(name, kernel_size=kernel_size, stride=stride)
    operation = build(name, kernel_size=kernel_size, stride=stride)
    for height in HEIGHTS:
        for width in {8 - height, height}:
            if name == "self_attention" and height == width == 1:
                continue
            y_NCHW = operation(images(2, layer.in_channels, height, width))
            grid = (math.ceil(height / stride), math.ceil(width / stride))
            assert y_NCHW.shape == (2, layer.out_channels, *grid)
            assert y_NCHW.isfinite().all()
            assert layer.grid(height, width) == grid


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("other_channels", [False, True], ids=["same width", "other width"])
@pytest.mark.parametrize("name", ALL)
def test_gradients_agree_with_differences(name: str, other_channels: bool, stride: int) -> None:
    fields = {"out_channels": 8} if other_channels else {}
    operation = build_random(name, stride=stride, **fields)
    x_NCHW = apart(1, describe(name).in_channels, 3, 4).requires_grad_()
    parameters = tuple(operation.parameters())
    names = [name for name, _ in operation.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(operation, state, (x,))

    assert torch.autograd.gradcheck(call, (x_NCHW, *parameters), fast_mode=True)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_channels_last_gives_the_same(name: str, stride: int) -> None:
    operation = build_random(name, stride=stride)
    x_NCHW = images(2, describe(name).in_channels, 5, 6)
    expected = operation(x_NCHW)
    y_NCHW = operation(x_NCHW.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(y_NCHW, expected)


@pytest.mark.usefixtures("_compile_afresh")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_compiling_changes_nothing(name: str, stride: int) -> None:
    _compare_compiled("aot_eager", name, stride, torch.contiguous_format)


@pytest.mark.slow
@pytest.mark.usefixtures("_compile_afresh")
@pytest.mark.parametrize(
    ("stride", "memory_format"), [(1, torch.contiguous_format), (2, torch.channels_last)], ids=str
)
@pytest.mark.parametrize("name", ALL)
def test_the_default_compiler_changes_nothing(
    name: str, stride: int, memory_format: torch.memory_format
) -> None:
    _compare_compiled("inductor", name, stride, memory_format)


def _compare_compiled(
    backend: str, name: str, stride: int, memory_format: torch.memory_format
) -> None:
    operation = build_random(name, stride=stride)
    compiled = torch.compile(operation, backend=backend, fullgraph=True)
    outcomes = []
    for call in (operation, compiled):
        x_NCHW = images(2, describe(name).in_channels, 5, 6)
        x_NCHW = x_NCHW.contiguous(memory_format=memory_format).requires_grad_()
        y_NCHW = call(x_NCHW)
        operation.zero_grad()
        y_NCHW.square().sum().backward()
        outcomes.append([y_NCHW, x_NCHW.grad, *(p.grad for p in operation.parameters())])
    torch.testing.assert_close(*outcomes)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_an_operation_is_built_and_called_on_the_meta_device(name: str, stride: int) -> None:
    layer = describe(name, stride=stride, out_channels=8)
    with torch.device("meta"):
        operation = build_operation(find_operation(name), layer)
        y_NCHW = operation(torch.empty(2, layer.in_channels, 7, 4))
    assert y_NCHW.is_meta
    assert y_NCHW.shape == (2, 8, *layer.grid(7, 4))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_half_precision_is_near(name: str, stride: int) -> None:
    operation = build_random(name, stride=stride)
    x_NCHW = images(2, describe(name).in_channels, 5, 6).bfloat16()
    expected = operation(x_NCHW.double())
    y_NCHW = operation.bfloat16()(x_NCHW)
    assert y_NCHW.dtype == torch.bfloat16
    # deform_maxpool rounds its offsets, each by up to 1/128 of a few pixels
    tolerance = 0.2 if name == "deform_maxpool" else 0.05
    difference = (y_NCHW.double() - expected).abs().max()
    assert difference < tolerance * expected.abs().max()


@pytest.mark.parametrize("name", ALL)
def test_mixed_precision_trains(name: str) -> None:
    operation = build_random(name, stride=2).float()
    x_NCHW = images(2, describe(name).in_channels, 5, 6).float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y_NCHW = operation(x_NCHW)
    y_NCHW.float().square().sum().backward()
    gradients = [x_NCHW.grad, *(p.grad for p in operation.parameters())]
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


@pytest.mark.parametrize("name", ALL)
def test_a_projection_follows_where_channels_change(name: str) -> None:
    operation = build(name, out_channels=8, stride=2)
    projected = isinstance(operation, Projected)
    assert projected is not OPERATIONS[name].changes_channels
    assert operation(images(1, describe(name).in_channels, 7, 7)).shape == (1, 8, 4, 4)
    if projected:
        assert operation[1].kernel_size == operation[1].stride == (1, 1)


def test_the_projection_is_a_matrix_behind_the_operation() -> None:
    operation = build("maxpool", out_channels=6)
    x_NCHW = images(2, 3, 5, 5)
    (weight,) = operation.parameters()
    pooled = by_windows(x_NCHW, 3, 1, np.max)
    expected = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], pooled)
    torch.testing.assert_close(operation(x_NCHW), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ALL)
def test_the_state_of_parameter_free_operations_is_empty(name: str, stride: int) -> None:
    operation = build(name, stride=stride)
    assert (operation.state_dict() == {}) is (name in PARAMETER_FREE)
    assert all(isinstance(p, nn.Parameter) for p in operation.state_dict(keep_vars=True).values())


@pytest.mark.parametrize("name", WITH_KERNEL)
@pytest.mark.parametrize("kernel_size", [2, 4])
def test_an_even_kernel_is_refused(name: str, kernel_size: int) -> None:
    with pytest.raises(PfstudyError) as caught:
        build(name, kernel_size=kernel_size)
    assert str(caught.value) == f"{name} takes an odd kernel_size, but got {kernel_size}."


@pytest.mark.parametrize("name", [name for name in ALL if name not in WITH_KERNEL])
def test_an_even_kernel_does_not_matter_where_there_is_none(name: str) -> None:
    build(name, kernel_size=2)(images(1, 3, 2, 2))


@pytest.mark.parametrize("name", [name for name in ALL if OPERATIONS[name].at_kernel_1])
@pytest.mark.parametrize("stride", [1, 2])
def test_what_is_another_operation_with_kernel_1_is_that_operation(name: str, stride: int) -> None:
    x_NCHW = images(2, 3, 5, 6)
    other = OPERATIONS[name].at_kernel_1
    assert other is not None
    expected = build(other, stride=stride)(x_NCHW)
    y_NCHW = build(name, kernel_size=1, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, expected, rtol=0, atol=0)


def test_an_operation_of_the_user_is_called_with_the_layer() -> None:
    seen: list[Layer] = []

    def mine(layer: Layer) -> nn.Module:
        seen.append(layer)
        return nn.Identity()

    layer = Layer(in_channels=3, out_channels=4, kernel_size=5, stride=1)
    module = build_operation(Operation("mine", mine, trainable=False), layer)
    assert seen == [layer]
    assert module(torch.zeros(1, 3, 2, 2)).shape == (1, 4, 2, 2)  # projected
