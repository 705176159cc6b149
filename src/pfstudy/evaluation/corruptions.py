"""Common corruptions (Hendrycks and Dietterich 2019), by the package imagecorruptions.

What is drawn at random depends on the image's number, the corruption and the severity alone, so
that all networks see the same corrupted images.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any
from zlib import crc32

import numpy as np
import torch
from PIL import Image

from pfstudy.errors import PfstudyError
from pfstudy.evaluation.results import LEAST_SIDE

_OF_ANY_SIZE = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "brightness", "contrast"),  # of each pixel
    *("pixelate", "jpeg_compression"),  # in parts of the side, and in blocks of 8 pixels
)
_SEEDED = ("impulse_noise", "glass_blur")  # these draw from generators of their own


def corrupt(image_HWC: np.ndarray, name: str, severity: int, index: int) -> np.ndarray:
    """Corrupt an image.

    Noise, brightness, contrast, pixelate and JPEG mean the same at any size. The others reach as
    many pixels as they do in large images, and are made for 32 at least: smaller images are
    enlarged, each pixel to a square of pixels, corrupted, and made small again by taking the mean
    of each square.

    Args:
        image_HWC: uint8 of 1 or 3 channels; a grey one is corrupted as one of three equal channels,
            whose second one is returned: their mean would have less noise.
        name: Of `pfstudy.evaluation.cases.CORRUPTIONS`.
        severity: From 1 to 5.
        index: The number of the image, from which the seed follows.

    Returns:
        An image of the same shape, uint8.
    """
    height, width, channels = image_HWC.shape
    times = 1 if name in _OF_ANY_SIZE else -(-LEAST_SIDE // min(height, width, LEAST_SIDE))
    large = image_HWC.repeat(times, 0).repeat(times, 1).repeat(3 // channels, 2)
    seed = crc32(f"{name} {severity} {index}".encode())
    options = {"seed": seed} if name in _SEEDED else {}
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        corrupted = np.uint8(_functions()[name](Image.fromarray(large), severity, **options))
    finally:
        np.random.set_state(before)
    squares = corrupted.reshape(height, times, width, times, 3)
    small: np.ndarray = squares.mean((1, 3)).round().astype(np.uint8)
    return small if channels == 3 else small[..., 1:2]


class Corruptor:
    """Corrupts batches in processes of its own; a context manager, which ends them.

    Args:
        num_processes: How many.

    Raises:
        PfstudyError: The package cannot be imported.
    """

    def __init__(self, num_processes: int) -> None:
        self.num_processes = num_processes
        corrupt(np.zeros((LEAST_SIDE, LEAST_SIDE, 1), np.uint8), "glass_blur", 1, 0)  # compiles it
        # forked, or each would import and compile it by itself; none of them touches torch
        self._executor = ProcessPoolExecutor(num_processes, get_context("fork"), _prepare)

    def __enter__(self) -> Corruptor:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown(cancel_futures=True)

    def corrupt(
        self, pixels_NCHW: torch.Tensor, first: int, name: str, severity: int
    ) -> torch.Tensor:
        """Corrupt a batch.

        Args:
            pixels_NCHW: Values from 0 to 1, which are rounded to bytes.
            first: The number of its first image.
            name: As for `corrupt`.
            severity: As for `corrupt`.

        Raises:
            PfstudyError: The images are neither grey nor of three colours.
        """
        if pixels_NCHW.shape[1] not in (1, 3):
            raise PfstudyError(
                "corruptions are made for images of 1 or 3 channels, but these have "
                f"{pixels_NCHW.shape[1]}."
            )
        bytes_NHWC = pixels_NCHW.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        share = -(-len(bytes_NHWC) // self.num_processes)
        parts = [
            self._executor.submit(
                _corrupt_all, bytes_NHWC[start : start + share], first + start, name, severity
            )
            for start in range(0, len(bytes_NHWC), share)
        ]
        corrupted_NHWC = torch.from_numpy(np.concatenate([part.result() for part in parts]))
        return corrupted_NHWC.to(pixels_NCHW.device).permute(0, 3, 1, 2).float().div(255)


def count_processes(num_workers: int | None) -> int:
    """How many processes corrupt images: as many as read them, or one for each core."""
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, num_workers or cores))


def _corrupt_all(images_NHWC: np.ndarray, first: int, name: str, severity: int) -> np.ndarray:
    numbered = enumerate(images_NHWC, first)
    return np.stack([corrupt(image, name, severity, number) for number, image in numbered])


def _functions() -> Mapping[str, Any]:
    try:
        from imagecorruptions import corruption_dict
    except ImportError as error:  # OpenCV, too, may lack a library of the system
        raise PfstudyError(f"imagecorruptions cannot be imported: {error}.") from None
    functions: Mapping[str, Any] = corruption_dict
    return functions


def _prepare() -> None:
    """Let a process end when it is asked to, and compute on one core."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import cv2

    cv2.setNumThreads(0)
