"""What is done to images of files before they are a batch: timm's transforms, and their seeds."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

Transform = Callable[[Image.Image], torch.Tensor]
_RANDOM_AUGMENT = re.compile(
    r"rand(-((m|n|mmax)\d+|(p|mstd)\d+(\.\d+)?|inc[01]|t(weights|3aw?)))*", re.ASCII
)


def make_transform(
    data: Data, augmentation: Augmentation | None = None, *, training: bool
) -> Transform:
    """Make what turns an image into a tensor ``(C, H, W)`` of uint8.

    In training, a random part of the image is resized and flipped at random (Szegedy et al. 2015,
    section 6, with timm's defaults), and what else the augmentation says is done by timm; in
    evaluation, the shorter side is resized to ``image_size / crop_fraction`` and the centre is
    taken.

    Raises:
        PfstudyError: A setting is missing, does not fit the number of channels, or is malformed.
    """
    for key in ("crop_fraction", "interpolation"):
        if getattr(data, key) is None:
            raise PfstudyError(f"data={data.name} needs data.{key}.")
    mean, _ = normalisation(data)
    augmentation = augmentation or Augmentation()
    _check(augmentation)
    from timm.data import create_transform

    transform: Transform = create_transform(
        (augmentation.train_image_size if training else None) or data.image_size,
        is_training=training,
        scale=augmentation.crop_scale,
        hflip=0.0 if augmentation.flip is False else 0.5,
        color_jitter=augmentation.color_jitter,
        auto_augment=augmentation.random_augment,
        interpolation=data.interpolation,
        mean=mean,  # fills what RandAugment moves out of sight
        crop_pct=data.crop_fraction,
        normalize=False,
    )
    if training and augmentation.random_augment:
        _mend_posterize(transform)
        transform = _seed_numpy(transform)
    return transform


def _check(augmentation: Augmentation) -> None:
    """Find settings that timm would take for something else, or leave out."""
    scale, random_augment = augmentation.crop_scale, augmentation.random_augment
    if scale is not None and not scale[0] <= scale[1] <= 1:
        raise PfstudyError(
            f"recipe.augmentation.crop_scale is {list(scale)}; expected the least and the greatest "
            "share of the area, such as [0.08,1]."
        )
    if random_augment is None:
        return
    if not _RANDOM_AUGMENT.fullmatch(random_augment):
        raise PfstudyError(
            f"recipe.augmentation.random_augment is {random_augment!r}; expected what timm takes, "
            "such as rand-m9-mstd0.5-inc1."
        )
    if augmentation.color_jitter is not None:
        raise PfstudyError(
            "recipe.augmentation has random_augment and color_jitter, but timm leaves the latter "
            "out beside the former; set one of them to null."
        )


def normalisation(data: Data) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel.

    Raises:
        PfstudyError: They are missing or do not fit the number of channels.
    """
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


@contextmanager
def seeded(seed: str) -> Iterator[None]:
    """Seed the generators that transforms draw from, and leave them as they were."""
    python, torchs = random.getstate(), torch.get_rng_state()
    random.seed(seed)
    torch.default_generator.manual_seed(random.getrandbits(63))
    try:
        yield
    finally:
        random.setstate(python)
        torch.set_rng_state(torchs)


def _seed_numpy(transform: Transform) -> Transform:
    """Have NumPy's generator, from which RandAugment draws operations, depend on Python's."""

    def apply(image: Image.Image) -> torch.Tensor:
        before = np.random.get_state()
        np.random.seed(random.getrandbits(32))
        try:
            return transform(image)
        finally:
            np.random.set_state(before)

    return apply


def _mend_posterize(transform: Any) -> None:
    """Have 0 bits, which timm asks for at the greatest magnitude, make an image black again.

    Pillow made it so before version 13, which refuses 0 bits.
    """
    for step in transform.transforms:
        for operation in getattr(step, "ops", ()):
            if operation.name.startswith("Posterize"):
                operation.aug_fn = partial(_posterize, operation.aug_fn)


def _posterize(
    posterize: Callable[..., Image.Image], image: Image.Image, bits: int, **fill: Any
) -> Image.Image:
    return posterize(image, bits, **fill) if bits > 0 else Image.new(image.mode, image.size)
