"""What is done at random to images that lie on the device: all of a batch in one gather.

What happens to an image depends on the seed, the epoch and the image alone, not on who takes it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from pfstudy.schema.recipe import Augmentation


@dataclass(frozen=True)
class Draws:
    """What was drawn for the images of an epoch.

    Attributes:
        is_mirrored_N: Whether an image is mirrored; bool.
        shift_N2: By how many pixels it is moved down and to the right; int64.
        hole_N2: Row and column in the middle of what is blanked; int64.
    """

    is_mirrored_N: torch.Tensor
    shift_N2: torch.Tensor
    hole_N2: torch.Tensor

    def at(self, index: torch.Tensor) -> Draws:
        """Those of some of the images."""
        return Draws(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device) -> Draws:
        """Copy to a device."""
        return Draws(*(getattr(self, field.name).to(device) for field in fields(self)))


def augments(augmentation: Augmentation) -> bool:
    """Whether anything is done to images that lie on the device."""
    return bool(augmentation.flip or augmentation.translate or augmentation.cutout)


def draw(augmentation: Augmentation, number: int, size: tuple[int, int], seed: int) -> Draws:
    """Draw what is done to so many images of a height and width, on the host."""
    generator = torch.Generator().manual_seed(seed)
    reach = augmentation.translate or 0
    mirrored = torch.rand(number, generator=generator) < 0.5
    return Draws(
        mirrored if augmentation.flip else torch.zeros_like(mirrored),
        torch.randint(-reach, reach + 1, (number, 2), generator=generator),
        torch.stack([torch.randint(side, (number,), generator=generator) for side in size], dim=1),
    )


def gather(images_NCHW: torch.Tensor, index_B: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Take some images, moved and mirrored; what comes in at a border is its reflection.

    Returns:
        ``(B, C, H, W)`` of the dtype of the images.
    """
    _, channels, height, width = images_NCHW.shape
    rows_BH = _reflected(draws.shift_N2[:, :1], height)
    columns_BW = _reflected(draws.shift_N2[:, 1:], width)
    mirrored = draws.is_mirrored_N[:, None]
    columns_BW = torch.where(mirrored, columns_BW.flip(1), columns_BW)
    every_C = torch.arange(channels, device=images_NCHW.device)
    taken: torch.Tensor = images_NCHW[
        index_B[:, None, None, None],
        every_C[:, None, None],
        rows_BH[:, None, :, None],
        columns_BW[:, None, None, :],
    ]
    return taken


def cut_out(images_NCHW: torch.Tensor, side: int, draws: Draws) -> torch.Tensor:
    """Blank a square in every image, as far as it lies inside (DeVries and Taylor 2017).

    Args:
        images_NCHW: Normalised images, of which 0 is the mean; they are changed.
        side: Of the square, in pixels.
        draws: Where its middle is.
    """

    def hit(length: int, middle_N: torch.Tensor) -> torch.Tensor:
        first_N1 = middle_N[:, None] - side // 2
        place = torch.arange(length, device=images_NCHW.device)
        return (place >= first_N1) & (place < first_N1 + side)

    rows_NH = hit(images_NCHW.shape[2], draws.hole_N2[:, 0])
    columns_NW = hit(images_NCHW.shape[3], draws.hole_N2[:, 1])
    return images_NCHW.masked_fill_(rows_NH[:, None, :, None] & columns_NW[:, None, None, :], 0)


def _reflected(shift_N1: torch.Tensor, length: int) -> torch.Tensor:
    """Where every pixel of a moved line comes from; the line goes on as its mirror image."""
    last = length - 1
    place_NL = torch.arange(length, device=shift_N1.device) - shift_N1
    return last - (last - place_NL.abs()).abs() if last else place_NL * 0
