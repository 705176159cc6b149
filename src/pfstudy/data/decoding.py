"""Images from the bytes of files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from pfstudy.data.imagefolder import empty_file
from pfstudy.errors import PfstudyError

MOST_BITS = 16
_OPAQUE = 255
_BACKGROUNDS = {"white": 255, "black": 0}
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


def decode_image(
    content: bytes,
    where: str | Path,
    channels: int,
    background: str = "white",
    bit_depth: int = MOST_BITS,
) -> Image.Image:
    """Decode a grey (1 channel) or a colour image (3), whatever the file holds.

    The image is upright as its EXIF orientation says, and its transparent pixels show the
    background.

    Args:
        content: The bytes of the file.
        where: What the file is called in errors.
        channels: Number of channels of the image.
        background: ``white`` or ``black``.
        bit_depth: Number of bits that a 16-bit grey image uses; brighter pixels become white.

    Raises:
        PfstudyError: It cannot be decoded, is no image, or has pixels that do not fit 8 or 16 bits.
    """
    image = _decode(content, where)
    return _convert(image, "L" if channels == 1 else "RGB", background, bit_depth)


def shrink_image(
    content: bytes,
    where: str | Path,
    side: int,
    quality: int,
    background: str = "white",
    bit_depth: int = MOST_BITS,
) -> bytes:
    """Shrink an image, and encode it as a JPEG; one that is small enough stays as it is.

    Args:
        content: The bytes of the file.
        where: What the file is called in errors.
        side: Length of the shorter side in pixels.
        quality: As Pillow counts it, up to 95.
        background: As for `decode_image`.
        bit_depth: As for `decode_image`.

    Raises:
        PfstudyError: As `decode_image`.
    """
    image = _decode(content, where)
    if min(image.size) <= side:
        return content
    mode = "L" if image.mode in ("1", "L") or _is_deep(image) else "RGB"
    image = _convert(image, mode, background, bit_depth)
    shorter = min(image.size)
    width, height = (round(length * side / shorter) for length in image.size)
    small = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(small, "JPEG", quality=quality)
    return small.getvalue()


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation of an image, from 1 (upright) to 8; that of a TIFF until it is loaded."""
    try:
        found = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # of damaged metadata, which need not harm the pixels
        return 1
    return found if found in _TURNS else 1


def is_transparent(image: Image.Image) -> bool:
    """Whether any pixel is not opaque."""
    if not image.has_transparency_data:
        return False
    if _is_deep(image):
        return bool(_is_clear(image).any())
    return bool((np.asarray(image.convert("RGBA").getchannel("A")) < _OPAQUE).any())


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


def _is_clear(image: Image.Image) -> np.ndarray:
    """Which pixels of a 16-bit image have the value that stands for transparency."""
    is_clear: np.ndarray = np.asarray(image) == image.info.get("transparency", -1)
    return is_clear


def _convert(image: Image.Image, mode: str, background: str, bit_depth: int) -> Image.Image:
    turn = _TURNS.get(orientation_of(image))
    value = _BACKGROUNDS[background]
    if _is_deep(image):
        grey = (np.asarray(image) >> (bit_depth - 8)).clip(max=_OPAQUE).astype(np.uint8)
        grey[_is_clear(image)] = value
        image = Image.fromarray(grey)
    elif is_transparent(image):
        paper = Image.new("RGBA", image.size, (value, value, value, _OPAQUE))
        image = Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    image = image.convert(mode)
    return image if turn is None else image.transpose(turn)
