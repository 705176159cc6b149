"""Packing a folder of images: a copy in few large files, put in its place when it is whole."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pfstudy import files
from pfstudy.data.contents import Contents, check_contents, inspect_images
from pfstudy.data.imagefolder import MAY_LACK, Images, empty_file, find_classes, list_images
from pfstudy.data.packed import Packed, Part, open_packed, shard_path, shard_pattern, write_index
from pfstudy.errors import PfstudyError

_SHARD_BYTES = 1e9
_CHUNK = 256
_JPEGS = (".jpg", ".jpeg")


def pack(
    folder: Path,
    out: Path,
    side: int | None = None,
    quality: int = 90,
    background: str = "white",
    bit_depth: int | None = None,
    note: Callable[[str], object] = lambda text: None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Packed:
    """Pack a folder of images, laid out as `imagefolder` says.

    Args:
        folder: The folder.
        out: The packed folder, which must not be there.
        side: Larger images are shrunk until their shorter side has so many pixels; ``None`` keeps
            the bytes of the files, and thereby the identity of the data.
        quality: Of the JPEGs that shrunk images become.
        background: What shows through transparent pixels of shrunk images: white or black.
        bit_depth: Number of bits that 16-bit images use, if they are shrunk; all 16 unless given.
        note: Is told how unusual images are shrunk.
        progress: Is told how many images are packed, and of how many.

    Returns:
        The packed folder.

    Raises:
        PfstudyError: WebDataset is missing, the folder is not laid out as expected, an image cannot
            be read, or the packed folder is there already.
        DiskError: It cannot be written.
    """
    _import_webdataset()
    _check_places(folder, out)
    classes = find_classes(folder, key="")
    parts = {
        name: list_images(folder / name, classes[name], may_lack=name in MAY_LACK)
        for name in classes
    }
    parts = {name: images for name, images in parts.items() if len(images)}
    total, done = sum(map(len, parts.values())), 0
    treat, treatment = partial(_read, shrink=None), ""
    if side:
        from pfstudy.data.decoding import MOST_BITS, shrink_image

        found = inspect_images(parts.values())
        for text in check_contents(found, bit_depth, background, "--"):
            note(text)
        shrink = partial(
            shrink_image,
            side=side,
            quality=quality,
            background=background,
            bit_depth=bit_depth or MOST_BITS,
        )
        treat = partial(_read, shrink=shrink)
        treatment = f"side {side} quality {quality}{_describe(found, bit_depth, background)}"
    draft = files.draft_of(out.absolute())
    packed_parts = {}
    try:
        draft.mkdir(parents=True)
        for name, images in parts.items():
            contents = _in_order(images, treat)

            def count(number: int, before: int = done) -> None:
                progress(before + number, total)

            packed_parts[name] = _write_part(draft, name, images, contents, bool(side), count)
            done += len(images)
        packed = Packed(draft, packed_parts, treatment)
        write_index(packed)
        draft.rename(out)
    except BaseException as error:
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError):
            raise files.cannot_write(out, error) from None
        raise
    return Packed(out, packed_parts, treatment)


def _import_webdataset() -> Any:
    try:
        import webdataset
    except ImportError:
        raise PfstudyError(
            "packing needs WebDataset, reading does not: pip install 'pfstudy[packing]'."
        ) from None
    return webdataset


def _check_places(folder: Path, out: Path) -> None:
    if os.path.lexists(out):
        raise PfstudyError(f"{out} is there already; remove it, or choose another place.")
    if folder.resolve() in out.resolve().parents:
        raise PfstudyError(f"{out} would lie in {folder}, which is packed; choose another place.")
    if open_packed(folder):
        raise PfstudyError(f"{folder} is packed already; pack the folder that it was made of.")


def _in_order(images: Images, read: Callable[[Images, int], bytes]) -> Iterator[bytes]:
    """Read images with a thread for every core, some ahead of what is asked for."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for first in range(0, len(images), _CHUNK):
            yield from threads.map(
                partial(read, images), range(first, min(first + _CHUNK, len(images)))
            )


def _describe(found: Contents, bit_depth: int | None, background: str) -> str:
    """What else is done to unusual images when they are shrunk; nothing if there are none."""
    words = [
        ("upright", found.num_turned),
        (f"on {background}", found.num_transparent),
        (f"{bit_depth} bits", found.num_deep and bit_depth not in (None, 16)),
    ]
    return "".join(f" {word}" for word, is_done in words if is_done)


def _read(images: Images, index: int, shrink: Callable[[bytes, Path], bytes] | None) -> bytes:
    content, path = images.read(index), images.path(index)
    if not content:
        raise empty_file(path)
    return content if shrink is None else shrink(content, path)


def _write_part(
    root: Path,
    part: str,
    images: Images,
    contents: Iterator[bytes],
    are_shrunk: bool,
    progress: Callable[[int], object],
) -> Part:
    pattern = str(root).replace("%", "%%") + "/" + shard_pattern(part)
    with _import_webdataset().ShardWriter(
        pattern,
        maxsize=_SHARD_BYTES,
        mtime=0,
        verbose=0,
        encoder=False,
        format="PAX_FORMAT",  # names of any length and of any bytes
    ) as writer:
        for index, content in enumerate(contents):
            path = Path(part) / images.path(index).relative_to(images.folder)
            key, ending = _split_name(path, are_shrunk)
            writer.write({"__key__": key, ending: content})
            progress(index + 1)
        count = writer.shard
    paths = [shard_path(root, part, number) for number in range(count)]
    places = [place for number, path in enumerate(paths) for place in _find_places(number, path)]
    assert len(places) == len(images)
    sizes_S = np.array([path.stat().st_size for path in paths])
    return Part(images.classes, images.names_N, images.labels_N, np.array(places), sizes_S)


def _split_name(path: Path, is_shrunk: bool) -> tuple[str, str]:
    """Split the name of a file from its ending, by which WebDataset decodes it."""
    if is_shrunk and path.suffix.lower() not in _JPEGS:
        return str(path), "jpg"
    stem, _, ending = str(path).rpartition(".")
    return (stem, ending) if path.suffix else (str(path), "img")


def _find_places(number: int, path: Path) -> Iterator[tuple[int, int, int]]:
    with tarfile.open(path) as shard:
        for member in shard:
            yield number, member.offset_data, member.size
