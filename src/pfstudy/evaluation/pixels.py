"""Test images before normalisation, with values from 0 to 1, as corruptions and attacks need them.

Of data that are stored in bytes, 1 stands for 255; of other data, 0 and 1 for the least and the
greatest value of the test images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from pfstudy.data import FOLDERS, imagefolder
from pfstudy.data.loading import Loader, open_test
from pfstudy.data.tensors import Split, load_splits
from pfstudy.schema.config import Data


@dataclass(frozen=True)
class RawImages:
    """The test images of a dataset, in their fixed order.

    Attributes:
        mean_C11: What is subtracted of each channel, with values from 0 to 1, before a network.
        std_C11: What is divided by.
        classes: What the classes are called.
        source: The split, or what reads files.
        batch_size: Images per batch.
        low: The value that stands for 0.
        high: The value that stands for 1.
    """

    mean_C11: torch.Tensor
    std_C11: torch.Tensor
    classes: tuple[str, ...]
    source: Split | Loader
    batch_size: int
    low: float = 0
    high: float = 255

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        is_split = isinstance(self.source, Split)
        return -(-len(self.source) // self.batch_size) if is_split else len(self.source)

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Pass once over all images: pixels ``(N, C, H, W)`` from 0 to 1, and labels."""
        if isinstance(self.source, Split):
            stored = self.source.stored_NCHW.split(self.batch_size)
            for part, labels in zip(
                stored, self.source.labels_N.split(self.batch_size), strict=True
            ):
                yield (part.float() - self.low) / (self.high - self.low), labels
        else:
            for images, labels in self.source:
                pixels = images * self.std_C11 + self.mean_C11
                yield pixels.mul_(255).round_().div_(255), labels  # the bytes that were read

    def normalise(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Make what a network takes."""
        return (pixels_NCHW - self.mean_C11) / self.std_C11

    def describe(self) -> dict[str, Any]:
        """What is recorded of them."""
        return {"least_value": self.low, "greatest_value": self.high}

    def close(self) -> None:
        """End the processes that read files."""
        if not isinstance(self.source, Split):
            self.source.close()


def open_images(data: Data, batch_size: int, device: torch.device) -> RawImages:
    """Open the test images of a dataset.

    Raises:
        PfstudyError: They cannot be read or are not what the config says.
    """
    if data.name in FOLDERS:
        loader = open_test(data, batch_size, device)
        mean, std = (
            torch.tensor(values, device=device).view(-1, 1, 1) for values in (data.mean, data.std)
        )
        return RawImages(mean, std, imagefolder.list_test(data).classes, loader, batch_size)
    split = load_splits(data)["test"].to(device)
    low, high = 0.0, 255.0
    if split.stored_NCHW.dtype != torch.uint8:
        low, high = float(split.stored_NCHW.min()), float(split.stored_NCHW.max())
        high = max(high, low + 1e-6)
    classes = tuple(str(number) for number in range(data.num_classes))
    mean_C11, std_C11 = (split.mean_C11 - low) / (high - low), split.std_C11 / (high - low)
    return RawImages(mean_C11, std_C11, classes, split, batch_size, low, high)
