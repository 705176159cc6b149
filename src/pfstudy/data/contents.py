"""What a folder's image files hold beyond upright, opaque pixels of 8 bits.

Such images were once read without their orientation, their transparency or their lower bits. The
fingerprint of a folder that has some names the way they are read now; all others keep theirs.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import platformdirs

from pfstudy import files
from pfstudy.data.imagefolder import Images
from pfstudy.errors import PfstudyError
from pfstudy.words import counted

_VERSION = 1
"""Of what is kept in the cache; raise it when `inspect_file` finds something else."""

_FEWEST_CACHED = 5000
_CHUNK = 2048
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_UNUSUAL = {b"deep", b"alpha", b"tRNS", b"eXIf", b"iTXt", b"tEXt", b"zTXt"}
"""The last four may have an orientation."""

_JPEG = b"\xff\xd8"
_JPEG_SCAN, _JPEG_APP1 = 0xDA, 0xE1
_JPEG_METADATA = (b"Exif\0", b"http://ns.adobe.com/xap/1.0/")

_LIKELY_BITS = 14
"""16-bit images that need at most so many bits come from a sensor or a program that has fewer."""


@dataclass(frozen=True)
class Contents:
    """What the images of a folder hold; sums and maxima over images.

    Attributes:
        num_images: Number of images.
        num_turned: Images whose EXIF orientation is not upright.
        num_transparent: Images with a pixel that is not opaque.
        num_deep: Grey images of 16 bits.
        most_deep: The largest value of these.
        num_deep_colour: Colour images of 16 bits, of which Pillow reads the upper 8.
        most_deep_colour: The largest value of those 8 bits.
    """

    num_images: int = 0
    num_turned: int = 0
    num_transparent: int = 0
    num_deep: int = 0
    most_deep: int = 0
    num_deep_colour: int = 0
    most_deep_colour: int = 0

    def __add__(self, other: Contents) -> Contents:
        """What two folders hold together."""
        both = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Contents(
            **{
                name: max(two) if name.startswith("most") else sum(two)
                for name, two in both.items()
            }
        )

    @property
    def reading(self) -> str:
        """How the images are read, where that was different once; part of the fingerprint."""
        words = (("upright", self.num_turned), ("composited", self.num_transparent))
        return " ".join(word for word, number in words if number)


def inspect_images(parts: Iterable[Images]) -> Contents:
    """Find out what images hold from the heads of their files; only unusual ones are decoded.

    What is found of a large folder is cached for the user, until a file has another size or time.
    Files that cannot be read are left to whoever reads their pixels.
    """
    parts = list(parts)
    number = sum(map(len, parts))
    cached = _cache_path(parts) if number >= _FEWEST_CACHED else None
    if cached is not None:
        with suppress(PfstudyError, TypeError):
            return Contents(**files.read_json(cached))
    found = Contents()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for images in parts:
            for first in range(0, len(images), _CHUNK):
                some = range(first, min(first + _CHUNK, len(images)))
                found = sum(threads.map(partial(_inspect_one, images), some), found)
    if cached is not None:
        with suppress(PfstudyError):
            files.write_json(cached, asdict(found))
    return found


def check_contents(
    found: Contents, bit_depth: int | None, background: str | None, prefix: str = "data."
) -> list[str]:
    """Say how images are read that are more than upright, opaque pixels of 8 bits.

    Args:
        found: What a folder holds.
        bit_depth: As in the config.
        background: As in the config.
        prefix: What the two settings are called with: ``data.``, or ``--`` of a subcommand.

    Raises:
        PfstudyError: All 16-bit images would be black, or need more bits than ``bit_depth``.
    """
    settings = [f"{prefix}{name}" for name in ("background", "bit_depth")]
    if prefix == "--":
        settings = [name.replace("_", "-") for name in settings]
    notes = []
    if found.num_turned:
        notes.append(
            f"{_of(found.num_turned, found)} turned upright, as their EXIF orientation says"
        )
    if found.num_transparent:
        notes.append(
            f"{_of(found.num_transparent, found)} transparent in part, and shown on "
            f"{background or 'white'} ({settings[0]})"
        )
    if found.num_deep:
        notes += _check_depth(found, bit_depth, settings[1])
    if found.num_deep_colour and found.most_deep_colour.bit_length() <= _LIKELY_BITS - 8:
        bits = 8 + found.most_deep_colour.bit_length()
        notes.append(
            f"{_of(found.num_deep_colour, found)} of 16 bits per colour, but use about {bits}; "
            "Pillow reads the upper 8 alone, so that they are almost black: convert them to "
            "8-bit files"
        )
    return notes


def inspect_file(file: BinaryIO) -> Contents:
    """Find out what one image file holds.

    Raises:
        OSError: It is no image, or cannot be read; decoders raise other errors as well.
    """
    if _is_plain(file):
        return Contents(1)
    from PIL import Image

    from pfstudy.data.decoding import is_transparent, orientation_of

    with Image.open(file) as image:
        is_tiff = image.format == "TIFF"  # which Pillow turns by itself
        is_deep = image.mode.startswith("I;16")
        is_deep_colour = not is_deep and any(";16" in str(tile[3]) for tile in image.tile)
        is_turned = not is_tiff and orientation_of(image) != 1
        most = int(np.asarray(image).max()) if is_deep or is_deep_colour else 0
        return Contents(
            num_images=1,
            num_turned=int(is_turned),
            num_transparent=int(is_transparent(image)),
            num_deep=int(is_deep),
            most_deep=most if is_deep else 0,
            num_deep_colour=int(is_deep_colour),
            most_deep_colour=most if is_deep_colour else 0,
        )


def _check_depth(found: Contents, bit_depth: int | None, setting: str) -> list[str]:
    needed = max(8, found.most_deep.bit_length())
    if bit_depth is not None and found.most_deep >= 1 << bit_depth:
        raise PfstudyError(
            f"{setting} is {bit_depth}, but 16-bit images hold values up to "
            f"{found.most_deep:,}; give {setting}={needed}."
        )
    if bit_depth is not None or needed > _LIKELY_BITS or not found.most_deep:
        return []
    sentence = (
        f"{_of(found.num_deep, found)} of 16 bits, but hold values up to {found.most_deep:,} of "
        "65,535"
    )
    if needed == 8:
        raise PfstudyError(
            f"{sentence}: read as 16 bits, they are black; give {setting}=8, or "
            f"{setting}=16 if they are meant to be."
        )
    return [
        f"{sentence}, as {needed}-bit ones do, and are dark; {setting}={needed} uses the "
        "whole range"
    ]


def _of(number: int, found: Contents) -> str:
    return f"{number:,} of {counted(found.num_images, 'image')} {'is' if number == 1 else 'are'}"


def _inspect_one(images: Images, index: int) -> Contents:
    try:
        if images.shards is not None:
            return inspect_file(io.BytesIO(images.read(index)))
        with images.path(index).open("rb") as file:
            return inspect_file(file)
    except Exception:  # reading its pixels says what is wrong
        return Contents(1)


def _is_plain(file: BinaryIO) -> bool:
    """Whether the head of a file says that it holds nothing unusual; Pillow takes much longer."""
    start = file.read(8)
    if start == _PNG:
        is_plain = not any(name in _PNG_UNUSUAL for name in _walk_png(file))
    elif start.startswith(_JPEG):
        file.seek(2)
        is_plain = not any(head.startswith(_JPEG_METADATA) for head in _walk_jpeg(file))
    else:
        is_plain = False
    file.seek(0)
    return is_plain


def _walk_png(file: BinaryIO) -> Iterator[bytes]:
    """Names of a PNG's chunks; ``deep`` or ``alpha`` for a header that says so."""
    while len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4], "big"), head[4:]
        if name == b"IHDR":
            header = file.read(length)
            yield b"deep" if header[8] > 8 else b"alpha" if header[9] in (4, 6) else name
            length = 0
        else:
            yield name
        file.seek(length + 4, os.SEEK_CUR)


def _walk_jpeg(file: BinaryIO) -> Iterator[bytes]:
    """How a JPEG's application segments begin, up to its pixels; all others are empty."""
    while len(head := file.read(4)) == 4 and head[1] != _JPEG_SCAN:
        if head[0] != 0xFF or head[1] == 0xFF:  # damaged, or padded: Pillow knows more
            yield _JPEG_METADATA[0]
            return
        length = int.from_bytes(head[2:], "big") - 2
        start = file.read(min(max(length, 0), 28)) if head[1] == _JPEG_APP1 else b""
        yield start
        file.seek(length - len(start), os.SEEK_CUR)


def _cache_path(parts: Iterable[Images]) -> Path | None:
    digest = hashlib.sha256(b"%d" % _VERSION)
    for images in parts:
        if images.shards is not None:
            paths: Iterable[Path] = images.shards.paths
        else:
            paths = (images.path(index) for index in range(len(images)))
        for path in paths:
            try:
                status = path.stat()
            except OSError:
                return None
            line = f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(os.fsencode(line))
    return platformdirs.user_cache_path("pfstudy") / "contents" / f"{digest.hexdigest()[:32]}.json"
