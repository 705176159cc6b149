"""Random images of any size, for measuring speed and for smoke runs."""

from __future__ import annotations

import numpy as np

from pfstudy.data import Arrays
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data


def fingerprint(data: Data) -> str:
    """Everything that the images are drawn from stands in the config but their number."""
    return f"synthetic-{data.num_train}"


def load(data: Data) -> Arrays:
    """Draw standard normal images and uniform labels from ``data.split_seed``.

    Raises:
        PfstudyError: ``data.num_train`` is not set.
    """
    if data.num_train is None:
        raise PfstudyError("data=synthetic needs data.num_train=NUMBER.")
    sizes = {"train": data.num_train, "validation": data.num_validation, "test": data.num_test}
    total = sum(sizes.values())
    generator = np.random.default_rng(data.split_seed)
    shape = (total, data.channels, data.image_size, data.image_size)
    return Arrays(
        generator.standard_normal(shape, dtype=np.float32),
        generator.integers(data.num_classes, size=total),
        np.repeat(list(sizes), list(sizes.values())),
    )
