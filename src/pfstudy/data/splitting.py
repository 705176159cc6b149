"""Splits by class, so that every part has the same share of each."""

from __future__ import annotations

import numpy as np

from pfstudy.data import require_number
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

SPLITS = ("train", "validation", "test")


def split_heap(labels_N: np.ndarray, data: Data) -> dict[str, np.ndarray]:
    """Split one heap into ``train``, ``validation`` and ``test``, the same way for every variant.

    Args:
        labels_N: Class of each image.
        data: Says how many images to hold out, and with which seed.

    Returns:
        Indices of the images of each part, ascending.

    Raises:
        PfstudyError: Numbers are missing, or there are not enough images.
    """
    num_test = require_number(data, "num_test")
    num_validation = require_number(data, "num_validation")
    everything = np.arange(len(labels_N))
    try:
        rest, test = _divide(everything, labels_N, num_test, data.split_seed)
        train, validation = _divide(rest, labels_N, num_validation, data.split_seed)
    except ValueError as error:
        raise PfstudyError(
            f"data {data.name} cannot be split into {num_test} test, {num_validation} "
            f"validation and some training images: {_sentence(error)}."
        ) from None
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def hold_out(labels_N: np.ndarray, number: int, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """Hold a number of images out for validation.

    Returns:
        Indices of the images that are left for training and of those held out, ascending.

    Raises:
        PfstudyError: There are not enough images.
    """
    try:
        train, held_out = _divide(np.arange(len(labels_N)), labels_N, number, data.split_seed)
    except ValueError as error:
        raise PfstudyError(
            f"data {data.name}: {number} validation images cannot be held out of the "
            f"{len(labels_N)} training images: {_sentence(error)}."
        ) from None
    return np.sort(train), np.sort(held_out)


def _divide(
    chosen: np.ndarray, labels_N: np.ndarray, number: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.model_selection import train_test_split

    rest, held_out = train_test_split(
        chosen, test_size=number, stratify=labels_N[chosen], random_state=seed
    )
    return rest, held_out


def _sentence(error: ValueError) -> str:
    return str(error).strip().rstrip(".")
