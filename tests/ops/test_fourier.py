from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import build, images


def cosines_and_sines(length: int) -> np.ndarray:
    """The matrix of the orthonormal transform, as a complex matrix."""
    angles = 2 * np.pi * np.outer(np.arange(length), np.arange(length)) / length
    return (np.cos(angles) - 1j * np.sin(angles)) / np.sqrt(length)


@pytest.mark.parametrize("size", [(8, 8), (5, 8), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
def test_fourier_is_a_product_of_three_matrices(stride: int, size: tuple[int, int]) -> None:
    x_NCHW = images(2, 3, *size)
    matrices = [cosines_and_sines(length) for length in x_NCHW.shape[1:]]
    spectrum = np.einsum("cd,im,jn,bdmn->bcij", *matrices, x_NCHW.numpy())
    expected = torch.from_numpy(spectrum.real[:, :, ::stride, ::stride])
    torch.testing.assert_close(build("fourier", stride=stride)(x_NCHW), expected)


def test_fourier_lets_the_imaginary_part_go() -> None:
    y_NCHW = build("fourier")(images(2, 3, 4, 4))
    assert y_NCHW.untyped_storage().nbytes() == y_NCHW.nbytes


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_transformed_in_float32(dtype: torch.dtype) -> None:
    x_NCHW = images(2, 3, 7, 5).to(dtype)
    expected = build("fourier")(x_NCHW.float()).to(dtype)
    torch.testing.assert_close(build("fourier")(x_NCHW), expected, rtol=0, atol=0)
