"""Folders of images for tests: real files, each of one grey that tells it apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfstudy.schema.config import Data

WriteFolder = Callable[[Mapping[str, int]], Path]
DescribeFolder = Callable[..., Data]


@pytest.fixture
def write_folder(tmp_path: Path) -> WriteFolder:
    """Write so many images into each folder; the grey of one is its number, counted over all."""
    written = 0

    def write(counts: Mapping[str, int]) -> Path:
        nonlocal written
        for folder, count in counts.items():
            (tmp_path / "images" / folder).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = np.full((9, 12), written, dtype=np.uint8)
                path = tmp_path / "images" / folder / f"{number:03d}.png"
                Image.fromarray(pixels).save(path)
                written += 1
        return tmp_path / "images"

    return write


@pytest.fixture
def describe_folder(write_folder: WriteFolder) -> DescribeFolder:
    """Write images and describe them: three channels of 8x8, pixels as they are in the files."""

    def describe(counts: Mapping[str, int], **fields: object) -> Data:
        root = write_folder(counts)
        classes = {folder.rpartition("/")[2] for folder in counts}
        settings = {"name": "imagefolder", "path": str(root), "image_size": 8, "channels": 3,
                    "num_classes": len(classes), "split_seed": 0, "crop_fraction": 0.875,
                    "interpolation": "bicubic", "mean": (0, 0, 0), "std": (1, 1, 1),
                    "num_workers": 0}  # fmt: skip
        return Data(**(settings | fields))  # type: ignore[arg-type]

    return describe
