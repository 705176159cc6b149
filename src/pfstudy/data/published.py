"""CIFAR-10, CIFAR-100, SVHN and STL-10, laid out as torchvision has them, or downloaded.

cifar10    PATH/cifar-10-batches-py/ or PATH/cifar-10-batches-bin/
cifar100   PATH/cifar-100-python/ or PATH/cifar-100-binary/
svhn       PATH/train_32x32.mat and PATH/test_32x32.mat
stl10      PATH/stl10_binary/

PATH may be the inner folder, too. Without one it is a folder in the user's cache. A dataset is
downloaded to the cache, or to a folder that is there and empty; any other folder is only read.

Sources: Krizhevsky, Learning Multiple Layers of Features from Tiny Images (2009); Netzer et al.,
Reading Digits in Natural Images with Unsupervised Feature Learning (NIPS workshop 2011); Coates et
al., An Analysis of Single-Layer Networks in Unsupervised Feature Learning (AISTATS 2011).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import platformdirs

from pfstudy.data import Arrays
from pfstudy.data.downloading import download, is_to_be_filled
from pfstudy.data.versions import VERSIONS, Version
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

_ALGORITHMS = {32: "md5", 40: "sha1"}


def fingerprint(data: Data) -> str:
    """Digest of the content of all files, in their order, wherever they lie.

    Both versions of CIFAR are identified as the records of the binary one, so that the same images
    and labels are the same dataset however they are packed. What was hashed in this process is
    hashed again only if its file has changed.

    Raises:
        PfstudyError: Files are missing, are not the published ones, or cannot be read; or they
            cannot be downloaded.
    """
    version, folder = _find(data)
    digest = hashlib.sha256()
    for part, paths in _parts(version, folder):
        for path in paths:
            content = _content_digest(version.content, path, *_state(path))
            digest.update(f"{part} {content}\n".encode())
    return digest.hexdigest()


def load(data: Data) -> Arrays:
    """Read the images, uint8, and the labels, from 0; validation images are held out by others.

    Raises:
        PfstudyError: As `fingerprint`, or images and labels do not fit together.
    """
    version, folder = _find(data)
    parts = {part: version.read(paths) for part, paths in _parts(version, folder)}
    return Arrays(
        np.concatenate([images for images, _ in parts.values()]),
        np.concatenate([labels for _, labels in parts.values()]),
        np.repeat(list(parts), [len(labels) for _, labels in parts.values()]),
    )


def _parts(version: Version, folder: Path) -> Iterator[tuple[str, list[Path]]]:
    for part, files in (("train", version.train), ("test", version.test)):
        yield part, [folder / name for name in files]


def _find(data: Data) -> tuple[Version, Path]:
    """Which version is there, and in which folder; downloaded if need be, and verified."""
    is_cached = data.path is None
    root = _cache_folder(data.name) if data.path is None else Path(data.path)
    found = _find_whole(data.name, root)
    if not found and data.download and (is_cached or is_to_be_filled(root)):
        first = VERSIONS[data.name][0]
        wanted = [Path(first.folder, name) for name in first.digests]
        download(data.name, root, wanted, lambda: _find_whole(data.name, root) is not None)
        found = _find_whole(data.name, root)
    if not found:
        raise _not_there(data, root)
    if data.verify is not False:
        _verify(*found, is_cached)
    return found


def _cache_folder(name: str) -> Path:
    return platformdirs.user_cache_path("pfstudy") / name


def _candidates(name: str, root: Path) -> Iterator[tuple[Version, Path]]:
    for version in VERSIONS[name]:
        for folder in dict.fromkeys((root / version.folder, root)):
            yield version, folder


def _find_whole(name: str, root: Path) -> tuple[Version, Path] | None:
    whole = (found for found in _candidates(name, root) if not found[0].missing(found[1]))
    return next(whole, None)


def _not_there(data: Data, root: Path) -> PfstudyError:
    version, folder = min(
        _candidates(data.name, root), key=lambda found: len(found[0].missing(found[1]))
    )
    missing = version.missing(folder)
    first = VERSIONS[data.name][0]
    expected = Path(first.folder, next(iter(first.digests)))
    if len(missing) < len(version.digests):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        cure = "data.download=true" if data.path is None else "data.path=null to download it"
        return PfstudyError(
            f"{folder / missing[0]}{more} of {data.name} is missing: copy it there, or set {cure}."
        )
    if data.path is None:
        return PfstudyError(
            f"{data.name} is not in {root}: set data.download=true, or give data.path=FOLDER with "
            f"{expected}."
        )
    fault = f"does not hold {data.name}" if root.is_dir() else "is no folder"
    return PfstudyError(
        f"data.path={root} {fault}: give the folder with {expected}, make an empty one to have "
        f"{data.name} downloaded there, or give data.path=null for the cache."
    )


def _verify(version: Version, folder: Path, is_cached: bool) -> None:
    for name, published in version.digests.items():
        path, algorithm = folder / name, _ALGORITHMS[len(published)]
        actual = _file_digest(algorithm, path, *_state(path))
        if actual != published:
            again = "remove it, and it is downloaded again" if is_cached else "copy it again"
            raise PfstudyError(
                f"{path} is not as it was published, or not whole ({algorithm} {actual}, expected "
                f"{published}): {again}, or set data.verify=false for your own data in this format."
            )


def _state(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    return status.st_ino, status.st_size, status.st_mtime_ns


@cache
def _file_digest(algorithm: str, path: Path, *state: int) -> str:
    """Digest of a file in this state."""
    del state
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(
                file, lambda: hashlib.new(algorithm, usedforsecurity=False)
            ).hexdigest()
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None


@cache
def _content_digest(content: Callable[[Path], np.ndarray], path: Path, *state: int) -> str:
    """Digest of what a file in this state holds."""
    del state
    return hashlib.sha256(content(path).data).hexdigest()
