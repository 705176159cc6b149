"""Images that are read from files when a batch needs them, by processes of their own.

What a batch holds depends on the seeds, the epoch and the files alone, not on the number of
processes.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from pfstudy.data import count_readers
from pfstudy.data.decoding import MOST_BITS, decode_image
from pfstudy.data.imagefolder import Images
from pfstudy.data.order import UNREAD, Batch, BatchIndices, Resumable
from pfstudy.data.transforms import Transform, make_transform, normalisation, seeded
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

_Read = tuple[torch.Tensor, torch.Tensor, dict[str, str]]
_MAX_STAND_INS = 100


class ImageBatches(Resumable):
    """Batches of images in files, normalised on the device.

    Args:
        images: The files and their labels.
        data: Size, channels and treatment of the images.
        indices: Which of them each batch holds; in an order that is drawn, images are cropped and
            flipped at random, else their centres are taken.
        device: Where batches are put.
        augmentation_seed: Seed of what is done at random to an image; epoch and image add to it.
        augmentation: What is done at random, if their order is drawn.
        persistent: Keeps the processes from one pass to the next; `close` ends them.

    Attributes:
        skipped: Why each of the files that were met and could not be read was skipped. In training
            the next one stands in for it; elsewhere an image of zeros, whose label is -1.

    Raises:
        PfstudyError: A setting is missing or does not fit the number of channels.
    """

    def __init__(
        self,
        images: Images,
        data: Data,
        indices: BatchIndices,
        device: torch.device,
        augmentation_seed: int = 0,
        augmentation: Augmentation | None = None,
        persistent: bool = False,
    ) -> None:
        super().__init__(indices)
        self.device = device
        self.skipped: dict[str, str] = {}
        mean, std = normalisation(data)
        self._mean_C11 = torch.tensor(mean, device=device).view(-1, 1, 1)
        self._std_C11 = torch.tensor(std, device=device).view(-1, 1, 1)
        self._pass: Generator[Batch, None, None] | None = None
        num_workers = count_readers(data)
        self._loader: DataLoader[Any] | None = DataLoader(
            _Files(images, data, augmentation, training=indices.order is not None),
            batch_size=None,  # a request is a batch
            sampler=_Requests(indices, augmentation_seed),
            num_workers=num_workers,
            collate_fn=_as_it_is,
            pin_memory=device.type == "cuda",
            multiprocessing_context="fork" if num_workers else None,
            persistent_workers=persistent and num_workers > 0,
            worker_init_fn=_ignore_stop,
            generator=torch.Generator(),  # or the global one would advance
        )

    def __iter__(self) -> Iterator[Batch]:
        self._pass = self._count(self._batches())
        return self._pass

    def state_dict(self) -> dict[str, Any]:
        """How many batches of the epoch were taken, and what was skipped on the way."""
        skipped = {"skipped": dict(self.skipped)} if self.skipped else {}
        return super().state_dict() | skipped

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Have the next pass begin behind the batches that were taken."""
        super().load_state_dict(state)
        self.skipped.update(state.get("skipped", {}))

    def close(self) -> None:
        """End the processes that read the images; there are no more batches then.

        Left to the garbage collector, each of them would be waited for in vain, for 5 s.
        """
        if self._pass is not None:
            self._pass.close()  # somebody may still hold it, half read
        self._loader = self._pass = None

    def _batches(self) -> Iterator[Batch]:
        assert self._loader is not None
        for batch in self._loader:  # not a variable, which the traceback of an error would keep
            if isinstance(batch, PfstudyError):
                raise batch
            images, labels, skipped = batch
            self.skipped.update(skipped)
            images = images.to(self.device, non_blocking=True).float().div_(255)
            yield (
                images.sub_(self._mean_C11).div_(self._std_C11),
                labels.to(self.device, non_blocking=True),
            )


def read_first(images: Images, data: Data) -> torch.Tensor:
    """Read one image as evaluations do, to see that it can be done.

    Raises:
        PfstudyError: It cannot, or a setting is missing or does not fit.
    """
    found = _Files(images, data, training=True, transform=make_transform(data, training=False))
    batch = found[[0], ""]
    if isinstance(batch, PfstudyError):
        raise batch
    return batch[0]


class _Requests:
    """What the processes are asked for in an epoch: the images of a batch, and their seed."""

    def __init__(self, indices: BatchIndices, seed: int) -> None:
        self.indices = indices
        self.seed = seed

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[list[int], str]]:
        order = self.indices.order
        seed = "" if order is None else f"{self.seed} {order.epoch}"
        for index in self.indices:
            yield index.tolist(), seed


class _Files(Dataset[Any]):
    """Batches as one process reads them, and what it skipped; or an error instead.

    An error that is raised there would arrive with the process's traceback in its sentence.
    """

    def __init__(
        self,
        images: Images,
        data: Data,
        augmentation: Augmentation | None = None,
        *,
        training: bool,
        transform: Transform | None = None,
    ) -> None:
        self.images = images
        self.data = data
        self.training = training
        self.transform = transform or make_transform(data, augmentation, training=training)

    def __getitem__(self, request: tuple[list[int], str]) -> _Read | PfstudyError:
        numbers, seed = request
        skipped: dict[str, str] = {}
        try:
            found = [self._read(number, seed, skipped) for number in numbers]
        except PfstudyError as error:
            return error
        pixels, labels = zip(*found, strict=True)
        return torch.stack(pixels), torch.tensor(labels), skipped

    def _read(self, number: int, seed: str, skipped: dict[str, str]) -> tuple[torch.Tensor, int]:
        repeat, first = divmod(number, len(self.images))
        for index in range(first, first + _MAX_STAND_INS):
            chosen = index % len(self.images)
            try:
                image = self._decode(chosen)
            except PfstudyError as error:
                if self.data.on_error != "skip":
                    raise
                skipped[str(self.images.path(chosen))] = str(error)
                if not self.training:
                    side = self.data.image_size
                    return torch.zeros(self.data.channels, side, side, dtype=torch.uint8), UNREAD
                continue
            with seeded(f"{seed} {chosen + repeat * len(self.images)}"):
                return self.transform(image), int(self.images.labels_N[chosen])
        raise PfstudyError(
            f"none of the {_MAX_STAND_INS} images from {self.images.path(first)} on can be read: "
            f"{next(iter(skipped.values()))}"
        )

    def _decode(self, index: int) -> Image.Image:
        content = self.images.read(index)
        return decode_image(
            content,
            self.images.path(index),
            self.data.channels,
            self.data.background or "white",
            self.data.bit_depth or MOST_BITS,
        )


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_stop(number: int) -> None:
    """Have a process go on when its whole group is asked to stop: a run needs it to end well."""
    del number
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
