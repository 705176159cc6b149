"""Datasets that are folders of images, one folder for each class.

PATH/train/CLASS/*, PATH/val/CLASS/*   the test images are those of val/; validation images are
                                       held out of train/
... and PATH/test/CLASS/*              validation images are those of val/
PATH/CLASS/*                           one heap, which is split
PATH/packed.npz, PATH/*.tar            what `pfstudy pack` made of one of these

Classes are numbered by name; those of train/ are the classes of all parts. A class may have no
images in val/ or test/, which leaves its accuracy unknown there. Every file of a class is an image,
but for those whose name begins with a dot. A ``test`` without class folders has no labels, as
ImageNet's own, and is not used.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pfstudy.data import require_number
from pfstudy.data.digests import BLOCK_BYTES, Stored, digest_images
from pfstudy.data.packed import Packed, Shards, open_packed
from pfstudy.data.splitting import hold_out, split_heap
from pfstudy.errors import PfstudyError
from pfstudy.identity import Content
from pfstudy.schema.config import Data
from pfstudy.words import name_some

if TYPE_CHECKING:
    from pfstudy.data.contents import Contents

_PARTS = ("train", "val", "test")
MAY_LACK = ("val", "test")
"""Parts in which a class may have no images."""

_HEAP = ""
_NUM_NAMED = 3


@dataclass(frozen=True)
class Images:
    """The files of one part of a dataset; names lie in arrays, which processes can share.

    Attributes:
        folder: Where the class folders are.
        classes: Names of the classes, in the order of their numbers.
        names_N: Name of each file in its class folder, encoded for the file system.
        labels_N: Number of the class of each, int64.
        shards: What they are packed in.
        places_N3: Where each of them is packed.
    """

    folder: Path
    classes: tuple[str, ...]
    names_N: np.ndarray
    labels_N: np.ndarray
    shards: Shards | None = None
    places_N3: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels_N)

    def path(self, index: int) -> Path:
        """Where an image is, or was called before it was packed."""
        name = os.fsdecode(self.names_N[index])
        return self.folder / self.classes[int(self.labels_N[index])] / name

    def read(self, index: int) -> bytes:
        """Read the bytes of an image.

        Raises:
            PfstudyError: They cannot be read.
        """
        if self.shards is not None and self.places_N3 is not None:
            return self.shards.read(self.places_N3[index])
        path = self.path(index)
        try:
            return path.read_bytes()
        except OSError as error:
            raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None

    def select(self, indices: np.ndarray) -> Images:
        """Some of the images."""
        places = None if self.places_N3 is None else self.places_N3[indices]
        names_N, labels_N = self.names_N[indices], self.labels_N[indices]
        return Images(self.folder, self.classes, names_N, labels_N, self.shards, places)


def fingerprint(data: Data) -> str:
    """Digest over the names, from ``data.path`` on, and the content of all images, in their order.

    A packed folder has that of the folder, unless its images were shrunk.

    Raises:
        PfstudyError: A folder or an image cannot be read, or an image is empty; or the folder is
            not laid out as expected.
    """
    return identify(data).fingerprint


def older_fingerprint(data: Data) -> str:
    """Digest over the names and sizes of all images, by which a folder was identified before.

    Raises:
        PfstudyError: As `fingerprint`, apart from images that cannot be read.
    """
    return _older(*_stored(data), _reading(data))


def identify(data: Data) -> Content:
    """Find the fingerprint of a folder, by content and by the older rule.

    Raises:
        PfstudyError: As `fingerprint`.
    """
    stored, treatment = _stored(data)
    how = b"sampled\0" if stored.is_sampled else b"whole\0"
    digest = hashlib.sha256(how + treatment + b"\0")
    for name, found in zip(stored.names, digest_images(stored), strict=True):
        digest.update(b"%s\0%s" % (name, found.tobytes()))
    reading = _reading(data)
    digest.update(reading)
    note = ""
    if stored.is_sampled:
        note = (
            f"{stored.root} has {stored.sizes_N.sum() / 1e9:.1f} GB: its images are identified by "
            f"the size and three blocks of {BLOCK_BYTES} bytes of each, not by all bytes"
        )
    return Content(digest.hexdigest(), _older(stored, treatment, reading), note)


def _older(stored: Stored, treatment: bytes, reading: bytes) -> str:
    """That of no earlier run where images are read differently than by earlier versions."""
    digest = hashlib.sha256(treatment)
    for name, size in zip(stored.names, stored.sizes_N.tolist(), strict=True):
        digest.update(b"%s\0%d\n" % (name, size))
    digest.update(reading)
    return digest.hexdigest()


def _stored(data: Data) -> tuple[Stored, bytes]:
    """All images as they are stored, and what was done to them when they were packed."""
    root = _root(data)
    packed = open_packed(root)
    skips = data.on_error == "skip"
    stored = _stored_packed(packed, skips) if packed else _stored_files(root, skips)
    if not skips and not stored.sizes_N.all():
        empty = stored.names[int(np.flatnonzero(stored.sizes_N == 0)[0])]
        raise empty_file(root / os.fsdecode(empty))
    return stored, packed.treatment.encode() if packed else b""


def _stored_files(root: Path, skips: bool) -> Stored:
    names: list[bytes] = []
    states: list[tuple[int, int, int]] = []
    for part, classes in sorted(find_classes(root).items()):
        for of_class in classes:
            folder = os.fsencode(Path(part, of_class))
            for entry in _list_files(root / part / of_class, part in MAY_LACK):
                names.append(b"%s/%s" % (folder, os.fsencode(entry.name)))
                states.append(_state(entry))
    above = os.fsencode(root)

    def read(index: int, offset: int, length: int) -> bytes:
        path = os.path.join(above, names[index])  # noqa: PTH118  (bytes)
        try:
            descriptor = os.open(path, os.O_RDONLY)
            try:
                return os.pread(descriptor, length, offset)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise PfstudyError(f"{os.fsdecode(path)} cannot be read: {error.strerror}.") from None

    states_N3 = np.array(states, np.int64)
    return Stored(root, names, states_N3[:, 0], states_N3[:, 1:], read, skips)


def _stored_packed(packed: Packed, skips: bool) -> Stored:
    names = [b"%s/%s" % (folder, name) for folder, name, _ in packed.entries()]
    parts = [part for _, part in sorted(packed.parts.items())]
    shards = [packed.shards(name) for name, _ in sorted(packed.parts.items())]
    owners = np.repeat(np.arange(len(parts)), [len(part.names_N) for part in parts])
    places_N3 = np.concatenate([part.places_N3 for part in parts])
    states = [
        _states_of(of_part.paths)[part.places_N3[:, 0]]
        for of_part, part in zip(shards, parts, strict=True)
    ]

    def read(index: int, offset: int, length: int) -> bytes:
        number, start, _ = places_N3[index].tolist()
        content: bytes = shards[owners[index]].read(np.array([number, start + offset, length]))
        return content

    return Stored(packed.root, names, places_N3[:, 2], np.concatenate(states), read, skips)


def _states_of(paths: Sequence[Path]) -> np.ndarray:
    found = [path.stat() for path in paths]
    return np.array([(stat.st_mtime_ns, stat.st_ctime_ns) for stat in found], np.int64)


def inspect(data: Data) -> Contents:
    """Find out what all images of a folder hold.

    Raises:
        PfstudyError: A folder cannot be read or is not laid out as expected.
    """
    from pfstudy.data.contents import inspect_images

    root = _root(data)
    packed = open_packed(root)
    parts = find_classes(root, packed)
    return inspect_images(_list_part(root, part, parts, packed) for part in sorted(parts))


def _reading(data: Data) -> bytes:
    """What a fingerprint ends with: nothing, unless images are read differently than once."""
    reading = inspect(data).reading
    return f"\0read {reading}".encode() if reading else b""


def list_splits(data: Data) -> dict[str, Images]:
    """List the images of ``train``, ``validation`` and ``test``, the same way for every variant.

    Raises:
        PfstudyError: A folder cannot be read or is not laid out as expected, a part has classes
            that train does not have, or there are too few images for the numbers of the config.
    """
    root = _root(data)
    packed = open_packed(root)
    parts = find_classes(root, packed)
    if _HEAP in parts:
        images = _list_images(root, _HEAP, parts, packed, data)
        members = split_heap(images.labels_N, data, images.classes)
        return {name: images.select(chosen) for name, chosen in members.items()}
    for part in ("train", "val"):
        if part not in parts:
            raise PfstudyError(
                f"data.path={root} has no folder {part!r}: expected train/CLASS/ and val/CLASS/, "
                "or CLASS/ alone."
            )
    for part in parts:
        _check_classes(root, parts, part)
    listed = {part: _list_images(root, part, parts, packed, data) for part in parts}
    _refuse_number(data, "num_test", root / ("test" if "test" in parts else "val"))
    if "test" in parts:
        _refuse_number(data, "num_validation", root / "val")
        return {"train": listed["train"], "validation": listed["val"], "test": listed["test"]}
    why = f"there is no {root / 'test'}, so {root / 'val'} is for the test"
    number = require_number(data, "num_validation", why)
    rest, held_out = hold_out(listed["train"].labels_N, number, data, parts["train"])
    return {
        "train": listed["train"].select(rest),
        "validation": listed["train"].select(held_out),
        "test": listed["val"],
    }


def list_test(data: Data) -> Images:
    """List the test images, which may be all that is there.

    Raises:
        PfstudyError: A folder cannot be read or is not laid out as expected.
    """
    root = _root(data)
    packed = open_packed(root)
    parts = find_classes(root, packed)
    if _HEAP in parts:
        return list_splits(data)["test"]
    part = "test" if "test" in parts else "val"
    if part not in parts:
        raise PfstudyError(f"data.path={root} has neither 'test' nor 'val' with class folders.")
    _check_classes(root, parts, part)
    return _list_images(root, part, parts, packed, data)


def _root(data: Data) -> Path:
    if data.path is None:
        raise PfstudyError(f"data={data.name} needs data.path=FOLDER.")
    return Path(data.path)


def empty_file(where: str | Path) -> PfstudyError:
    """Say that a file has no bytes, as one has that was copied in part."""
    return PfstudyError(f"{where} is empty: copied only in part? Copy it anew, or remove it.")


def find_classes(
    root: Path, packed: Packed | None = None, key: str = "data.path="
) -> dict[str, list[str]]:
    """Classes of each of the parts that are there; those of a heap have the empty name.

    A heap may have a class that is called ``train``: what it holds are images.

    Args:
        root: The folder.
        packed: What is packed in it, if it is a packed one.
        key: What stands before the folder in errors.

    Raises:
        PfstudyError: A folder cannot be read or is not laid out as expected.
    """
    if packed:
        return {name: list(part.classes) for name, part in packed.parts.items()}
    folders = _list_folders(root, key)
    parts = {part: _list_folders(root / part) for part in _PARTS if part in folders}
    if not any(parts.values()) and set(folders) - set(_PARTS):
        return {_HEAP: folders}
    if not parts.get("test"):
        parts.pop("test", None)
    for part, classes in parts.items():
        if not classes:
            raise PfstudyError(f"{root / part} has no class folders: expected {part}/CLASS/.")
    if not parts:
        raise PfstudyError(
            f"{key}{root} has no class folders: expected train/CLASS/ and val/CLASS/, or "
            "CLASS/ alone."
        )
    return parts


def list_images(folder: Path, classes: Sequence[str], *, may_lack: bool = False) -> Images:
    """List the images of one part.

    Args:
        folder: The part.
        classes: Its class folders.
        may_lack: Whether a class may have no images, or no folder.

    Raises:
        PfstudyError: A class folder cannot be read, has no images, or has folders.
    """
    names: list[bytes] = []
    counts = []
    for name in classes:
        found = [os.fsencode(entry.name) for entry in _list_files(folder / name, may_lack)]
        names += found
        counts.append(len(found))
    labels_N = np.repeat(np.arange(len(classes)), counts)
    return Images(folder, tuple(classes), np.array(names, dtype=np.bytes_), labels_N)


def name_lacking(images: Images) -> str | None:
    """Name the classes that have no images, if there are any."""
    counts = np.bincount(images.labels_N, minlength=len(images.classes))
    lacking = [images.classes[number] for number in np.flatnonzero(counts == 0)]
    return _name_some(lacking) if lacking else None


def _list_files(folder: Path, may_lack: bool = False) -> list[os.DirEntry[str]]:
    if may_lack and not folder.exists():
        return []
    entries = sorted(_scan(folder), key=lambda entry: entry.name)
    if not entries and not may_lack:
        raise PfstudyError(f"{folder} has no images: fill or remove this class folder.")
    for entry in entries:
        if entry.is_dir():
            raise PfstudyError(
                f"{entry.path} is a folder: the images of a class lie in its folder directly."
            )
    return entries


def _check_classes(root: Path, parts: dict[str, list[str]], part: str) -> None:
    surplus = sorted(set(parts[part]) - set(parts.get("train", parts[part])))
    if surplus:
        raise PfstudyError(
            f"data.path={root}: {part} must have no other class folders than train, but {part} "
            f"alone has {_name_some(surplus)}."
        )


def _name_some(names: list[str]) -> str:
    return name_some(list(map(repr, names)), _NUM_NAMED)


def _refuse_number(data: Data, key: str, folder: Path) -> None:
    value = getattr(data, key)
    if value is not None:
        raise PfstudyError(
            f"data.{key} is {value}, but {folder} has these images; set data.{key}=null."
        )


def _list_images(
    root: Path, part: str, parts: dict[str, list[str]], packed: Packed | None, data: Data
) -> Images:
    of_all = "train" if "train" in parts else part
    if len(parts[of_all]) != data.num_classes:
        raise PfstudyError(
            f"data.num_classes is {data.num_classes}, but {root / of_all} has "
            f"{len(parts[of_all])} class folders; set the number, or copy what is missing."
        )
    images = _list_part(root, part, parts, packed)
    if not len(images):
        raise PfstudyError(f"{root / part} has no images: fill its class folders.")
    return images


def _list_part(root: Path, part: str, parts: dict[str, list[str]], packed: Packed | None) -> Images:
    """List the images of a part, numbered by the classes of train where there is one."""
    classes = tuple(parts.get("train", parts[part]))
    if packed is None:
        return list_images(root / part, classes, may_lack=part in MAY_LACK)
    of = packed.parts[part]
    numbers = {name: number for number, name in enumerate(classes)}
    labels_N = np.array([numbers.get(name, -1) for name in of.classes])[of.labels_N]
    return Images(root / part, classes, of.names_N, labels_N, packed.shards(part), of.places_N3)


def _list_folders(folder: Path, prefix: str = "") -> list[str]:
    entries = _scan(folder, prefix)
    return sorted(entry.name for entry in entries if entry.is_dir())


def _scan(folder: Path, prefix: str = "") -> Iterator[os.DirEntry[str]]:
    """What is in a folder but hidden files, in any order."""
    try:
        with os.scandir(folder) as entries:
            yield from (entry for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise PfstudyError(f"{prefix}{folder} cannot be read: {error.strerror}.") from None


def _state(entry: os.DirEntry[str]) -> tuple[int, int, int]:
    """Size, modification time and change time of a file."""
    try:
        stat = entry.stat()
    except OSError as error:
        raise PfstudyError(f"{entry.path} cannot be read: {error.strerror}.") from None
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
