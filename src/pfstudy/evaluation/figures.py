"""Figures over all test images, batch by batch: accuracy, cross entropy, calibration, per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassCalibrationError

from pfstudy.evaluation.results import NUM_BINS
from pfstudy.module import accuracies


class Figures(Protocol):
    """Takes what a network says of batches, and computes figures of all of them."""

    def update(self, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Take a batch."""

    def compute(self) -> Any:
        """Compute the figures."""


class Top1:
    """Top-1 in percent."""

    def __init__(self) -> None:
        self._num_correct: Any = 0  # stays on the device
        self._num_images = 0

    def update(self, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Take a batch."""
        self._num_correct += (logits_NK.argmax(1) == labels_N).sum()
        self._num_images += len(labels_N)

    def compute(self) -> float:
        """Top-1 in percent."""
        return 100 * int(self._num_correct) / self._num_images


class CleanFigures:
    """Everything that is known of a network on images as they are.

    Args:
        classes: What the classes are called.
        device: Where logits are.
    """

    def __init__(self, classes: Sequence[str], device: torch.device) -> None:
        self.classes = tuple(classes)
        num_classes = len(self.classes)
        self._accuracies = accuracies(num_classes).to(device)
        self._loss = MeanMetric().to(device)
        self._brier = MeanMetric().to(device)
        self._calibration = MulticlassCalibrationError(num_classes, NUM_BINS, "l1").to(device)
        self._labels: list[torch.Tensor] = []
        self._predicted: list[torch.Tensor] = []

    def update(self, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> None:
        """Take a batch."""
        if not len(labels_N):
            return
        probability_NK = logits_NK.softmax(1)
        self._accuracies.update(logits_NK, labels_N)
        number = len(labels_N)
        self._loss.update(functional.cross_entropy(logits_NK, labels_N), weight=number)
        self._brier.update(brier_score(probability_NK, labels_N), weight=number)
        self._calibration.update(probability_NK, labels_N)
        self._labels.append(labels_N.cpu())
        self._predicted.append(logits_NK.argmax(1).cpu())

    def compute(self) -> dict[str, Any]:
        """Compute the figures.

        Returns:
            ``top1_percent``, ``top5_percent``, ``loss`` (cross entropy), ``ece_percent``,
            ``brier``, ``num_images``, and ``per_class``, as `count_per_class`.
        """
        labels_N, predicted_N = (torch.cat(p).numpy() for p in (self._labels, self._predicted))
        return {
            **{f"{n}_percent": 100 * float(v) for n, v in self._accuracies.compute().items()},
            "loss": float(self._loss.compute()),
            "ece_percent": 100 * float(self._calibration.compute()),
            "brier": float(self._brier.compute()),
            "num_images": len(labels_N),
            "per_class": count_per_class(labels_N, predicted_N, self.classes),
        }


def brier_score(probability_NK: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    r"""Mean over images of :math:`\sum_k (p_k - y_k)^2` (Brier 1950); from 0, the best, to 2."""
    truth_NK = functional.one_hot(labels_N, probability_NK.shape[1])
    return (probability_NK - truth_NK).square().sum(1).mean()


def count_per_class(
    labels_N: np.ndarray, predicted_N: np.ndarray, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Count how many images each class has, how many are right, and what others are taken for.

    Returns:
        For each class ``class``, ``num_images``, ``top1_percent`` (``None`` without images),
        ``confused_with``, the class that its images are most often taken for in error, and
        ``num_confused``, how often.
    """
    found = []
    for label, name in enumerate(classes):
        votes = np.bincount(predicted_N[labels_N == label], minlength=len(classes))
        total, correct = int(votes.sum()), int(votes[label])
        votes[label] = 0
        num_confused = int(votes.max())
        found.append(
            {
                "class": name,
                "num_images": total,
                "top1_percent": 100 * correct / total if total else None,
                "confused_with": classes[int(votes.argmax())] if num_confused else None,
                "num_confused": num_confused,
            }
        )
    return found
