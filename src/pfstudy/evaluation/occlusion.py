"""Random PatchDrop (Naseer et al. 2021, section 3.1): patches at random places are taken away."""

from __future__ import annotations

import numpy as np
import torch

from pfstudy.evaluation.results import PATCHES_PER_SIDE


def patch_side(image_size: int) -> int:
    """Pixels of a patch's side: 14 patches stand side by side, as in the paper, or about that.

    That is 16 pixels of 224, 2 of 32 and 28, 1 of 8.
    """
    return max(1, round(image_size / PATCHES_PER_SIDE))


def occlude(
    pixels_NCHW: torch.Tensor, first: int, percent: float, fill_C11: torch.Tensor
) -> torch.Tensor:
    """Fill a share of the patches of every image with one colour.

    Which ones they are depends on the number of the image alone; a larger share takes those of a
    smaller one, and more.

    Args:
        pixels_NCHW: The images.
        first: The number of the first one.
        percent: How many of the patches, rounded to whole ones.
        fill_C11: The colour; the paper fills with 0, which is what the mean of the training images
            becomes by normalisation.
    """
    number, _, height, width = pixels_NCHW.shape
    side = patch_side(min(height, width))
    rows, columns = -(-height // side), -(-width // side)
    num_dropped = round(percent / 100 * rows * columns)
    is_dropped_NP = np.zeros((number, rows * columns), bool)
    for i in range(number):
        order = np.random.default_rng(first + i).permutation(rows * columns)
        is_dropped_NP[i, order[:num_dropped]] = True
    is_dropped = is_dropped_NP.reshape(number, 1, rows, columns).repeat(side, 2).repeat(side, 3)
    mask = torch.from_numpy(is_dropped[..., :height, :width]).to(pixels_NCHW.device)
    return torch.where(mask, fill_C11, pixels_NCHW)
