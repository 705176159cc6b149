"""Small datasets in the formats of CIFAR, SVHN and STL-10, written byte by byte as published."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pfstudy.data.versions import VERSIONS
from pfstudy.schema.config import Data

Part = tuple[np.ndarray, np.ndarray]


def draw_images(number: int, num_classes: int, size: int, seed: int, pattern_seed: int = 0) -> Part:
    """Draw images that show their class: a pattern of the class under noise.

    Args:
        number: Number of images.
        num_classes: Number of classes; each gets its share.
        size: Height and width.
        seed: Of noise and order.
        pattern_seed: Of the patterns, which training and test images share.

    Returns:
        Images uint8 ``(N, 3, H, W)`` and labels int64 ``(N,)``.
    """
    coarse = np.random.default_rng(pattern_seed).integers(40, 216, (num_classes, 3, 4, 4))
    patterns = coarse.repeat(size // 4, axis=2).repeat(size // 4, axis=3)
    generator = np.random.default_rng(seed)
    labels_N = generator.permutation(np.arange(number) % num_classes)
    noise = generator.integers(-40, 40, (number, 3, size, size))
    return (patterns[labels_N] + noise).astype(np.uint8), labels_N


def write_cifar10(folder: Path, num_train: int = 100, num_test: int = 40, seed: int = 0) -> Path:
    """Write a small CIFAR-10, Python version: ``folder/cifar-10-batches-py/``.

    Returns:
        The folder, to be given as ``data.path`` with ``data.verify=false``.
    """
    inner = folder / "cifar-10-batches-py"
    inner.mkdir(parents=True)
    for name, (images, labels) in _cifar10_files(num_train, num_test, seed).items():
        fields = {
            "batch_label": f"batch of {name}",
            "labels": labels.tolist(),
            "data": images.reshape(len(images), -1),
            "filenames": [f"{name}_{index}.png" for index in range(len(images))],
        }
        (inner / name).write_bytes(python2_pickle(fields))
    names = [f"class{index}" for index in range(10)]
    (inner / "batches.meta").write_bytes(python2_pickle({"label_names": names}))
    return folder


def write_cifar10_binary(
    folder: Path, num_train: int = 100, num_test: int = 40, seed: int = 0
) -> Path:
    """Write the same images as `write_cifar10`, binary version: ``cifar-10-batches-bin/``."""
    inner = folder / "cifar-10-batches-bin"
    inner.mkdir(parents=True)
    for name, (images, labels) in _cifar10_files(num_train, num_test, seed).items():
        (inner / f"{name}.bin").write_bytes(_records([labels], images))
    return folder


def write_cifar100(folder: Path, num_train: int = 200, num_test: int = 100, seed: int = 0) -> Path:
    """Write a small CIFAR-100, Python version: ``folder/cifar-100-python/``."""
    inner = folder / "cifar-100-python"
    inner.mkdir(parents=True)
    for name, (images, labels) in _two_parts(num_train, num_test, 100, 32, seed).items():
        fields = {
            "filenames": [f"{name}_{index}.png" for index in range(len(images))],
            "batch_label": f"{name} batch 1 of 1",
            "fine_labels": labels.tolist(),
            "coarse_labels": (labels // 5).tolist(),
            "data": images.reshape(len(images), -1),
        }
        (inner / name).write_bytes(python2_pickle(fields))
    names = [f"class{index}" for index in range(100)]
    (inner / "meta").write_bytes(python2_pickle({"fine_label_names": names}))
    return folder


def write_cifar100_binary(
    folder: Path, num_train: int = 200, num_test: int = 100, seed: int = 0
) -> Path:
    """Write the same images as `write_cifar100`, binary version: ``cifar-100-binary/``."""
    inner = folder / "cifar-100-binary"
    inner.mkdir(parents=True)
    for name, (images, labels) in _two_parts(num_train, num_test, 100, 32, seed).items():
        (inner / f"{name}.bin").write_bytes(_records([labels // 5, labels], images))
    return folder


def write_svhn(folder: Path, num_train: int = 60, num_test: int = 30, seed: int = 0) -> Path:
    """Write a small SVHN: ``folder/train_32x32.mat`` and ``folder/test_32x32.mat``."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    for name, (images, labels) in _two_parts(num_train, num_test, 10, 32, seed).items():
        digits = np.where(labels == 0, 10, labels).astype(np.uint8)
        content = {"X": images.transpose(2, 3, 1, 0), "y": digits[:, None]}
        savemat(folder / f"{name}_32x32.mat", content)
    return folder


def write_stl10(folder: Path, num_train: int = 30, num_test: int = 20, seed: int = 0) -> Path:
    """Write a small STL-10: ``folder/stl10_binary/``."""
    inner = folder / "stl10_binary"
    inner.mkdir(parents=True)
    for name, (images, labels) in _two_parts(num_train, num_test, 10, 96, seed).items():
        (inner / f"{name}_X.bin").write_bytes(images.transpose(0, 1, 3, 2).tobytes())
        (inner / f"{name}_y.bin").write_bytes((labels + 1).astype(np.uint8).tobytes())
    return folder


WRITERS = {
    "cifar10": write_cifar10,
    "cifar10 binary": write_cifar10_binary,
    "cifar100": write_cifar100,
    "cifar100 binary": write_cifar100_binary,
    "svhn": write_svhn,
    "stl10": write_stl10,
}


def files_of(data: Data) -> list[Path]:
    """The files that are read: of the version that is there."""
    root = Path(str(data.path))
    names = {name for version in VERSIONS[data.name] for name in version.digests}
    return sorted(path for path in root.rglob("*") if path.name in names)


def publish(data: Data, monkeypatch: pytest.MonkeyPatch) -> Data:
    """Pretend that the files of a dataset are the published ones, and ask for those."""
    algorithms = {32: hashlib.md5, 40: hashlib.sha1}
    contents = {path.name: path.read_bytes() for path in files_of(data)}

    def digests(published: dict[str, str]) -> dict[str, str]:
        return {
            name: algorithms[len(digest)](contents[name]).hexdigest()
            if name in contents
            else digest
            for name, digest in published.items()
        }

    versions = tuple(
        replace(version, train=digests(dict(version.train)), test=digests(dict(version.test)))
        for version in VERSIONS[data.name]
    )
    monkeypatch.setitem(VERSIONS, data.name, versions)
    return replace(data, verify=True)


def python2_pickle(fields: Mapping[str, str | Sequence[int] | Sequence[str] | np.ndarray]) -> bytes:
    """Pickle fields by the instructions that Python 2 wrote for CIFAR, but for the memo."""
    items = b"".join(_instructions(key) + _instructions(value) for key, value in fields.items())
    return b"\x80\x02}(" + items + b"u."


def _instructions(value: object) -> bytes:
    if isinstance(value, np.ndarray):
        rows, columns = value.shape
        return (
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            + b"(K\x01" + struct.pack("<cici", b"J", rows, b"J", columns) + b"\x86"
            + b"cnumpy\ndtype\nU\x02" + value.dtype.str[1:].encode() + b"K\x00K\x01\x87R"
            + b"(K\x03U\x01" + value.dtype.str[:1].encode() + b"NNNJ\xff\xff\xff\xff"
            + b"J\xff\xff\xff\xffK\x00tb\x89T" + struct.pack("<i", value.nbytes) + value.tobytes()
            + b"tb"
        )  # fmt: skip
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    assert isinstance(value, list)
    return b"](" + b"".join(map(_instructions, value)) + b"e"


def _records(labels: Sequence[np.ndarray], images: np.ndarray) -> bytes:
    rows = zip(*labels, images, strict=True)
    return b"".join(bytes(map(int, row[:-1])) + row[-1].tobytes() for row in rows)


def _cifar10_files(num_train: int, num_test: int, seed: int) -> dict[str, Part]:
    parts = _two_parts(num_train, num_test, 10, 32, seed)
    chunks = zip(*(np.array_split(array, 5) for array in parts["train"]), strict=True)
    train = {f"data_batch_{number}": chunk for number, chunk in enumerate(chunks, 1)}
    return {**train, "test_batch": parts["test"]}


def _two_parts(
    num_train: int, num_test: int, num_classes: int, size: int, seed: int
) -> dict[str, Part]:
    return {
        "train": draw_images(num_train, num_classes, size, 2 * seed),
        "test": draw_images(num_test, num_classes, size, 2 * seed + 1),
    }
