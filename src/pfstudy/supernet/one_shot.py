"""The LightningModule that trains the paths of a supernet, and how one of them is judged."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from pfstudy.data.order import Batch
from pfstudy.module import Classifier, accuracies
from pfstudy.schema.recipe import Recipe
from pfstudy.space import Choice
from pfstudy.supernet.network import Supernet, batch_norms


class OneShotTraining(Classifier):
    """Trains shared weights: every batch goes through one path, drawn uniformly (Guo et al. 2020).

    Args:
        supernet: The paths, ``(N, C, H, W) -> (N, num_classes)``.
        recipe: How to train it; its epochs are those of the search.
        num_classes: Number of classes.
        steps_per_epoch: Number of steps in an epoch.
        num_sites: Number of sites that are searched.
        num_operations: Number of operations at each.
    """

    def __init__(
        self,
        supernet: Supernet,
        recipe: Recipe,
        num_classes: int,
        steps_per_epoch: int,
        *,
        num_sites: int,
        num_operations: int,
    ) -> None:
        super().__init__(supernet, recipe, num_classes, steps_per_epoch)
        self.num_sites = num_sites
        self.num_operations = num_operations

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Cross entropy of one path."""
        assert isinstance(self.network, Supernet)
        drawn = torch.randint(self.num_operations, (self.num_sites,)).tolist()
        self.network.take(tuple(drawn))
        return super().training_step(batch, batch_index)


@torch.no_grad()
def evaluate_path(
    supernet: Supernet,
    choice: Choice,
    calibration: Sequence[Batch],
    validation: Iterable[Batch],
    num_classes: int,
) -> float:
    """Evaluate one path with the shared weights.

    Its batch norms see some batches anew first: statistics over other paths are not this one's
    (Guo et al. 2020, Sec. 3.4).

    Args:
        supernet: The paths; left in evaluation mode, with the statistics of this one.
        choice: The path.
        calibration: Training batches.
        validation: What it is evaluated on.
        num_classes: Number of classes.

    Returns:
        Top-1 accuracy in percent.
    """
    supernet.take(choice)
    supernet.eval()
    for norm in batch_norms(supernet):
        norm.reset_running_stats()
        norm.momentum = None  # all batches count alike
        norm.train()
    for images, _ in calibration:
        supernet(images)
    supernet.eval()
    metric = accuracies(num_classes)
    for images, labels in validation:
        metric.to(images.device).update(supernet(images).float(), labels)
    return 100 * float(metric.compute()["top1"])
