"""Images that are read from files when a batch needs them, by processes of their own.

What a batch holds depends on the seeds, the epoch and the files alone, not on the number of
processes.
"""

from __future__ import annotations

import io
import os
import random
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import DataLoader, Dataset

from pfstudy.data.imagefolder import Images
from pfstudy.data.tensors import Batch, BatchIndices, Resumable
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

_Transform = Callable[[Image.Image], torch.Tensor]


class ImageBatches(Resumable):
    """Batches of images in files, normalised on the device.

    Args:
        images: The files and their labels.
        data: Size, channels and treatment of the images.
        indices: Which of them each batch holds; in an order that is drawn, images are cropped and
            flipped at random, else their centres are taken.
        device: Where batches are put.
        augmentation_seed: Seed of what is done at random to an image; epoch and image add to it.
        persistent: Keeps the processes from one pass to the next; `close` ends them.

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
        persistent: bool = False,
    ) -> None:
        super().__init__(indices)
        self.device = device
        mean, std = _normalisation(data)
        self._mean_C11 = torch.tensor(mean, device=device).view(-1, 1, 1)
        self._std_C11 = torch.tensor(std, device=device).view(-1, 1, 1)
        self._pass: Generator[Batch, None, None] | None = None
        transform = make_transform(data, training=indices.order is not None)
        num_workers = min(data.num_workers or 0, len(os.sched_getaffinity(0)))
        self._loader: DataLoader[Any] | None = DataLoader(
            _Files(images, transform, data.channels),
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
            images, labels = batch
            images = images.to(self.device, non_blocking=True).float().div_(255)
            yield (
                images.sub_(self._mean_C11).div_(self._std_C11),
                labels.to(self.device, non_blocking=True),
            )


def read_image(path: Path, channels: int) -> Image.Image:
    """Read a file as a grey (1 channel) or a colour image (3), whatever it was.

    Raises:
        PfstudyError: It cannot be read, is no image, or has pixels that do not fit 8 or 16 bits.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        image: Image.Image = Image.open(io.BytesIO(content))
        image.load()
    except UnidentifiedImageError:
        raise PfstudyError(f"{path} is no image that Pillow knows; remove or replace it.") from None
    except Exception as error:  # decoders raise whatever they like
        raise PfstudyError(f"{path} cannot be decoded: {error}; remove or replace it.") from None
    if image.mode in ("I", "F"):
        raise PfstudyError(f"{path} has pixels of 32 bits; expected 8 or 16, convert it.")
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("L" if channels == 1 else "RGB")


def make_transform(data: Data, *, training: bool) -> _Transform:
    """Make what turns an image into a tensor ``(C, H, W)`` of uint8.

    In training, a random part of the image is resized and flipped at random (Szegedy et al. 2015,
    section 6, with timm's defaults); in evaluation, the shorter side is resized to
    ``image_size / crop_fraction`` and the centre is taken.

    Raises:
        PfstudyError: A setting is missing or does not fit the number of channels.
    """
    for key in ("crop_fraction", "interpolation"):
        if getattr(data, key) is None:
            raise PfstudyError(f"data={data.name} needs data.{key}.")
    _normalisation(data)
    from timm.data import create_transform

    transform: _Transform = create_transform(
        data.image_size,
        is_training=training,
        interpolation=data.interpolation,
        crop_pct=data.crop_fraction,
        color_jitter=None,
        auto_augment=None,
        normalize=False,
    )
    return transform


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
    """Batches as one process reads them; a file that it cannot read makes the batch an error.

    An error that is raised there would arrive with the process's traceback in its sentence.
    """

    def __init__(self, images: Images, transform: _Transform, channels: int) -> None:
        self.images = images
        self.transform = transform
        self.channels = channels

    def __getitem__(self, request: tuple[list[int], str]) -> Batch | PfstudyError:
        indices, seed = request
        try:
            pixels = [self._read(index, seed) for index in indices]
        except PfstudyError as error:
            return error
        return torch.stack(pixels), torch.from_numpy(self.images.labels_N[indices])

    def _read(self, index: int, seed: str) -> torch.Tensor:
        image = read_image(self.images.path(index), self.channels)
        with _seeded(f"{seed} {index}"):
            return self.transform(image)


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seed the generators that transforms draw from, and leave them as they were."""
    python, torchs = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.default_generator.manual_seed(random.getrandbits(63))
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torchs)


def _normalisation(data: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if data.channels not in (1, 3):
        raise PfstudyError(f"data.channels is {data.channels}, but image files have 1 or 3.")
    for key in ("mean", "std"):
        values = getattr(data, key)
        if values is None:
            raise PfstudyError(f"data={data.name} needs data.{key}, a value for each channel.")
        if len(values) != data.channels:
            example = "; grey images may take mean=[0.449] and std=[0.226]"
            raise PfstudyError(
                f"data.{key} has {len(values)} values, but data.channels is {data.channels}"
                f"{example if data.channels == 1 else ''}."
            )
    assert data.mean is not None
    assert data.std is not None
    return data.mean, data.std


def _as_it_is(batch: Any) -> Any:
    return batch


def _ignore_stop(number: int) -> None:
    """Have a process go on when its whole group is asked to stop: a run needs it to end well."""
    del number
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
