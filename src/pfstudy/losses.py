"""What a network is trained to do: mixed images, their targets, the loss, a teacher."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.data import Mixup
from timm.data.random_erasing import RandomErasing
from timm.loss import BinaryCrossEntropy
from torch.nn import functional

from pfstudy.data.order import Batch
from pfstudy.errors import PfstudyError
from pfstudy.schema.recipe import Recipe

Network = Callable[[torch.Tensor], torch.Tensor]

_TARGET_THRESHOLD = 0.2  # of mixed targets (Wightman et al. 2021, Sec. 3.1)


class Objective:
    """The loss of a recipe on a batch; draws from the generators of Python and NumPy.

    Args:
        recipe: What is asked for.
        num_classes: Number of classes.
        teacher: Whom to learn from besides, ``(N, C, H, W) -> (N, num_classes)``.
    """

    def __init__(self, recipe: Recipe, num_classes: int, teacher: Network | None = None) -> None:
        wanted = recipe.augmentation
        self.recipe = recipe
        self.teacher = teacher
        self._mixup = None
        if wanted.mixes:
            self._mixup = Mixup(
                mixup_alpha=wanted.mixup or 0.0,
                cutmix_alpha=wanted.cutmix or 0.0,
                prob=wanted.mixup_probability,
                label_smoothing=recipe.label_smoothing,
                num_classes=num_classes,
            )
        self._binary = None
        if recipe.loss == "binary_cross_entropy":
            self._binary = BinaryCrossEntropy(recipe.label_smoothing, _TARGET_THRESHOLD)

    def prepare(self, batch: Batch) -> Batch:
        """Erase parts of images and mix images, which are changed, and their targets.

        Returns:
            Images and targets, which are classes ``(N,)`` or, of mixed images, shares of the
            classes ``(N, num_classes)``.
        """
        images, labels = batch
        probability = self.recipe.augmentation.random_erasing
        if probability:
            images = RandomErasing(probability, mode="pixel", device=images.device)(images)
        if self._mixup is not None:
            images, labels = self._mixup(images, labels)
        return images, labels

    def loss(self, network: Network, batch: Batch) -> torch.Tensor:
        """Compute the loss of a network on a batch, a scalar; nothing is copied to the host."""
        images, targets = self.prepare(batch)
        logits = network(images)
        loss = self.of_targets(logits, targets)
        if self.teacher is None:
            return loss
        with torch.no_grad():
            taught = self.teacher(images)
        weight = self.recipe.distillation_weight
        return (1 - weight) * loss + weight * self.of_teacher(logits, taught)

    def of_targets(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy, over the classes together or each for itself."""
        if self._binary is not None:
            loss: torch.Tensor = self._binary(logits, targets)
            return loss
        if targets.dim() > 1:  # was smoothed when it was mixed
            return functional.cross_entropy(logits, targets)
        smoothing = self.recipe.label_smoothing
        return functional.cross_entropy(logits, targets, label_smoothing=smoothing)

    def of_teacher(self, logits: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        r"""Divergence from a teacher, or cross entropy with what it would answer.

        Soft: :math:`T^2 \, \mathrm{KL}(\mathrm{softmax}(t / T) \,\|\, \mathrm{softmax}(s / T))`
        (Hinton et al. 2015); hard: the teacher's first class as target (Touvron et al. 2021).
        """
        if self.recipe.distillation == "hard":
            return functional.cross_entropy(logits, taught.argmax(1))
        temperature = self.recipe.distillation_temperature
        divergence = functional.kl_div(
            functional.log_softmax(logits / temperature, dim=1),
            functional.log_softmax(taught / temperature, dim=1),
            reduction="batchmean",
            log_target=True,
        )
        return temperature**2 * divergence


def check_objective(recipe: Recipe, num_images: int) -> None:
    """Check what a recipe says of its loss.

    Args:
        recipe: The recipe.
        num_images: Images of a batch that one device takes at a time.

    Raises:
        PfstudyError: It asks for what cannot be.
    """
    if recipe.augmentation.mixes and num_images % 2:
        raise PfstudyError(
            f"mixup and cutmix mix pairs, but a device takes {num_images} images at a time; choose "
            "an even number with recipe.batch_size."
        )
