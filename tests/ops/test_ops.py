from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from pfstudy.errors import PfstudyError
from pfstudy.ops import Layer, Projected, build_operation
from pfstudy.schema.operations import Operation, find_operation

ALL = ["conv", "dwconv", "maxpool", "avgpool", "avgpool_conv", "identity"]
PARAMETER_FREE = ["maxpool", "avgpool", "identity"]

SIZES = [
    pytest.param((8, 8), id="even"),
    pytest.param((7, 7), id="odd"),
    pytest.param((5, 8), id="odd by even"),
    pytest.param((1, 1), id="one pixel"),
]


def build(name: str, **fields: int | bool) -> nn.Module:
    """An operation of the registry, in float64; three channels unless told otherwise."""
    described = {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "stride": 1, **fields}
    torch.manual_seed(0)
    return build_operation(find_operation(name), Layer(**described)).double()


def images(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


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
) -> torch.Tensor:
    """Dense convolution as a matrix product over unfolded windows."""
    kernel = weight.shape[-1]
    columns = functional.unfold(x_NCHW, kernel, padding=(kernel - 1) // 2, stride=stride)
    y = weight.flatten(1) @ columns
    if bias is not None:
        y = y + bias[:, None]
    grid = [math.ceil(size / stride) for size in x_NCHW.shape[2:]]
    return y.reshape(len(x_NCHW), len(weight), *grid)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize("name", ALL)
def test_the_grid_shrinks_by_the_stride_and_no_more(
    name: str, kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    operation = build(name, kernel_size=kernel_size, stride=stride)
    expected = (2, 3, math.ceil(size[0] / stride), math.ceil(size[1] / stride))
    assert operation(images(2, 3, *size)).shape == expected


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(("name", "reduce"), [("maxpool", np.max), ("avgpool", np.mean)])
def test_pools_reduce_the_pixels_in_the_image(
    name: str, reduce: object, kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    x_NCHW = images(2, 3, *size) - 5  # all negative: a padding of zeros would win
    y_NCHW = build(name, kernel_size=kernel_size, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, by_windows(x_NCHW, kernel_size, stride, reduce))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_conv_is_a_product_with_unfolded_windows(
    kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    conv = build("conv", out_channels=4, kernel_size=kernel_size, stride=stride, bias=True)
    nn.init.normal_(conv.bias)
    x_NCHW = images(2, 3, *size)
    expected = by_products(x_NCHW, conv.weight, stride, conv.bias)
    torch.testing.assert_close(conv(x_NCHW), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_dwconv_filters_every_channel_by_itself(stride: int, size: tuple[int, int]) -> None:
    dwconv = build("dwconv", stride=stride)
    x_NCHW = images(2, 3, *size)
    alone = [by_products(x_NCHW[:, [c]], dwconv.weight[[c]], stride) for c in range(3)]
    torch.testing.assert_close(dwconv(x_NCHW), torch.cat(alone, dim=1))


@pytest.mark.parametrize("size", SIZES)
def test_avgpool_conv_averages_then_convolves(size: tuple[int, int]) -> None:
    operation = build("avgpool_conv", out_channels=4, stride=2)
    x_NCHW = images(2, 3, *size)
    rows, columns = (math.ceil(length / 2) for length in size)
    pooled = torch.empty(2, 3, rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            window = x_NCHW[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            pooled[:, :, i, j] = window.mean(dim=(2, 3))
    (weight,) = operation.parameters()
    torch.testing.assert_close(operation(x_NCHW), by_products(pooled, weight, 1))


def test_avgpool_conv_at_stride_1_is_the_convolution() -> None:
    x_NCHW = images(2, 3, 6, 5)
    torch.testing.assert_close(build("avgpool_conv")(x_NCHW), build("conv")(x_NCHW))


@pytest.mark.parametrize("stride", [1, 2])
def test_identity_takes_every_sth_pixel(stride: int) -> None:
    x_NCHW = images(2, 3, 7, 8)
    expected = x_NCHW[:, :, ::stride, ::stride]
    torch.testing.assert_close(build("identity", stride=stride)(x_NCHW), expected, rtol=0, atol=0)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("out_channels", [3, 2])
@pytest.mark.parametrize("name", ALL)
def test_gradients_agree_with_differences(name: str, out_channels: int, stride: int) -> None:
    operation = build(name, out_channels=out_channels, stride=stride)
    x_NCHW = images(1, 3, 3, 4).requires_grad_()
    parameters = tuple(operation.parameters())
    names = [name for name, _ in operation.named_parameters()]

    def call(x: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(operation, state, (x,))

    assert torch.autograd.gradcheck(call, (x_NCHW, *parameters), fast_mode=True)


@pytest.mark.parametrize(
    ("name", "projected"),
    [
        pytest.param("conv", False, id="conv"),
        pytest.param("avgpool_conv", False, id="avgpool_conv"),
        pytest.param("dwconv", True, id="dwconv"),
        pytest.param("maxpool", True, id="maxpool"),
        pytest.param("avgpool", True, id="avgpool"),
        pytest.param("identity", True, id="identity"),
    ],
)
def test_a_projection_follows_where_channels_change(name: str, projected: bool) -> None:
    operation = build(name, out_channels=6, stride=2)
    assert isinstance(operation, Projected) is projected
    assert operation(images(1, 3, 7, 7)).shape == (1, 6, 4, 4)
    pointwise = [
        m for m in operation.modules() if isinstance(m, nn.Conv2d) and m.weight[0, 0].numel() == 1
    ]
    assert len(pointwise) == projected


def test_the_projection_is_a_matrix_behind_the_operation() -> None:
    operation = build("maxpool", out_channels=6)
    x_NCHW = images(2, 3, 5, 5)
    (weight,) = operation.parameters()
    pooled = by_windows(x_NCHW, 3, 1, np.max)
    expected = torch.einsum("oc,nchw->nohw", weight[:, :, 0, 0], pooled)
    torch.testing.assert_close(operation(x_NCHW), expected)


@pytest.mark.parametrize("name", PARAMETER_FREE)
def test_parameter_free_operations_have_no_parameters_and_no_buffers(name: str) -> None:
    assert build(name, stride=2).state_dict() == {}


@pytest.mark.parametrize("name", ["conv", "dwconv", "avgpool_conv"])
def test_a_bias_is_kept_and_starts_at_zero(name: str) -> None:
    biases = [p for key, p in build(name, stride=2, bias=True).named_parameters() if "bias" in key]
    assert len(biases) == 1
    assert not biases[0].any()


def test_initial_weights_of_conv_have_the_variance_of_he() -> None:
    weight = build("conv", in_channels=256, out_channels=128).weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.01)
    assert abs(weight.mean().item()) < 1e-3


@pytest.mark.parametrize("name", ["conv", "dwconv", "maxpool", "avgpool", "avgpool_conv"])
@pytest.mark.parametrize("kernel_size", [2, 4])
def test_an_even_kernel_is_refused(name: str, kernel_size: int) -> None:
    with pytest.raises(PfstudyError) as caught:
        build(name, kernel_size=kernel_size)
    assert str(caught.value) == f"{name} takes an odd kernel_size, but got {kernel_size}."


def test_an_even_kernel_does_not_matter_where_there_is_none() -> None:
    assert isinstance(build("identity", kernel_size=2), nn.Identity)


def test_an_operation_of_the_user_is_called_with_the_layer() -> None:
    seen: list[Layer] = []

    def shift(layer: Layer) -> nn.Module:
        seen.append(layer)
        return nn.Identity()

    layer = Layer(in_channels=3, out_channels=4, kernel_size=5, stride=1)
    module = build_operation(Operation("shift", shift, trainable=False), layer)
    assert seen == [layer]
    assert module(torch.zeros(1, 3, 2, 2)).shape == (1, 4, 2, 2)  # projected
