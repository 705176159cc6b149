"""Random images of any size, for measuring speed and for smoke runs."""

from __future__ import annotations

import numpy as np

from pfstudy.data import Arrays, require_number
from pfstudy.data.splitting import SPLITS
from pfstudy.schema.config import Data


def fingerprint(data: Data) -> str:
    """Everything that the images are drawn from stands in the config but their number."""
    return f"synthetic-{data.num_train}"


def load(data: Data) -> Arrays:
    """Draw standard normal images and uniform labels from ``data.split_seed``.

    Raises:
        PfstudyError: A number of images is not set.
    """
    sizes = {name: require_number(data, f"num_{name}") for name in SPLITS}
    total = sum(sizes.values())
    generator = np.random.default_rng(data.split_seed)
    shape = (total, data.channels, data.image_size, data.image_size)
    return Arrays(
        generator.standard_normal(shape, dtype=np.float32),
        generator.integers(data.num_classes, size=total),
        np.repeat(list(sizes), list(sizes.values())),
    )
