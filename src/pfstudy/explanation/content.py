"""What is known once networks are explained, as it is drawn and printed; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

Target = Literal["predicted", "true"]


@dataclass(frozen=True)
class Chosen:
    """A network that is to be explained.

    Attributes:
        name: What people know its variant by.
        seed: The seed of the run.
        directory: The run directory, with its weights.
    """

    name: str
    seed: int
    directory: Path


@dataclass(frozen=True)
class Explained:
    """A network on the chosen images.

    Attributes:
        chosen: Which one.
        block: The block whose output the maps are of, such as ``stage2.block1``.
        predicted_N: The class that it predicts for each image.
        probability_N: The probability that it gives that class.
        target_N: The class that the map is of.
        maps_NHW: Grad-CAM at the size of the images, scaled to run from 0 to 1 in each; 0
            everywhere where it is flat, as where nothing speaks for the class.
    """

    chosen: Chosen
    block: str
    predicted_N: np.ndarray
    probability_N: np.ndarray
    target_N: np.ndarray
    maps_NHW: np.ndarray


@dataclass(frozen=True)
class Explanations:
    """Several networks on the same test images.

    Attributes:
        target: Whether the maps are of the predicted or of the true class.
        indices: Which test images.
        images_NHWC: The images from 0 to 1, with 1 or 3 channels.
        labels_N: Their true classes.
        classes: What the classes are called.
        networks: The networks.
    """

    target: Target
    indices: Sequence[int]
    images_NHWC: np.ndarray
    labels_N: np.ndarray
    classes: Sequence[str]
    networks: Sequence[Explained]

    def as_data(self) -> dict[str, Any]:
        """What is known of every image and network, but for the maps, as plain data."""
        names = self.classes
        return {
            "target": self.target,
            "images": [
                {"index": index, "label": names[label]}
                for index, label in zip(self.indices, self.labels_N, strict=True)
            ],
            "networks": [
                {
                    "variant": network.chosen.name,
                    "seed": network.chosen.seed,
                    "directory": str(network.chosen.directory),
                    "block": network.block,
                    "predictions": [
                        {
                            "index": index,
                            "predicted": names[network.predicted_N[i]],
                            "probability": float(network.probability_N[i]),
                            "is_correct": bool(network.predicted_N[i] == self.labels_N[i]),
                            "explained": names[network.target_N[i]],
                            "is_flat": not network.maps_NHW[i].any(),
                        }
                        for i, index in enumerate(self.indices)
                    ],
                }
                for network in self.networks
            ],
        }
