from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import SIZES, build, by_windows, images
from timm.models.metaformer import Pooling
from torch import nn
from torch.nn import functional

from pfstudy.errors import PfstudyError


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
@pytest.mark.parametrize(
    ("name", "reduce"), [("maxpool", np.max), ("minpool", np.min), ("avgpool", np.mean)]
)
@pytest.mark.parametrize("offset", [-5, 5], ids=["negative", "positive"])
def test_pools_reduce_the_pixels_in_the_image(
    name: str, reduce: object, offset: int, kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    x_NCHW = images(2, 3, *size) + offset  # of one sign: a padding of zeros would win
    y_NCHW = build(name, kernel_size=kernel_size, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, by_windows(x_NCHW, kernel_size, stride, reduce))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_lppool_is_that_of_torch_on_a_map_in_zeros(
    kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    x_NCHW = images(2, 3, *size)
    padded = functional.pad(x_NCHW, (kernel_size // 2,) * 4)
    expected = nn.LPPool2d(2, kernel_size, stride)(padded)
    y_NCHW = build("lppool", kernel_size=kernel_size, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_lppool_of_zeros_has_a_gradient_of_zero(dtype: torch.dtype) -> None:
    x_NCHW = torch.zeros(1, 3, 4, 4, dtype=dtype, requires_grad=True)
    y_NCHW = build("lppool")(x_NCHW)
    y_NCHW.sum().backward()
    assert y_NCHW.max() < 1e-5
    assert x_NCHW.grad is not None
    assert not x_NCHW.grad.any()


def test_lppool_takes_values_whose_squares_half_precision_has_not() -> None:
    x_NCHW = torch.full((1, 1, 3, 3), 1000.0, dtype=torch.float16)
    assert build("lppool")(x_NCHW)[0, 0, 1, 1] == 3000


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [3, 5])
def test_poolformer_is_that_of_timm(kernel_size: int, stride: int, size: tuple[int, int]) -> None:
    x_NCHW = images(2, 3, *size)
    expected = Pooling(kernel_size)(x_NCHW)[:, :, ::stride, ::stride]
    y_NCHW = build("poolformer", kernel_size=kernel_size, stride=stride)(x_NCHW)
    torch.testing.assert_close(y_NCHW, expected)


def test_poolformer_refuses_a_kernel_that_leaves_zeros() -> None:
    with pytest.raises(PfstudyError) as caught:
        build("poolformer", kernel_size=1)
    assert str(caught.value) == (
        "poolformer takes a kernel_size of 3 or more, but got 1, with which it puts out zeros; "
        "choose a larger kernel or identity."
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_identity_takes_every_sth_pixel(stride: int) -> None:
    x_NCHW = images(2, 3, 7, 8)
    expected = x_NCHW[:, :, ::stride, ::stride]
    torch.testing.assert_close(build("identity", stride=stride)(x_NCHW), expected, rtol=0, atol=0)
