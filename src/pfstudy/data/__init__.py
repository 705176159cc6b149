"""Datasets: what identifies them, and their images.

A source is a module with a function ``fingerprint(data)``, which needs neither torch nor
scikit-learn. One whose images fit into memory also has ``load(data)``, which returns `Arrays`; the
folders of images are listed, and their files read when they are needed. Since folders were
identified by names and sizes before, their module has ``identify(data)`` and
``older_fingerprint(data)``, too.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.identity import FOLDERS as FOLDERS
from pfstudy.identity import REPLACES_KEY, RULES, Content, rules_of
from pfstudy.schema.config import Data

if TYPE_CHECKING:
    import numpy as np

SOURCES = {
    "cifar10": "pfstudy.data.published",
    "cifar100": "pfstudy.data.published",
    "digits": "pfstudy.data.digits",
    "imagefolder": "pfstudy.data.imagefolder",
    "imagenet": "pfstudy.data.imagefolder",
    "npz": "pfstudy.data.npz",
    "stl10": "pfstudy.data.published",
    "svhn": "pfstudy.data.published",
    "synthetic": "pfstudy.data.synthetic",
}


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
    """What the module of a dataset offers."""

    def fingerprint(self, data: Data) -> str:
        """Identify the content, wherever it lies."""

    def load(self, data: Data) -> Arrays:
        """Read the images, if they fit into memory."""


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
        PfstudyError: There is no such dataset, or its file or folder cannot be read.
    """
    return find_source(data.name).fingerprint(data)


def identify(data: Data) -> Content:
    """Identify the content of a dataset by the rules of today and by older ones.

    Raises:
        PfstudyError: As `fingerprint`.
    """
    source = find_source(data.name)
    if data.name in FOLDERS:
        found: Content = source.identify(data)  # type: ignore[attr-defined]
        return found
    return Content(source.fingerprint(data))


def glance(data: Data) -> Content:
    """Identify a dataset without reading it where that takes long: a folder by the older rule.

    Raises:
        PfstudyError: As `fingerprint`.
    """
    if data.name not in FOLDERS:
        return identify(data)
    source = find_source(data.name)
    return Content(source.older_fingerprint(data))  # type: ignore[attr-defined]


def recognise(data: Data, identity: Mapping[str, Any]) -> Content:
    """Identify a dataset that was identified when a run was prepared.

    Images in folders are not read again, by every process of every run: their names and sizes are
    compared with those of then.

    Args:
        data: The dataset.
        identity: As the run's config holds it.

    Raises:
        PfstudyError: As `fingerprint`.
    """
    if REPLACES_KEY not in identity and rules_of(identity) >= RULES:
        return identify(data)  # its names and sizes were not written
    seen = glance(data)
    written = identity["canonical"]["data"]["fingerprint"]
    is_same = identity.get(REPLACES_KEY, {}).get(seen.fingerprint) == written
    return Content(written, seen.fingerprint) if is_same else seen


def count_readers(data: Data) -> int:
    """Count the processes that read the images of a folder: none but this one where it is 0."""
    return min(data.num_workers or 0, len(os.sched_getaffinity(0)))


def require_number(data: Data, key: str, why: str = "") -> int:
    """Value of a number that not every dataset needs.

    Args:
        data: The dataset.
        key: Which number.
        why: What it is needed for.

    Raises:
        PfstudyError: It is not set.
    """
    value: int | None = getattr(data, key)
    if value is None:
        reason = f": {why}" if why else ""
        raise PfstudyError(f"data={data.name} needs data.{key}=NUMBER{reason}.")
    return value
