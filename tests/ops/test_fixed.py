from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import build, images
from scipy import ndimage

from pfstudy.errors import PfstudyError
from pfstudy.ops import Layer, build_operation
from pfstudy.schema.operations import find_operation

SIZES = [(8, 8), (5, 8), (2, 1), (1, 1)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_blurpool_is_the_correlation_of_scipy(
    kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    row = np.ones(1)
    for _ in range(kernel_size - 1):
        row = np.convolve(row, [0.5, 0.5])
    x_NCHW = images(2, 3, *size)
    blurred = ndimage.correlate(x_NCHW, np.outer(row, row)[None, None], mode="nearest")
    y_NCHW = build("blurpool", kernel_size=kernel_size, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, torch.from_numpy(blurred[:, :, ::stride, ::stride]))


def test_blurpool_keeps_a_constant() -> None:
    x_NCHW = torch.full((1, 3, 4, 5), 2.0, dtype=torch.float64)
    torch.testing.assert_close(build("blurpool")(x_NCHW), x_NCHW)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_the_kernel_of_blurpool_is_exact_in_every_dtype(dtype: torch.dtype) -> None:
    layer = Layer(in_channels=3, out_channels=3, kernel_size=7, stride=1)
    blurpool = build_operation(find_operation("blurpool"), layer)
    kernel = dict(blurpool.named_buffers())["kernel"].clone()
    moved = dict(blurpool.to(dtype).named_buffers())["kernel"]
    assert moved.dtype == dtype
    torch.testing.assert_close(moved.float(), kernel, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("kernel_size", "channels"),
    [
        pytest.param(1, 3, id="1x1"),
        pytest.param(3, 9, id="3x3, one channel per offset"),
        pytest.param(3, 20, id="3x3, two channels per offset, two left over"),
        pytest.param(5, 26, id="5x5, one channel left over"),
    ],
)
def test_shift_moves_every_group_as_scipy_does(
    kernel_size: int, channels: int, stride: int, size: tuple[int, int]
) -> None:
    x_NCHW = images(2, channels, *size)
    reach, group = kernel_size // 2, channels // kernel_size**2
    expected = []
    for channel in range(channels):
        u, v = divmod(channel // group, kernel_size)
        if channel >= group * kernel_size**2:
            u = v = reach
        moved = ndimage.shift(x_NCHW[:, channel], (0, reach - u, reach - v), order=0)
        expected.append(torch.from_numpy(moved[:, ::stride, ::stride]))
    y_NCHW = build("shift", in_channels=channels, kernel_size=kernel_size, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, torch.stack(expected, dim=1), rtol=0, atol=0)


def test_shift_refuses_fewer_channels_than_offsets() -> None:
    with pytest.raises(PfstudyError) as caught:
        build("shift", in_channels=8)
    assert str(caught.value) == (
        "shift with kernel_size 3 takes 9 channels or more, one per offset, but got 8; "
        "choose another operation here."
    )
