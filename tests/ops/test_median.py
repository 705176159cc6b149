from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import build, images
from scipy import ndimage

from pfstudy.ops.median import median_network


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_medianpool_is_the_filter_of_scipy(
    kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    x_NCHW = images(2, 3, *size)
    filtered = ndimage.median_filter(x_NCHW, (1, 1, kernel_size, kernel_size), mode="nearest")
    y_NCHW = build("medianpool", kernel_size=kernel_size, stride=stride)(x_NCHW)
    expected = torch.from_numpy(filtered[:, :, ::stride, ::stride])
    torch.testing.assert_close(y_NCHW, expected, rtol=0, atol=0)


@pytest.mark.parametrize("side", [1, 3, 5, 7, 9])
def test_the_network_finds_the_median(side: int) -> None:
    """Of zeros and ones: what sorts them sorts anything (Knuth 1998, Sec. 5.3.4, Theorem Z)."""
    chances = np.random.default_rng(0)
    squares = chances.random((side, side, 5000)) < chances.random(5000)
    columns, comparisons, median = median_network(side)
    wires = list(squares)
    for low, high in columns:
        wires[low], wires[high] = wires[low] & wires[high], wires[low] | wires[high]
    assert (np.stack(wires) == np.sort(squares, axis=0)).all()
    wires = [wire for row in wires for wire in row]
    for low, high, needs_low, needs_high in comparisons:
        smaller, larger = wires[low] & wires[high], wires[low] | wires[high]
        wires[low] = smaller if needs_low else ~smaller
        wires[high] = larger if needs_high else ~larger
    expected = np.median(squares.reshape(side * side, -1), axis=0)
    assert (wires[median] == expected).all()


def test_pixels_that_tie_share_the_gradient() -> None:
    x_NCHW = torch.ones(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    build("medianpool")(x_NCHW)[0, 0, 2, 2].backward()
    expected = torch.zeros(5, 5, dtype=torch.float64)
    expected[1:4, 1:4] = 1 / 9
    assert x_NCHW.grad is not None
    torch.testing.assert_close(x_NCHW.grad[0, 0], expected)


@pytest.mark.parametrize("kernel_size", [5, 7])
def test_the_gradient_goes_to_the_median(kernel_size: int) -> None:
    x_NCHW = images(1, 1, kernel_size, kernel_size).requires_grad_()
    middle = kernel_size // 2
    y_NCHW = build("medianpool", kernel_size=kernel_size)(x_NCHW)
    y_NCHW[0, 0, middle, middle].backward()
    torch.testing.assert_close(x_NCHW.grad, (x_NCHW == x_NCHW.median()).double())
