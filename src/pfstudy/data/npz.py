"""A dataset in one NumPy file with the arrays ``images`` and ``labels``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pfstudy.data import Arrays
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data


def fingerprint(data: Data) -> str:
    """Digest of the arrays, however the file packs them and in whatever byte order."""
    arrays = load(data)
    digest = hashlib.sha256()
    for array in (arrays.images_NCHW, arrays.labels_N):
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little_endian.dtype.str} {array.shape}".encode())
        digest.update(np.ascontiguousarray(little_endian).tobytes())
    return digest.hexdigest()


def load(data: Data) -> Arrays:
    """Read ``images`` ``(N, H, W)`` or ``(N, C, H, W)`` and ``labels`` ``(N,)``.

    Raises:
        PfstudyError: The file is no such archive, or the arrays do not fit together.
    """
    path = _path(data)
    try:
        Path(path).open("rb").close()
    except OSError as error:
        raise PfstudyError(f"data.path={path} cannot be read: {error.strerror}.") from None
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (
        OSError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        BadZipFile,
    ) as error:
        raise PfstudyError(
            f"data.path={path} is no NumPy archive with the arrays 'images' and 'labels': {error}."
        ) from None
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4 or labels.shape != images.shape[:1]:
        raise PfstudyError(
            f"data.path={path}: expected images (N, H, W) or (N, C, H, W) and labels (N,), but "
            f"got {images.shape} and {labels.shape}."
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise PfstudyError(
            f"data.path={path}: labels must be whole numbers from 0, but are {labels.dtype}."
        )
    images = images.astype(images.dtype.newbyteorder("="), copy=False)  # torch takes no other
    return Arrays(images, labels.astype(np.int64))


def _path(data: Data) -> str:
    if data.path is None:
        raise PfstudyError("data=npz needs data.path=FILE.")
    return data.path
