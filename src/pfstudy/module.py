"""The LightningModule that trains a classifier."""

from __future__ import annotations

import math
from typing import Any

import lightning as L  # noqa: N812
import torch
from torch import nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from pfstudy.errors import DivergedError
from pfstudy.schema.recipe import Recipe

Batch = tuple[torch.Tensor, torch.Tensor]


class Classifier(L.LightningModule):
    """Trains a network by a recipe; keeps the figures of each epoch on the device until its end.

    Args:
        network: ``(N, C, H, W) -> (N, num_classes)``.
        recipe: How to train it.
        num_classes: Number of classes.
        steps_per_epoch: Number of steps of the optimizer in an epoch.
        num_parts: Number of batches whose gradients make up a step.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        num_classes: int,
        steps_per_epoch: int,
        num_parts: int = 1,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.num_parts = num_parts
        self.accuracies = accuracies(num_classes)
        self.loss = MeanMetric()
        self.train_loss_sum: torch.Tensor
        self.register_buffer("train_loss_sum", torch.zeros(()))
        self.evaluated: dict[str, float] = {}
        self.logits: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.network(x_NCHW)
        return logits

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """Cross entropy with label smoothing; nothing is copied to the host."""
        images, labels = batch
        loss = functional.cross_entropy(
            self.network(images), labels, label_smoothing=self.recipe.label_smoothing
        )
        self.train_loss_sum += loss.detach()
        return loss

    def take_train_loss(self) -> float:
        """Mean training loss since the last call."""
        mean = float(self.train_loss_sum) / (self.steps_per_epoch * self.num_parts)
        self.train_loss_sum.zero_()
        return mean

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        """Accumulate accuracy and cross entropy."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_index: int) -> None:
        """Accumulate accuracy and cross entropy, and keep logits and labels."""
        self.logits.append(self._evaluate(batch))
        self.labels.append(batch[1])

    def on_validation_epoch_end(self) -> None:
        """Compute the figures of the validation split."""
        self.evaluated |= self._computed("val")

    def on_test_epoch_end(self) -> None:
        """Compute the figures of the test split."""
        self.evaluated |= self._computed("test")

    def configure_optimizers(self) -> Any:
        """SGD with Nesterov momentum; the learning rate changes at every step."""
        recipe = self.recipe
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )
        num_steps = recipe.epochs * self.steps_per_epoch
        num_warmup = min(int(recipe.warmup_epochs * self.steps_per_epoch), num_steps - 1)
        schedule: torch.optim.lr_scheduler.LRScheduler
        if recipe.schedule == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                max_lr=recipe.lr,
                total_steps=num_steps + 1,
                pct_start=num_warmup / num_steps,
                cycle_momentum=False,
            )
        else:
            schedule = torch.optim.lr_scheduler.LambdaLR(
                optimizer, lambda step: cosine_with_warmup(step, num_steps, num_warmup)
            )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _evaluate(self, batch: Batch) -> torch.Tensor:
        images, labels = batch
        logits: torch.Tensor = self.network(images).float()
        self.accuracies.update(logits, labels)
        self.loss.update(functional.cross_entropy(logits, labels), weight=len(labels))
        return logits.detach()

    def _computed(self, split: str) -> dict[str, float]:
        figures = {
            f"{split}_{name}_percent": 100 * float(value)
            for name, value in self.accuracies.compute().items()
        }
        figures[f"{split}_loss"] = float(self.loss.compute())
        self.accuracies.reset()
        self.loss.reset()
        return figures


def accuracies(num_classes: int) -> MetricCollection:
    """Top-1 and top-5 accuracy over all images, as shares; top-5 of fewer classes is of all."""
    metrics = {
        "top1": MulticlassAccuracy(num_classes, average="micro"),
        "top5": MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro"),
    }
    return MetricCollection(dict(metrics), compute_groups=False)


def cosine_with_warmup(step: int, num_steps: int, num_warmup: int) -> float:
    r"""Share of the largest learning rate at a step.

    Rises linearly over the warm-up, then falls as :math:`(1 + \cos \pi t) / 2` (Loshchilov and
    Hutter 2017, without restarts) and reaches 0 behind the last step.
    """
    if step < num_warmup:
        return (step + 1) / (num_warmup + 1)
    progress = (step - num_warmup) / max(1, num_steps - num_warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def check_finite(loss: float, epoch: int) -> None:
    """Stop a run that diverged.

    Raises:
        DivergedError: The loss is not finite.
    """
    if not math.isfinite(loss):
        raise DivergedError(
            f"the training loss became {loss} in epoch {epoch}; lower recipe.lr or lengthen "
            "recipe.warmup_epochs."
        )
