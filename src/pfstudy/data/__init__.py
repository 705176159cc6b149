"""Datasets: what identifies them, and their images.

A source has a function ``fingerprint(data)``, which needs neither torch nor scikit-learn, and a
function ``load(data)``, which returns `Arrays`. Sources are modules of this package, named like
the dataset.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from pfstudy.errors import unknown_name
from pfstudy.schema.config import Data

if TYPE_CHECKING:
    import numpy as np

SOURCES = {name: f"pfstudy.data.{name}" for name in ("digits", "npz", "synthetic")}


@dataclass(frozen=True)
class Arrays:
    """Images and labels as they come from a source.

    Attributes:
        images_NCHW: Any real dtype.
        labels_N: Class of each image, from 0.
        split: Name of the part that each image belongs to by nature (``train``, ``validation``,
            ``test``), or ``None`` for a source that is one heap and is split here.
    """

    images_NCHW: np.ndarray
    labels_N: np.ndarray
    split: np.ndarray | None = None


class Source(Protocol):
    """What a module of a dataset offers."""

    def fingerprint(self, data: Data) -> str:
        """Identify the content, wherever it lies."""

    def load(self, data: Data) -> Arrays:
        """Read the images."""


def find_source(name: str) -> Source:
    """Look a dataset up.

    Raises:
        PfstudyError: There is none of that name; lists the choices.
    """
    if name not in SOURCES:
        raise unknown_name("dataset", name, SOURCES)
    return cast(Source, importlib.import_module(SOURCES[name]))


def fingerprint(data: Data) -> str:
    """Identify the content of a dataset, wherever it lies.

    Raises:
        PfstudyError: There is no such dataset, or its file cannot be read.
    """
    return find_source(data.name).fingerprint(data)
