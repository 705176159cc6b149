"""Small data as tensors on the device, and batches of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch.nn import functional

from pfstudy.data import Arrays, find_source, require_number
from pfstudy.data.augment import augments, cut_out, draw, gather
from pfstudy.data.order import Batch, BatchIndices, Resumable
from pfstudy.data.splitting import SPLITS, hold_out, split_heap
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation


@dataclass(frozen=True)
class Split:
    """One part of a dataset, as it is stored; normalised where it is needed.

    Attributes:
        stored_NCHW: uint8 where the source has that, else float32.
        labels_N: int64.
        mean_C11: Mean of each channel, of the training images unless the config gives one.
        std_C11: Its standard deviation, likewise.
    """

    stored_NCHW: torch.Tensor
    labels_N: torch.Tensor
    mean_C11: torch.Tensor
    std_C11: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels_N)

    @property
    def images_NCHW(self) -> torch.Tensor:  # noqa: N802  (a shape suffix)
        """All images, normalised: float32."""
        return self.normalise(self.stored_NCHW)

    def normalise(self, stored_NCHW: torch.Tensor) -> torch.Tensor:
        """Make images of the values that are stored: float32 with mean 0 and variance 1."""
        return torch.sub(stored_NCHW, self.mean_C11).div_(self.std_C11)

    def select(self, indices: torch.Tensor) -> Split:
        """Some of the images."""
        stored, labels = self.stored_NCHW[indices], self.labels_N[indices]
        return Split(stored, labels, self.mean_C11, self.std_C11)

    def to(self, device: torch.device) -> Split:
        """Copy to a device."""
        return Split(*(getattr(self, field.name).to(device) for field in fields(self)))


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
    stored_NCHW = torch.from_numpy(np.ascontiguousarray(arrays.images_NCHW))
    most = 255 if stored_NCHW.dtype == torch.uint8 else 1
    size = (data.image_size, data.image_size)
    if stored_NCHW.shape[-2:] != size:
        stored_NCHW = functional.interpolate(
            stored_NCHW.float(), size, mode="bilinear", antialias=True, align_corners=False
        )
    elif stored_NCHW.dtype != torch.uint8:
        stored_NCHW = stored_NCHW.float()
    labels_N = torch.from_numpy(arrays.labels_N)
    if data.mean is not None and data.std is not None:
        mean, std = (most * torch.tensor(per).view(-1, 1, 1) for per in (data.mean, data.std))
    else:
        train_NCHW = stored_NCHW[members["train"]].float()
        mean = train_NCHW.mean(dim=(0, 2, 3))[:, None, None]
        std = train_NCHW.std(dim=(0, 2, 3))[:, None, None].clamp_min(1e-6)
    return {
        name: Split(stored_NCHW[members[name]], labels_N[members[name]], mean, std)
        for name in SPLITS
    }


class Batches(Resumable):
    """Batches of a split that lies on the device: no workers, no copies to the device.

    Args:
        split: The images.
        indices: Which of them each batch holds.
        augmentation: What is done to them at random, if their order is drawn.
        seed: Seed of that; the epoch adds to it.
    """

    def __init__(
        self,
        split: Split,
        indices: BatchIndices,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(indices)
        self.split = split
        self.augmentation = augmentation or Augmentation()
        self.seed = seed

    def __iter__(self) -> Iterator[Batch]:
        return self._count(self._batches())

    def close(self) -> None:
        """There is nothing to end."""

    def _batches(self) -> Iterator[Batch]:
        split, order = self.split, self.sampler
        stored, labels = split.stored_NCHW, split.labels_N
        if order is None:
            share, size = self.indices.share, self.indices.batch_size
            own = slice(share.rank, None, share.num_ranks)
            for images, some in zip(stored[own].split(size), labels[own].split(size), strict=True):
                yield split.normalise(images), some
            return
        batches = list(self.indices)
        if not batches:
            return
        taken = torch.stack(batches).to(stored.device)
        if not augments(self.augmentation):
            for chosen in taken % len(split) if order.repeats > 1 else taken:
                yield split.normalise(stored[chosen]), labels[chosen]
            return
        number, (height, width) = order.repeats * len(split), stored.shape[-2:]
        seed = self.seed + order.epoch
        draws = draw(self.augmentation, number, (height, width), seed).to(stored.device)
        for chosen in taken:
            of_batch, index = draws.at(chosen), chosen % len(split)
            images = split.normalise(gather(stored, index, of_batch))
            if self.augmentation.cutout:
                cut_out(images, self.augmentation.cutout, of_batch)
            yield images, labels[index]


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
    members = {name: np.flatnonzero(arrays.split == name) for name in SPLITS}
    if not len(members["validation"]):
        number = require_number(data, "num_validation", "it has no validation images of its own")
        train = members["train"]
        rest, held_out = hold_out(arrays.labels_N[train], number, data)
        members |= {"train": train[rest], "validation": train[held_out]}
    return members
