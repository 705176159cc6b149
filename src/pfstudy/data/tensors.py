"""Small data as tensors on the device, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional

from pfstudy.data import Arrays, find_source
from pfstudy.data.splitting import SPLITS, split_heap
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data


@dataclass(frozen=True)
class Split:
    """One part of a dataset.

    Attributes:
        images_NCHW: float32, each channel with mean 0 and variance 1 over the training images.
        labels_N: int64.
    """

    images_NCHW: torch.Tensor
    labels_N: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    def to(self, device: torch.device) -> Split:
        """Copy to a device."""
        return Split(self.images_NCHW.to(device), self.labels_N.to(device))


def load_splits(data: Data) -> dict[str, Split]:
    """Read a dataset and split it: ``train``, ``validation`` and ``test``.

    A source that is one heap is split by class, so that every part has the same share of each,
    the same way for every variant and seed.

    Raises:
        PfstudyError: The dataset does not exist, cannot be read, or is not what the config says.
    """
    arrays = find_source(data.name).load(data)
    _check(arrays, data)
    members = _members(arrays, data)
    images_NCHW = torch.from_numpy(np.ascontiguousarray(arrays.images_NCHW, dtype=np.float32))
    size = (data.image_size, data.image_size)
    if images_NCHW.shape[-2:] != size:
        images_NCHW = functional.interpolate(
            images_NCHW, size, mode="bilinear", antialias=True, align_corners=False
        )
    labels_N = torch.from_numpy(arrays.labels_N)
    train_NCHW = images_NCHW[members["train"]]
    mean = train_NCHW.mean(dim=(0, 2, 3), keepdim=True)
    std = train_NCHW.std(dim=(0, 2, 3), keepdim=True).clamp_min(1e-6)
    images_NCHW = (images_NCHW - mean) / std
    return {name: Split(images_NCHW[members[name]], labels_N[members[name]]) for name in SPLITS}


class EpochOrder:
    """The order of the training images in each epoch, the same for every variant of one seed."""

    def __init__(self, num_images: int, seed: int) -> None:
        self.num_images = num_images
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it before each."""
        self.epoch = epoch

    def draw(self) -> torch.Tensor:
        """Permutation of the images in this epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return torch.randperm(self.num_images, generator=generator)


def count_batches(num_images: int, batch_size: int, order: EpochOrder | None) -> int:
    """Number of batches: all whole ones in an order that is drawn, else the last, smaller one too.

    Args:
        num_images: Number of images.
        batch_size: Images per batch.
        order: ``None`` for the order of the images themselves.
    """
    return -(-num_images // batch_size) if order is None else num_images // batch_size


class Batches:
    """Batches of a split that lies on the device: no workers, no copies to the device.

    Args:
        split: The images.
        batch_size: Images per batch.
        order: Shuffles every epoch and leaves out the last, incomplete batch; ``None`` keeps the
            order of the split and all of it.
    """

    def __init__(self, split: Split, batch_size: int, order: EpochOrder | None = None) -> None:
        self.split = split
        self.batch_size = batch_size
        self.sampler = order
        self.batch_sampler = None  # Lightning looks at both for the epoch to set

    def __len__(self) -> int:
        return count_batches(len(self.split), self.batch_size, self.sampler)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        images, labels = self.split.images_NCHW, self.split.labels_N
        if self.sampler is None:
            yield from zip(
                images.split(self.batch_size), labels.split(self.batch_size), strict=True
            )
            return
        chosen = self.sampler.draw()[: len(self) * self.batch_size].to(images.device)
        for index in chosen.split(self.batch_size):
            yield images[index], labels[index]

    def close(self) -> None:
        """There is nothing to end."""


def _check(arrays: Arrays, data: Data) -> None:
    channels, labels = arrays.images_NCHW.shape[1], arrays.labels_N
    if channels != data.channels:
        raise PfstudyError(
            f"data {data.name}: data.channels is {data.channels}, but the images have {channels}."
        )
    if not len(labels):
        raise PfstudyError(f"data {data.name} has no images.")
    if labels.min() < 0 or labels.max() >= data.num_classes:
        raise PfstudyError(
            f"data {data.name}: data.num_classes is {data.num_classes}, but the labels run from "
            f"{labels.min()} to {labels.max()}."
        )


def _members(arrays: Arrays, data: Data) -> dict[str, np.ndarray]:
    if arrays.split is None:
        return split_heap(arrays.labels_N, data)
    return {name: np.flatnonzero(arrays.split == name) for name in SPLITS}
