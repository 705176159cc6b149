"""Images from the bytes of files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pfstudy.data.imagefolder import empty_file
from pfstudy.errors import PfstudyError


def decode_image(content: bytes, where: str | Path, channels: int) -> Image.Image:
    """Decode a grey (1 channel) or a colour image (3), whatever the file holds.

    Args:
        content: The bytes of the file.
        where: What the file is called in errors.
        channels: Number of channels of the image.

    Raises:
        PfstudyError: It cannot be decoded, is no image, or has pixels that do not fit 8 or 16 bits.
    """
    return _convert(_decode(content, where), "L" if channels == 1 else "RGB")


def shrink_image(content: bytes, where: str | Path, side: int, quality: int) -> bytes:
    """Shrink an image, and encode it as a JPEG; one that is small enough stays as it is.

    Args:
        content: The bytes of the file.
        where: What the file is called in errors.
        side: Length of the shorter side in pixels.
        quality: As Pillow counts it, up to 95.

    Raises:
        PfstudyError: As `decode_image`.
    """
    image = _decode(content, where)
    shorter = min(image.size)
    if shorter <= side:
        return content
    image = _convert(image, "L" if image.mode in ("1", "L") or _is_deep(image) else "RGB")
    width, height = (round(length * side / shorter) for length in image.size)
    small = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(small, "JPEG", quality=quality)
    return small.getvalue()


def _decode(content: bytes, where: str | Path) -> Image.Image:
    if not content:
        raise empty_file(where)
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError:
        raise PfstudyError(
            f"{where} is no image that Pillow knows; remove or replace it."
        ) from None
    except Exception as error:  # decoders raise whatever they like
        raise PfstudyError(f"{where} cannot be decoded: {error}; remove or replace it.") from None
    if image.mode in ("I", "F"):
        raise PfstudyError(f"{where} has pixels of 32 bits; expected 8 or 16, convert it.")
    return image


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I;16")


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if _is_deep(image):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert(mode)
