"""Batches of any dataset: from tensors on the device, or from files as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from pfstudy.data import FOLDERS, imagefolder
from pfstudy.data.tensors import Batches, EpochOrder, load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data


class Loader(Protocol):
    """Batches of one part of a dataset: images ``(N, C, H, W)`` and labels ``(N,)``."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]: ...

    def close(self) -> None:
        """End the processes that it may have."""


@dataclass(frozen=True)
class Loaders:
    """Batches of every part of a dataset; as a context manager, ends their processes at its end.

    Attributes:
        train: In an order drawn anew for every epoch, without the last, incomplete batch.
        validation: In a fixed order, all of them.
        test: In a fixed order, all of them.
    """

    train: Loader
    validation: Loader
    test: Loader

    def __enter__(self) -> Loaders:
        return self

    def __exit__(self, *_: object) -> None:
        for loader in (self.train, self.validation, self.test):
            loader.close()


def make_loaders(
    data: Data,
    batch_size: int,
    evaluation_batch_size: int,
    order_seed: int,
    augmentation_seed: int,
    device: torch.device,
) -> Loaders:
    """Open a dataset for training.

    Args:
        data: The dataset.
        batch_size: Images per training batch.
        evaluation_batch_size: Images per batch of validation and test.
        order_seed: Seed of the order of the training images, the same for every variant.
        augmentation_seed: Seed of what is done at random to training images.
        device: Where batches are put.

    Raises:
        PfstudyError: The dataset cannot be read, is not what the config says, or has not enough
            training images for one batch.
    """
    if data.name in FOLDERS:
        from pfstudy.data.images import ImageBatches

        images = imagefolder.list_splits(data)
        num_train = len(images["train"])
        check_batch_size(batch_size, num_train)
        order = EpochOrder(num_train, order_seed)
        return Loaders(
            ImageBatches(
                images["train"], data, batch_size, device, order, augmentation_seed, persistent=True
            ),
            ImageBatches(
                images["validation"], data, evaluation_batch_size, device, persistent=True
            ),
            ImageBatches(images["test"], data, evaluation_batch_size, device),
        )
    splits = {name: split.to(device) for name, split in load_splits(data).items()}
    num_train = len(splits["train"])
    check_batch_size(batch_size, num_train)
    return Loaders(
        Batches(splits["train"], batch_size, EpochOrder(num_train, order_seed)),
        Batches(splits["validation"], evaluation_batch_size),
        Batches(splits["test"], evaluation_batch_size),
    )


def open_test(data: Data, batch_size: int, device: torch.device) -> Loader:
    """Open the test images of a dataset, which may be all that is there of a folder.

    Raises:
        PfstudyError: They cannot be read or are not what the config says.
    """
    if data.name in FOLDERS:
        from pfstudy.data.images import ImageBatches

        return ImageBatches(imagefolder.list_test(data), data, batch_size, device)
    return Batches(load_splits(data)["test"].to(device), batch_size)


def count_training_images(data: Data) -> int:
    """Check a dataset and count its training images; of a folder, one image alone is read.

    Raises:
        PfstudyError: The dataset cannot be read or is not what the config says.
    """
    if data.name in FOLDERS:
        from pfstudy.data.images import make_transform, read_image

        images = imagefolder.list_splits(data)["train"]
        make_transform(data, training=False)(read_image(images.path(0), data.channels))
        return len(images)
    return len(load_splits(data)["train"])


def check_batch_size(batch_size: int, num_train: int) -> None:
    """Check that there are enough images for a batch.

    Raises:
        PfstudyError: There are not.
    """
    if batch_size > num_train:
        raise PfstudyError(
            f"recipe.batch_size is {batch_size}, but there are only {num_train} training images."
        )
