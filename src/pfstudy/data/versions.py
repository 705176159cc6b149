"""The files of the published datasets, and how they are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pfstudy.data.formats import (
    ImagesAndLabels,
    binary_records,
    pickled_records,
    raw_bytes,
    read_stl10,
    read_svhn,
    split_records,
)


@dataclass(frozen=True)
class Version:
    """One of the ways in which a dataset is published.

    Attributes:
        folder: Name of the folder of its files, if they have one.
        train: Digest of each file of the training images, by name.
        test: Digest of each file of the test images.
        content: What of a file identifies it.
        read: Reads the files of one part.
    """

    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    content: Callable[[Path], np.ndarray]
    read: Callable[[Sequence[Path]], ImagesAndLabels]

    @property
    def digests(self) -> dict[str, str]:
        """Digest of each file."""
        return {**self.train, **self.test}

    def missing(self, folder: Path) -> list[str]:
        """Names of the files that are not in a folder."""
        return [name for name in self.digests if not (folder / name).is_file()]


def _make_cifar(
    folder: str,
    content: Callable[[Path], np.ndarray],
    train: Mapping[str, str],
    test: Mapping[str, str],
) -> Version:
    def read(paths: Sequence[Path]) -> ImagesAndLabels:
        return split_records([content(path) for path in paths])

    return Version(folder, train, test, content, read)


# MD5s are those of torchvision.datasets; the SHA-1s of CIFAR's binary versions, whose files
# torchvision does not know, are those of Apache MXNet, mxnet.gluon.data.vision.
VERSIONS = {
    "cifar10": (
        _make_cifar(
            "cifar-10-batches-py",
            partial(pickled_records, label_keys=("labels",)),
            {
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            },
            {"test_batch": "40351d587109b95175f43aff81a1287e"},
        ),
        _make_cifar(
            "cifar-10-batches-bin",
            partial(binary_records, num_labels=1),
            {
                "data_batch_1.bin": "aadd24acce27caa71bf4b10992e9e7b2d74c2540",
                "data_batch_2.bin": "c0ba65cce70568cd57b4e03e9ac8d2a5367c1795",
                "data_batch_3.bin": "1dd00a74ab1d17a6e7d73e185b69dbf31242f295",
                "data_batch_4.bin": "aab85764eb3584312d3c7f65fd2fd016e36a258e",
                "data_batch_5.bin": "26e2849e66a845b7f1e4614ae70f4889ae604628",
            },
            {"test_batch.bin": "67eb016db431130d61cd03c7ad570b013799c88c"},
        ),
    ),
    "cifar100": (
        _make_cifar(
            "cifar-100-python",
            partial(pickled_records, label_keys=("coarse_labels", "fine_labels")),
            {"train": "16019d7e3df5f24257cddd939b257f8d"},
            {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        ),
        _make_cifar(
            "cifar-100-binary",
            partial(binary_records, num_labels=2),
            {"train.bin": "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"},
            {"test.bin": "8fb6623e830365ff53cf14adec797474f5478006"},
        ),
    ),
    "svhn": (
        Version(
            "",
            {"train_32x32.mat": "e26dedcc434d2e4c54c9b2d4a06d8373"},
            {"test_32x32.mat": "eb5a983be6a315427106f1b164d9cef3"},
            raw_bytes,
            lambda paths: read_svhn(*paths),
        ),
    ),
    "stl10": (
        Version(
            "stl10_binary",
            {
                "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
                "train_y.bin": "5a34089d4802c674881badbb80307741",
            },
            {
                "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
                "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
            },
            raw_bytes,
            lambda paths: read_stl10(*paths),
        ),
    ),
}
