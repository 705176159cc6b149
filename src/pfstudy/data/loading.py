"""Batches of any dataset: from tensors on the device, or from files as they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from pfstudy.data import FOLDERS, imagefolder
from pfstudy.data.order import BatchIndices, EpochOrder, Share, check_share
from pfstudy.data.tensors import Batches, load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

_OF_FILES = ("crop_scale", "train_image_size", "random_augment", "color_jitter")
_ON_DEVICE = ("translate", "cutout")


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

    @property
    def skipped(self) -> dict[str, str]:
        """Why each of the image files that were met so far and cannot be read was skipped."""
        of_each = (
            getattr(part, "skipped", {}) for part in (self.train, self.validation, self.test)
        )
        return {path: reason for skipped in of_each for path, reason in skipped.items()}

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
    share: Share | None = None,
    augmentation: Augmentation | None = None,
) -> Loaders:
    """Open a dataset for training.

    Args:
        data: The dataset.
        batch_size: Images per training batch, over all processes and parts.
        evaluation_batch_size: Images per batch of validation and test.
        order_seed: Seed of the order of the training images, the same for every variant.
        augmentation_seed: Seed of what is done at random to training images.
        device: Where batches are put.
        share: What this process takes of every batch and split; all of it unless given.
        augmentation: What is done at random to training images.

    Raises:
        PfstudyError: The dataset cannot be read, is not what the config says, or has not enough
            training images for one batch, a batch cannot be shared evenly, or the augmentation is
            none of such data.
    """
    augmentation = augmentation or Augmentation()
    check_augmentation(data, augmentation)

    def all_of(num_images: int) -> BatchIndices:
        return BatchIndices(num_images, evaluation_batch_size, None, share)

    def drawn(num_images: int) -> BatchIndices:
        check_batch_size(batch_size, num_images)
        order = EpochOrder(num_images, order_seed, augmentation.repeats)
        return BatchIndices(num_images, batch_size, order, share)

    if data.name in FOLDERS:
        from pfstudy.data.images import ImageBatches

        images = imagefolder.list_splits(data)
        train, validation, test = (images[name] for name in ("train", "validation", "test"))
        return Loaders(
            ImageBatches(
                train,
                data,
                drawn(len(train)),
                device,
                augmentation_seed,
                augmentation,
                persistent=True,
            ),
            ImageBatches(validation, data, all_of(len(validation)), device, persistent=True),
            ImageBatches(test, data, all_of(len(test)), device),
        )
    splits = {name: split.to(device) for name, split in load_splits(data).items()}
    train_indices = drawn(len(splits["train"]))
    return Loaders(
        Batches(splits["train"], train_indices, augmentation, augmentation_seed),
        Batches(splits["validation"], all_of(len(splits["validation"]))),
        Batches(splits["test"], all_of(len(splits["test"]))),
    )


def open_test(data: Data, batch_size: int, device: torch.device) -> Loader:
    """Open the test images of a dataset, which may be all that is there of a folder.

    Raises:
        PfstudyError: They cannot be read or are not what the config says.
    """
    if data.name in FOLDERS:
        from pfstudy.data.images import ImageBatches

        images = imagefolder.list_test(data)
        return ImageBatches(images, data, BatchIndices(len(images), batch_size), device)
    split = load_splits(data)["test"].to(device)
    return Batches(split, BatchIndices(len(split), batch_size))


def count_training_images(data: Data) -> int:
    """Check a dataset and count its training images; of a folder, one image alone is read.

    Raises:
        PfstudyError: The dataset cannot be read or is not what the config says.
    """
    if data.name in FOLDERS:
        from pfstudy.data.images import read_first

        images = imagefolder.list_splits(data)["train"]
        read_first(images, data)
        return len(images)
    return len(load_splits(data)["train"])


def describe_pixels(data: Data) -> list[str]:
    """Say how unusual images of a folder are read, and which classes cannot be tested.

    Raises:
        PfstudyError: The folder is not what the config says, or its images would be read as black.
    """
    if data.name not in FOLDERS:
        return []
    from pfstudy.data.contents import check_contents

    notes = check_contents(imagefolder.inspect(data), data.bit_depth, data.background)
    images = imagefolder.list_test(data)
    lacking = imagefolder.name_lacking(images)
    if lacking:
        notes.append(f"{images.folder} has no images of {lacking}, whose accuracy stays unknown")
    return notes


def check_augmentation(data: Data, augmentation: Augmentation) -> None:
    """Check that what a recipe does at random to images can be done to such data.

    Raises:
        PfstudyError: It cannot, or a setting is malformed.
    """
    is_folder = data.name in FOLDERS
    for key in _ON_DEVICE if is_folder else _OF_FILES:
        if getattr(augmentation, key) is not None:
            wanted = "data that lie on the device" if is_folder else "folders of image files"
            raise PfstudyError(
                f"recipe.augmentation.{key} is for {wanted}, which data={data.name} is not; set "
                "it to null."
            )
    if is_folder:
        from pfstudy.data.transforms import make_transform

        make_transform(data, augmentation, training=True)


def check_batch_size(batch_size: int, num_train: int, num_ranks: int = 1) -> None:
    """Check that there are enough images for a batch, and that devices can share it evenly.

    Raises:
        PfstudyError: There are not, or they cannot.
    """
    check_share(batch_size, Share(num_ranks=num_ranks))
    if batch_size > num_train:
        raise PfstudyError(
            f"recipe.batch_size is {batch_size}, but there are only {num_train} training images."
        )
