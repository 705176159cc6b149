"""A dataset in one NumPy file with the arrays ``images`` and ``labels``."""

from __future__ import annotations

import hashlib
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from pfstudy.data import Arrays
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

_CHUNK = 1024


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
        PfstudyError: The file is no such archive, the arrays do not fit together, or an image has
            values that are no finite real numbers.
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
    _check_values(images, path)
    images = images.astype(images.dtype.newbyteorder("="), copy=False)  # torch takes no other
    return Arrays(images, labels.astype(np.int64))


def _check_values(images_NCHW: np.ndarray, path: str) -> None:
    """Check that all values are real numbers that float32, in which networks compute, can hold.

    Raises:
        PfstudyError: They are not; names the first image that has others.
    """
    kind, dtype = images_NCHW.dtype.kind, images_NCHW.dtype
    if kind == "c":
        numbers = np.flatnonzero(images_NCHW.imag.any(axis=(1, 2, 3)))
        which = f", image {numbers[0]} with an imaginary part" if len(numbers) else ""
        raise PfstudyError(
            f"data.path={path}: images are complex ({dtype}{which}); save their real part or "
            "their magnitude, or real and imaginary part as two channels."
        )
    if kind not in "biuf":
        raise PfstudyError(f"data.path={path}: images must be numbers, but are {dtype}.")
    if kind != "f":
        return
    for first in range(0, len(images_NCHW), _CHUNK):
        some = images_NCHW[first : first + _CHUNK]
        with np.errstate(over="ignore"):
            is_bad = ~np.isfinite(some.astype(np.float32)).all(axis=(1, 2, 3))
        if is_bad.any():
            index = first + int(is_bad.argmax())
            image = images_NCHW[index]
            value = "NaN" if np.isnan(image).any() else "infinite in float32"
            raise PfstudyError(
                f"data.path={path}: image {index} (counted from 0) has a value that is {value}; "
                "correct or remove it."
            )


def _path(data: Data) -> str:
    if data.path is None:
        raise PfstudyError("data=npz needs data.path=FILE.")
    return data.path
