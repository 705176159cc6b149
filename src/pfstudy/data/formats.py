"""How published datasets are packed into files, which are read as data: none of them is executed.

CIFAR's Python version is a pickle, which could run anything. It is read with stand-ins for the few
NumPy objects that it is made of, and whatever else it asks for is refused. NumPy's own objects are
not used, because a made-up state of theirs can damage memory.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from pfstudy.errors import PfstudyError, first_line

ImagesAndLabels = tuple[np.ndarray, np.ndarray]
_CIFAR = (3, 32, 32)
_STL10 = (3, 96, 96)


def pickled_records(path: Path, label_keys: Sequence[str]) -> np.ndarray:
    """Read a file of CIFAR's Python version as the records of the binary version.

    Args:
        path: The file.
        label_keys: Where its labels are, in the order in which a record has them.

    Returns:
        ``(N, L + 3072)`` bytes: the labels and the pixels of each image.

    Raises:
        PfstudyError: It is damaged, no such file, or asks for anything but numbers.
    """
    content = _unpickle(path)
    images = content.get("data")
    if (
        not isinstance(images, np.ndarray)
        or images.dtype != np.uint8
        or images.shape[1:] != (prod(_CIFAR),)
        or not len(images)
    ):
        raise _no_batch(path, f"its 'data' are no uint8 of shape (N, {prod(_CIFAR)})")
    columns = [_labels(path, content.get(key), key, len(images)) for key in label_keys]
    return np.ascontiguousarray(np.column_stack([*columns, images]))


def binary_records(path: Path, num_labels: int) -> np.ndarray:
    """Read a file of CIFAR's binary version.

    Returns:
        ``(N, L + 3072)`` bytes: the labels and the pixels of each image.

    Raises:
        PfstudyError: It cannot be read, or does not hold whole images.
    """
    return _rows(path, num_labels + prod(_CIFAR), "images with their labels")


def split_records(records: Sequence[np.ndarray]) -> ImagesAndLabels:
    """Images and labels of CIFAR's records; the last label is the one that counts."""
    joined = np.concatenate(records)
    labels_N, pixels = joined[:, -prod(_CIFAR) - 1], joined[:, -prod(_CIFAR) :]
    return pixels.reshape(-1, *_CIFAR), labels_N.astype(np.int64)


def read_svhn(path: Path) -> ImagesAndLabels:
    """Read a file of SVHN's cropped digits, in which the label of the digit 0 is 10.

    Raises:
        PfstudyError: It is damaged or no such file.
    """
    from scipy.io import loadmat

    try:
        content = loadmat(path, variable_names=("X", "y"))
        images_HWCN, labels = content["X"], content["y"].ravel()
    except Exception as error:  # SciPy raises all sorts of errors about a damaged file
        raise PfstudyError(
            f"{path} is no MATLAB file with the arrays 'X' and 'y': {_reason(error)}; copy it "
            "again."
        ) from None
    if (
        images_HWCN.shape[:-1] != (32, 32, 3)
        or images_HWCN.dtype != np.uint8
        or images_HWCN.shape[-1:] != labels.shape
        or not len(labels)
    ):
        raise PfstudyError(
            f"{path}: expected 'X' (32, 32, 3, N) of uint8 and 'y' (N, 1), but got "
            f"{images_HWCN.shape} of {images_HWCN.dtype} and {content['y'].shape}."
        )
    labels_N = _from_1_to_10(path, labels)
    return images_HWCN.transpose(3, 2, 0, 1), labels_N % 10


def read_stl10(images: Path, labels: Path) -> ImagesAndLabels:
    """Read images of STL-10, which lie column by column, and their labels.

    Raises:
        PfstudyError: A file cannot be read, or they do not fit together.
    """
    images_NCWH = _rows(images, prod(_STL10), "images").reshape(-1, *_STL10)
    labels_N = _from_1_to_10(labels, _rows(labels, 1, "labels")[:, 0])
    if len(images_NCWH) != len(labels_N):
        raise PfstudyError(
            f"{images} has {len(images_NCWH)} images, but {labels} has {len(labels_N)} labels."
        )
    return images_NCWH.transpose(0, 1, 3, 2), labels_N - 1


def raw_bytes(path: Path) -> np.ndarray:
    """All bytes of a file.

    Raises:
        PfstudyError: It cannot be read.
    """
    try:
        return np.fromfile(path, np.uint8)
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None


def _rows(path: Path, length: int, what: str) -> np.ndarray:
    content = raw_bytes(path)
    if not len(content) or len(content) % length:
        unit = "byte" if length == 1 else "bytes"
        raise PfstudyError(
            f"{path} has {len(content):,} bytes, but expected whole {what} of {length:,} {unit} "
            "each: copy it again."
        )
    return content.reshape(-1, length)


def _from_1_to_10(path: Path, labels: np.ndarray) -> np.ndarray:
    labels_N = labels.astype(np.int64)
    if labels_N.min() < 1 or labels_N.max() > 10 or (labels_N != labels).any():
        raise PfstudyError(
            f"{path}: labels must be whole numbers from 1 to 10, but run from {labels.min()} to "
            f"{labels.max()}."
        )
    return labels_N


def _labels(path: Path, values: Any, key: str, number: int) -> np.ndarray:
    try:
        labels_N = np.asarray(values)
    except ValueError:  # lists of different lengths
        labels_N = np.empty(0)
    if labels_N.shape != (number,) or labels_N.dtype.kind not in "iu":
        raise _no_batch(path, f"its {key!r} are not {number} whole numbers")
    if labels_N.min() < 0 or labels_N.max() > 255:
        raise _no_batch(path, f"its {key!r} run from {labels_N.min()} to {labels_N.max()}")
    return labels_N.astype(np.uint8)


class _Kind:
    """Stands in for ``numpy.dtype``: whole numbers only."""

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = _text(code)
        if not re.fullmatch("[iu][1248]", self.code):
            raise pickle.UnpicklingError(f"it has values of type {self.code}")

    def __setstate__(self, state: Sequence[Any]) -> None:
        self.code = _text(state[1]).replace("|", "=") + self.code


class _Numbers:
    """Stands in for ``numpy.ndarray``."""

    values = np.empty(0)

    def __setstate__(self, state: Sequence[Any]) -> None:
        _, shape, kind, is_fortran, content = state
        self.values = _from_buffer(content, kind, shape, "F" if is_fortran else "C").values


def _from_buffer(content: bytes, kind: _Kind, shape: Any, order: Any, *_: object) -> _Numbers:
    numbers = _Numbers()
    is_fortran = _text(order) == "F"
    values = np.frombuffer(content, kind.code)
    numbers.values = values.reshape(tuple(shape), order="F" if is_fortran else "C")
    return numbers


_KNOWN = {
    "_codecs.encode": lambda text, *_: text.encode(
        "latin1"
    ),  # bytes, as Python 3 writes them for 2
    "numpy.dtype": _Kind,
    "numpy.ndarray": _Numbers,
    **dict.fromkeys(
        ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"],
        lambda *_: _Numbers(),
    ),
    **dict.fromkeys(
        ["numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"], _from_buffer
    ),
}


class _Unpickler(pickle.Unpickler):
    """Builds numbers, text, lists and dictionaries alone."""

    def find_class(self, module: str, name: str) -> Any:
        """Give out a stand-in, and nothing else."""
        asked = f"{module}.{name}"
        if asked not in _KNOWN:
            raise pickle.UnpicklingError(
                f"it asks for {asked}, which a published file does not, so nothing in it was run"
            )
        return _KNOWN[asked]


def _unpickle(path: Path) -> dict[str, Any]:
    """What a pickle holds; arrays by their stand-ins' values, keys as text."""
    try:
        with path.open("rb") as file:
            content = _Unpickler(file, fix_imports=False, encoding="bytes").load()
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise _no_batch(path, _reason(error)) from None
    if not isinstance(content, dict):
        raise _no_batch(path, f"it holds a {type(content).__name__}")
    return {
        _text(key): value.values if isinstance(value, _Numbers) else value
        for key, value in content.items()
        if isinstance(key, str | bytes)
    }


def _text(value: str | bytes) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)


def _reason(error: Exception) -> str:
    return first_line(error).rstrip(".")


def _no_batch(path: Path, reason: str) -> PfstudyError:
    return PfstudyError(f"{path} is no file of CIFAR's Python version: {reason}; copy it again.")
