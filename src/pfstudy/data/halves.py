"""Training images in two parts: one to train weights on, one to train an architecture on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from pfstudy.data import FOLDERS, imagefolder
from pfstudy.data.loading import Loader, check_augmentation
from pfstudy.data.order import Batch, BatchIndices, EpochOrder
from pfstudy.data.splitting import hold_out
from pfstudy.data.tensors import Batches, load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

if TYPE_CHECKING:
    from pfstudy.data.images import ImageBatches

    Part = Batches | ImageBatches


class Pairs:
    """Batches of the first part, each with one of the second, which begins anew where it ends.

    Args:
        first: Batches of the first part; they make an epoch, which can be gone on with.
        second: Batches of the second part.
    """

    batch_sampler = None  # Lightning looks at it and at `sampler` for the epoch to set

    def __init__(self, first: Part, second: Part) -> None:
        self._first, self._second = first, second
        self.sampler = self

    def __len__(self) -> int:
        return len(self._first)

    def __iter__(self) -> Iterator[tuple[Batch, Batch]]:
        self._second.indices.first = self._first.indices.first % len(self._second)
        return zip(self._first, _again_and_again(self._second), strict=False)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it before each."""
        for part in (self._first, self._second):
            assert part.sampler is not None
            part.sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        """How many pairs of the epoch were taken."""
        return self._first.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin behind the pairs that were taken."""
        self._first.load_state_dict(state)

    def close(self) -> None:
        """End the processes that the parts may have."""
        self._first.close()
        self._second.close()


def _again_and_again(batches: Part) -> Iterator[Batch]:
    while True:
        yield from batches


def open_halves(
    data: Data,
    second_share: float,
    batch_size: int,
    seed: int,
    augmentation_seed: int,
    device: torch.device,
    augmentation: Augmentation | None = None,
) -> tuple[Pairs, Loader]:
    """Open a dataset for a bilevel search; its test images are left alone.

    Args:
        data: The dataset.
        second_share: Share of the training images in the second part; every class has it.
        batch_size: Images per batch of either part.
        seed: Seed of the order of the images of each part.
        augmentation_seed: Seed of what is done at random to them.
        device: Where batches are put.
        augmentation: What is done at random to the images of both.

    Returns:
        Pairs of batches of the two parts, and the batches of the validation split.

    Raises:
        PfstudyError: The dataset cannot be read, a part has not enough images for a batch, or the
            augmentation is none of such data.
    """
    augmentation = augmentation or Augmentation()
    check_augmentation(data, augmentation)
    evaluation = max(256, batch_size)
    parts: list[Part] = []
    if data.name in FOLDERS:
        from pfstudy.data.images import ImageBatches

        images = imagefolder.list_splits(data)
        for number, members in enumerate(_divide(images["train"].labels_N, second_share, data)):
            chosen = images["train"].select(members)
            indices = _drawn(len(chosen), batch_size, seed + number, augmentation.repeats)
            parts.append(
                ImageBatches(
                    chosen, data, indices, device, augmentation_seed, augmentation, persistent=True
                )
            )
        validation = images["validation"]
        all_of = BatchIndices(len(validation), evaluation)
        return Pairs(*parts), ImageBatches(validation, data, all_of, device, persistent=True)
    splits = {name: split.to(device) for name, split in load_splits(data).items()}
    train = splits["train"]
    for number, members in enumerate(_divide(train.labels_N.cpu().numpy(), second_share, data)):
        half = train.select(torch.from_numpy(members))
        indices = _drawn(len(half), batch_size, seed + number, augmentation.repeats)
        parts.append(Batches(half, indices, augmentation, augmentation_seed))
    held = splits["validation"]
    return Pairs(*parts), Batches(held, BatchIndices(len(held), evaluation))


def _divide(labels_N: np.ndarray, second_share: float, data: Data) -> tuple[np.ndarray, np.ndarray]:
    return hold_out(labels_N, round(second_share * len(labels_N)), data)


def _drawn(num_images: int, batch_size: int, seed: int, repeats: int) -> BatchIndices:
    if batch_size > num_images:
        raise PfstudyError(
            f"recipe.batch_size is {batch_size}, but a part of the training images has only "
            f"{num_images}; lower it, or change search.arch_share."
        )
    return BatchIndices(num_images, batch_size, EpochOrder(num_images, seed, repeats))
