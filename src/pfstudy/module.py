"""The LightningModule that trains a classifier."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning as L  # noqa: N812
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional
from torchmetrics import MeanMetric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from pfstudy.data.order import UNREAD, Batch
from pfstudy.errors import DivergedError
from pfstudy.losses import Network, Objective
from pfstudy.optimization import make_optimizer, make_schedule
from pfstudy.schema.recipe import Recipe


class Classifier(L.LightningModule):
    """Trains a network by a recipe; keeps the figures of each epoch on the device until its end.

    Args:
        network: ``(N, C, H, W) -> (N, num_classes)``.
        recipe: How to train it.
        num_classes: Number of classes.
        steps_per_epoch: Number of steps of the optimizer in an epoch.
        num_parts: Number of batches whose gradients make up a step.
        teacher: Whom to learn from besides, as the network.
        compile_mode: Mode of ``torch.compile``; ``None`` trains eagerly.

    Attributes:
        average: The moving average of the network, if the recipe asks for it.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        num_classes: int,
        steps_per_epoch: int,
        num_parts: int = 1,
        teacher: Network | None = None,
        compile_mode: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.steps_per_epoch = steps_per_epoch
        self.num_parts = num_parts
        self.objective = Objective(recipe, num_classes, teacher)
        # the function, as a second module would have its tensors in the state twice
        self._compiled = torch.compile(network.forward, mode=compile_mode) if compile_mode else None
        self.average: ModelEmaV3 | None = None
        if recipe.ema_decay is not None:
            self.average = ModelEmaV3(network, recipe.ema_decay, use_warmup=True)
            self.average.requires_grad_(False)
        self.accuracies = accuracies(num_classes)
        self.loss = MeanMetric()
        self.train_losses: torch.Tensor  # of this epoch's batches, as far as they are done
        num_batches = steps_per_epoch * num_parts
        self.register_buffer("train_losses", torch.zeros(num_batches))
        self.evaluated: dict[str, float] = {}
        self.logits: list[torch.Tensor] = []
        self.labels: list[torch.Tensor] = []

    @property
    def evaluated_network(self) -> nn.Module:
        """What is validated, tested and kept: the moving average if there is one."""
        return self.network if self.average is None else self.average.module

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.network(x_NCHW)
        return logits

    def training_step(self, batch: Batch, batch_index: int) -> torch.Tensor:
        """The loss of the recipe; nothing is copied to the host."""
        loss = self.objective.loss(self._compiled or self.network, batch)
        self.train_losses[batch_index] = loss.detach()
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Have the moving average follow a step of the optimizer."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update(self.network, step=self.global_step + 1)  # counted later

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
        """The recipe's optimizer; the learning rate changes at every step."""
        optimizer = make_optimizer(self.network, self.recipe)
        schedule = make_schedule(optimizer, self.recipe, self.steps_per_epoch)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _evaluate(self, batch: Batch) -> torch.Tensor:
        images, labels = batch
        logits: torch.Tensor = self.evaluated_network(images).float()
        self.accuracies.update(logits, labels)
        loss = functional.cross_entropy(logits, labels, ignore_index=UNREAD, reduction="none")
        self.loss.update(loss, weight=(labels != UNREAD).float())
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
    """Top-1 and top-5 accuracy over all images, as shares; top-5 of fewer classes is of all.

    Images that could not be read do not count.
    """

    def metric(top_k: int) -> MulticlassAccuracy:
        return MulticlassAccuracy(
            num_classes, top_k, average="micro", ignore_index=UNREAD, validate_args=False
        )

    metrics = {"top1": metric(1), "top5": metric(min(5, num_classes))}
    return MetricCollection(dict(metrics), compute_groups=False)


def find_divergence(losses: Sequence[Sequence[float]], num_parts: int) -> int | None:
    """Find the first step, from 1, at which a loss is not finite.

    Args:
        losses: Of each process, in the order of its batches.
        num_parts: Number of batches of a step.
    """
    for batch, of_ranks in enumerate(zip(*losses, strict=True)):
        if not all(map(math.isfinite, of_ranks)):
            return batch // num_parts + 1
    return None


def diverged(epoch: int, step: int) -> DivergedError:
    """Make the error of a run that diverged in an epoch at one of its steps, both from 1."""
    return DivergedError(
        f"the training loss became NaN or infinite in epoch {epoch} at step {step}; lower "
        "recipe.lr, lengthen recipe.warmup_epochs, or set recipe.clip_norm."
    )
