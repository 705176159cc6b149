from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import build, build_random, by_products, images
from scipy import ndimage
from torch import nn


@pytest.mark.parametrize("size", [(7, 7), (5, 8), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_deform_maxpool_starts_as_the_maxpool(
    kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    x_NCHW = images(2, 3, *size)
    fields = {"kernel_size": kernel_size, "stride": stride}
    expected = build("maxpool", **fields)(x_NCHW)
    torch.testing.assert_close(build("deform_maxpool", **fields)(x_NCHW), expected)


@pytest.mark.parametrize("size", [(7, 7), (5, 8), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_samples_are_those_of_scipy(stride: int, size: tuple[int, int]) -> None:
    operation = build_random("deform_maxpool", stride=stride)
    weight, bias = operation.offset.weight, operation.offset.bias
    x_NCHW = images(2, 3, *size)
    offsets = by_products(x_NCHW, weight, stride, bias).detach().numpy()
    expected = np.empty((2, 3, *offsets.shape[2:]))
    for n, c, i, j in np.ndindex(expected.shape):
        places = np.array(list(np.ndindex(3, 3))).T - 1 + np.array([[i], [j]]) * stride
        positions = places + offsets[n, :, i, j].reshape(2, 9)
        samples = ndimage.map_coordinates(x_NCHW[n, c], positions, order=1, mode="nearest")
        expected[n, c, i, j] = samples.max()
    torch.testing.assert_close(operation(x_NCHW), torch.from_numpy(expected))


def test_offsets_learn_from_the_start() -> None:
    operation = build("deform_maxpool")
    operation(images(2, 3, 6, 6)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in operation.parameters())


def test_an_offset_moves_the_window() -> None:
    operation = build("deform_maxpool", kernel_size=1)
    with torch.no_grad():
        operation.offset.bias.copy_(torch.tensor([1.0, -2.0]))  # one down, two to the left
    nn.init.zeros_(operation.offset.weight)
    x_NCHW = images(1, 3, 5, 5)
    torch.testing.assert_close(operation(x_NCHW)[:, :, :-1, 2:], x_NCHW[:, :, 1:, :-2])
