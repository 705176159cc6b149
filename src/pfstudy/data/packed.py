"""Packed folders of images: few large files instead of many small ones, and an index.

OUT/train-000000.tar, OUT/val-000000.tar, ...   WebDataset's shards, `images-*` of a heap; tar
                                                unpacks them to the folder they were made of
OUT/packed.npz                                  classes, names, and where every image is

WebDataset is the one of the formats that fit whose shards are plain tar files, so that one read at
a place that the index knows fetches any image: batches stay functions of seed, epoch and number,
whatever reads them. litdata's random access maps a chunk of 64 MB into memory, and advises the
kernel to fetch all of it, for an image (benchmarks/reading.py), its index may ask for pickles, and
it brings the clients of clouds along. ffcv had its last release in 2023 and has to be compiled
against OpenCV, and DALI decodes in a pipeline of its own, which draws crops of its own.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pfstudy.errors import PfstudyError

_INDEX = "packed.npz"
_VERSION = 1
_HEAP = "images"


class Shards:
    """The tar files of one part; processes that are forked may read them at the same time.

    Args:
        paths: The files, in the order of their numbers.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self.paths = paths
        self._opened: dict[int, int] = {}

    def __del__(self) -> None:
        for descriptor in self._opened.values():
            os.close(descriptor)

    def read(self, place: np.ndarray) -> bytes:
        """Read what is somewhere: number of the file, offset, and size in bytes.

        Raises:
            PfstudyError: It cannot be read.
        """
        number, offset, size = place.tolist()
        try:
            if number not in self._opened:
                self._opened[number] = os.open(self.paths[number], os.O_RDONLY)
            content = os.pread(self._opened[number], size, offset)
        except OSError as error:
            raise PfstudyError(f"{self.paths[number]} cannot be read: {error.strerror}.") from None
        if len(content) != size:
            raise _half_copied(self.paths[number])
        return content


@dataclass(frozen=True)
class Part:
    """What is packed of one part of a dataset.

    Attributes:
        classes: Names of the classes, in the order of their numbers.
        names_N: Name of each image in its class folder, encoded for the file system.
        labels_N: Number of the class of each, int64, ascending.
        places_N3: Number of the shard, offset and size in bytes of each, int64.
        shard_sizes_S: Size of each shard in bytes, int64.
    """

    classes: tuple[str, ...]
    names_N: np.ndarray
    labels_N: np.ndarray
    places_N3: np.ndarray
    shard_sizes_S: np.ndarray


@dataclass(frozen=True)
class Packed:
    """A packed folder.

    Attributes:
        root: Where it is.
        parts: What is packed of ``train``, ``val`` and ``test``; of a heap under the empty name.
        treatment: What was done to the images; empty where their bytes are those of the files.
    """

    root: Path
    parts: Mapping[str, Part]
    treatment: str = ""

    def entries(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Folder, from the root on, name and size of every image, in the order of the parts."""
        for name, part in sorted(self.parts.items()):
            folders = [os.fsencode(Path(name, of_class)) for of_class in part.classes]
            sizes = part.places_N3[:, 2].tolist()
            for file, label, size in zip(part.names_N, part.labels_N.tolist(), sizes, strict=True):
                yield folders[label], file, size

    def shards(self, part: str) -> Shards:
        """Open the shards of a part."""
        count = len(self.parts[part].shard_sizes_S)
        return Shards(tuple(shard_path(self.root, part, number) for number in range(count)))


def shard_path(root: Path, part: str, number: int) -> Path:
    """Where a shard of a part is."""
    return root / (shard_pattern(part) % number)


def shard_pattern(part: str) -> str:
    """How the shards of a part are called, with a place for their number."""
    return f"{part or _HEAP}-%06d.tar"


def write_index(packed: Packed) -> None:
    """Write the index of a packed folder into it."""
    arrays = {
        "version": np.array(_VERSION),
        "treatment": np.array(packed.treatment),
        "parts": np.array(list(packed.parts)),
    }
    for name, part in packed.parts.items():
        arrays[f"{name}.classes"] = np.array([os.fsencode(of_class) for of_class in part.classes])
        arrays[f"{name}.names"] = part.names_N
        arrays[f"{name}.labels"] = part.labels_N
        arrays[f"{name}.places"] = part.places_N3
        arrays[f"{name}.shard_sizes"] = part.shard_sizes_S
    np.savez(packed.root / _INDEX, allow_pickle=False, **arrays)


def open_packed(root: Path) -> Packed | None:
    """Read the index of a packed folder, and see whether all its shards are there.

    Returns:
        The packed folder; nothing for a folder that is none.

    Raises:
        PfstudyError: The index is damaged, or a shard is missing or has another size.
    """
    path = root / _INDEX
    if not path.exists():
        shard = next(root.glob("*-000000.tar"), None)
        if shard is not None:
            raise PfstudyError(f"{root} has {shard.name}, but no {_INDEX}: copy it anew.")
        return None
    try:
        packed = _read_index(root, path)
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    except PfstudyError:
        raise
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise PfstudyError(f"{path} is damaged: copy it anew, or pack the folder anew.") from None
    for name, part in packed.parts.items():
        for number, size in enumerate(part.shard_sizes_S.tolist()):
            _check_shard(shard_path(root, name, number), size)
    return packed


def _read_index(root: Path, path: Path) -> Packed:
    with np.load(path, allow_pickle=False) as index:
        if int(index["version"]) != _VERSION:
            raise PfstudyError(f"{path} was written by another version of pfstudy; pack it anew.")
        parts = {name: _read_part(index, name) for name in index["parts"].tolist()}
        return Packed(root, parts, str(index["treatment"]))


def _read_part(index: Mapping[str, np.ndarray], name: str) -> Part:
    """Read a part; whoever wrote the index may have written anything."""
    classes = tuple(os.fsdecode(of_class) for of_class in index[f"{name}.classes"].tolist())
    names_N, labels_N = index[f"{name}.names"], index[f"{name}.labels"]
    places_N3, sizes_S = index[f"{name}.places"], index[f"{name}.shard_sizes"]
    kinds = [array.dtype.kind for array in (names_N, labels_N, places_N3, sizes_S)]
    shards_N, offsets_N, lengths_N = places_N3.T
    ends_N = offsets_N + lengths_N
    if (
        name not in ("", "train", "val", "test")
        or kinds != ["S", "i", "i", "i"]
        or not len(names_N) == len(labels_N) == len(places_N3) > 0
        or places_N3.min() < 0
        or not 0 <= labels_N.min() <= labels_N.max() < len(classes)
        or shards_N.max() >= len(sizes_S)
        or (ends_N > sizes_S[shards_N]).any()
        or (ends_N < offsets_N).any()
    ):
        raise ValueError(name)
    return Part(classes, names_N, labels_N, places_N3, sizes_S)


def _check_shard(path: Path, size: int) -> None:
    try:
        found = path.stat().st_size
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    if found != size:
        raise _half_copied(path)


def _half_copied(path: Path) -> PfstudyError:
    return PfstudyError(f"{path} has not the size that it was packed with: copy it anew.")
