from __future__ import annotations

import math

import pytest
import torch
from cases import SIZES, build, build_random, by_products, images
from torch import nn

from pfstudy.errors import PfstudyError


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("name", "dilation"), [("conv", 1), ("dilated_conv", 2)])
def test_a_dense_convolution_is_a_product_with_unfolded_windows(
    name: str, dilation: int, kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    fields = {"out_channels": 4, "kernel_size": kernel_size, "stride": stride}
    conv = build_random(name, bias=True, **fields)
    x_NCHW = images(2, 3, *size)
    expected = by_products(x_NCHW, conv.weight, stride, conv.bias, dilation)
    torch.testing.assert_close(conv(x_NCHW), expected)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
def test_dwconv_filters_every_channel_by_itself(stride: int, size: tuple[int, int]) -> None:
    dwconv = build("dwconv", stride=stride)
    x_NCHW = images(2, 3, *size)
    alone = [by_products(x_NCHW[:, [c]], dwconv.weight[[c]], stride) for c in range(3)]
    torch.testing.assert_close(dwconv(x_NCHW), torch.cat(alone, dim=1))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("fields", "num_groups"),
    [
        pytest.param({"in_channels": 16, "out_channels": 24}, 2, id="8 channels each"),
        pytest.param({"in_channels": 16, "groups": 16}, 2, id="in place of a depthwise one"),
        pytest.param({"in_channels": 6, "out_channels": 9, "groups": 3}, 3, id="as before"),
    ],
)
def test_groupconv_convolves_every_group_by_itself(
    fields: dict[str, int], num_groups: int, stride: int, size: tuple[int, int]
) -> None:
    conv = build_random("groupconv", bias=True, stride=stride, **fields)
    x_NCHW = images(2, fields["in_channels"], *size)
    groups = [part.chunk(num_groups, dim=1) for part in (x_NCHW, conv.weight.transpose(0, 1))]
    alone = [
        by_products(x_group, weights, stride, bias)
        for x_group, weights, bias in zip(
            groups[0], conv.weight.chunk(num_groups), conv.bias.chunk(num_groups), strict=True
        )
    ]
    torch.testing.assert_close(conv(x_NCHW), torch.cat(alone, dim=1))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"in_channels": 20},
            "groupconv takes channels divisible by 8, but got 20 coming in; ",
            id="in",
        ),
        pytest.param(
            {"in_channels": 16, "out_channels": 20},
            "groupconv takes channels divisible by 8, but got 20 going out; ",
            id="out",
        ),
        pytest.param(
            {"in_channels": 24, "out_channels": 32},
            "groupconv with 3 groups puts out channels divisible by 3, but got 32 going out; ",
            id="neither divides the other",
        ),
        pytest.param(
            {"in_channels": 20, "groups": 20},
            "groupconv takes channels divisible by 8, but got 20 coming in; ",
            id="in place of a depthwise one",
        ),
    ],
)
def test_groupconv_refuses_channels_that_form_no_groups(
    fields: dict[str, int], message: str
) -> None:
    with pytest.raises(PfstudyError) as caught:
        build("groupconv", **fields)
    assert str(caught.value) == f"{message}choose another operation here."


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


@pytest.mark.parametrize("name", ["conv", "groupconv", "dwconv", "dilated_conv", "avgpool_conv"])
def test_a_bias_is_kept_and_starts_at_zero(name: str) -> None:
    biases = [p for key, p in build(name, stride=2, bias=True).named_parameters() if "bias" in key]
    assert len(biases) == 1
    assert not biases[0].any()


@pytest.mark.parametrize(
    ("name", "fan_out"),
    [
        pytest.param("conv", 9 * 128, id="conv"),
        pytest.param("groupconv", 9 * 128 / 32, id="groupconv"),
        pytest.param("dilated_conv", 9 * 128, id="dilated_conv"),
    ],
)
def test_initial_weights_have_the_variance_of_he(name: str, fan_out: float) -> None:
    weight = build(name, in_channels=256, out_channels=128).weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.02)
    assert abs(weight.mean().item()) < 5e-3


def test_the_taps_of_dilated_conv_stand_two_pixels_apart() -> None:
    conv = build("dilated_conv", in_channels=1)
    nn.init.ones_(conv.weight)
    dot = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    dot[0, 0, 3, 3] = 1
    expected = torch.zeros(7, 7, dtype=torch.float64)
    expected[1::2, 1::2] = 1
    torch.testing.assert_close(conv(dot)[0, 0], expected)
