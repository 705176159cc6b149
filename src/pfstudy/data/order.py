"""Which images every batch holds: in what order, in whose share, from where on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch

from pfstudy.errors import PfstudyError

Batch = tuple[torch.Tensor, torch.Tensor]

UNREAD = -1
"""Label of an image that could not be read."""


class EpochOrder:
    """The order of the training images in each epoch, the same for every variant of one seed.

    Args:
        num_images: Number of images.
        seed: Of the order.
        repeats: How often an image stands in an epoch, one behind the other; the epoch is as long
            as ever, so not all images do (Hoffer et al. 2020).
    """

    def __init__(self, num_images: int, seed: int, repeats: int = 1) -> None:
        self.num_images = num_images
        self.seed = seed
        self.repeats = repeats
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls it before each."""
        self.epoch = epoch

    def draw(self) -> torch.Tensor:
        """What stands in this epoch: ``n + r * num_images`` for image ``n`` the ``r``-th time."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        order = torch.randperm(self.num_images, generator=generator)
        if self.repeats == 1:
            return order
        times = self.num_images * torch.arange(self.repeats)
        return (order[:, None] + times).flatten()[: self.num_images]


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of every batch, and in how many parts.

    Attributes:
        rank: Which of the processes it is.
        num_ranks: Number of processes.
        num_parts: Number of steps by which the gradient of a batch is accumulated.
    """

    rank: int = 0
    num_ranks: int = 1
    num_parts: int = 1


class BatchIndices:
    """Which images every batch holds, the same however many processes share it.

    Args:
        num_images: Number of images.
        batch_size: Images per batch, over all processes and parts.
        order: Drawn anew for every epoch, whose last, incomplete batch is left out; ``None`` for
            the order of the images themselves, and all of them.
        share: What this process takes; in the order of the images themselves every
            ``num_ranks``-th one, in batches of its own.

    Attributes:
        first: Where the next pass begins, and only that one.

    Raises:
        PfstudyError: A batch cannot be divided evenly, or a process would have no image.
    """

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        order: EpochOrder | None = None,
        share: Share | None = None,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.order = order
        self.share = share or Share()
        self.first = 0
        if order is not None:
            check_share(batch_size, self.share)
        elif num_images < self.share.num_ranks:
            images = "1 image" if num_images == 1 else f"{num_images} images"
            raise PfstudyError(
                f"{images} cannot be shared by {self.share.num_ranks} devices; take fewer devices, "
                "or more images for validation and test."
            )

    def __len__(self) -> int:
        if self.order is None:
            return -(-len(self._own()) // self.batch_size)
        return self.num_images // self.batch_size * self.share.num_parts

    def __iter__(self) -> Iterator[torch.Tensor]:
        first, self.first = self.first, 0
        yield from self._batches()[first:]

    def _own(self) -> range:
        return range(self.share.rank, self.num_images, self.share.num_ranks)

    def _batches(self) -> tuple[torch.Tensor, ...]:
        if self.order is None:
            return torch.split(torch.tensor(self._own()), self.batch_size)
        num_steps = self.num_images // self.batch_size
        chosen = self.order.draw()[: num_steps * self.batch_size]
        parts = chosen.view(num_steps * self.share.num_parts, self.share.num_ranks, -1)
        return torch.unbind(parts[:, self.share.rank])


class Resumable:
    """Batches that can be gone on with in the middle of an epoch.

    Args:
        indices: Which images each batch holds.
    """

    def __init__(self, indices: BatchIndices) -> None:
        self.indices = indices
        self.sampler = indices.order
        self.batch_sampler = None  # Lightning looks at both for the epoch to set
        self._num_taken = 0

    def __len__(self) -> int:
        return len(self.indices)

    def state_dict(self) -> dict[str, int]:
        """How many batches of the epoch were taken."""
        return {"num_taken": self._num_taken}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Have the next pass begin behind the batches that were taken."""
        self.indices.first = state["num_taken"] % len(self)

    def _count(self, batches: Iterator[Batch]) -> Generator[Batch, None, None]:
        self._num_taken = self.indices.first
        for batch in batches:
            self._num_taken += 1
            yield batch


def check_share(batch_size: int, share: Share) -> None:
    """Check that a batch can be divided evenly.

    Raises:
        PfstudyError: It cannot.
    """
    if batch_size % (share.num_ranks * share.num_parts):
        devices = "1 device" if share.num_ranks == 1 else f"{share.num_ranks} devices"
        parts = f" and {share.num_parts} parts" if share.num_parts > 1 else ""
        raise PfstudyError(
            f"recipe.batch_size is {batch_size}, which {devices}{parts} cannot share evenly; "
            "choose another size or number."
        )
