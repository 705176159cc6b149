"""Splits by class, so that every part has the same share of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pfstudy.data import require_number
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.words import counted

SPLITS = ("train", "validation", "test")


def split_heap(
    labels_N: np.ndarray, data: Data, classes: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Split one heap into ``train``, ``validation`` and ``test``, the same way for every variant.

    Args:
        labels_N: Class of each image.
        data: Says how many images to hold out, and with which seed.
        classes: What the classes are called in errors.

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
        _name_smallest(labels_N, 3, error, data, classes)
        raise PfstudyError(
            f"data {data.name} cannot be split into {num_test} test, {num_validation} "
            f"validation and some training images: {_sentence(error)}."
        ) from None
    return {"train": np.sort(train), "validation": np.sort(validation), "test": np.sort(test)}


def hold_out(
    labels_N: np.ndarray, number: int, data: Data, classes: Sequence[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Hold a number of images out for validation.

    Args:
        labels_N: Class of each training image.
        number: How many to hold out.
        data: The dataset.
        classes: What the classes are called in errors.

    Returns:
        Indices of the images that are left for training and of those held out, ascending.

    Raises:
        PfstudyError: There are not enough images.
    """
    try:
        train, held_out = _divide(np.arange(len(labels_N)), labels_N, number, data.split_seed)
    except ValueError as error:
        _name_smallest(labels_N, 2, error, data, classes)
        raise PfstudyError(
            f"data {data.name}: {number} validation images cannot be held out of the "
            f"{len(labels_N)} training images: {_sentence(error)}."
        ) from None
    return np.sort(train), np.sort(held_out)


def _name_smallest(
    labels_N: np.ndarray,
    num_parts: int,
    error: ValueError,
    data: Data,
    classes: Sequence[str] | None,
) -> None:
    """Name the smallest class and a cure, if a split failed because of it.

    Raises:
        PfstudyError: It did.
    """
    numbers, counts = np.unique(labels_N, return_counts=True)
    smallest = int(counts.argmin())
    if counts[smallest] >= num_parts and "least populated" not in str(error):
        return
    label, count = int(numbers[smallest]), int(counts[smallest])
    name = f"class {classes[label]!r}" if classes else f"class {label}"
    parts = "train, validation and test" if num_parts == 3 else "train and validation"
    cure = f"remove the class and set data.num_classes={data.num_classes - 1}"
    if classes is not None and num_parts == 3:
        cure += ", or lay the images out as train/ and val/ and set data.num_test=null"
    raise PfstudyError(
        f"data {data.name}: {name} has {counted(count, 'image')}, too few for a split into "
        f"{parts}, each of which needs one or more: add images, or {cure}."
    )


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
