"""Optimizers and schedules of the learning rate, as a recipe asks for them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from torch import nn
from torch.optim import lr_scheduler

from pfstudy.errors import PfstudyError, first_line, unknown_name
from pfstudy.schema.recipe import Recipe

_OF_OPTIMIZERS = (TypeError, ValueError, RuntimeError, AssertionError, ImportError)
"""What optimizers raise that want another recipe, a GPU, or a package."""


def make_optimizer(network: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make the optimizer of a recipe, by timm; torch's own are fused.

    Args:
        network: What it trains.
        recipe: What is asked for; without ``decay_all``, tensors of one dimension and those that
            timm's models name are not decayed.

    Raises:
        PfstudyError: There is no such optimizer, or it does not take what the recipe says.
    """
    if recipe.optimizer not in list_optimizers():
        raise unknown_name("optimizer", recipe.optimizer, list_optimizers())
    options: dict[str, Any] = {"betas": recipe.betas, "eps": recipe.epsilon}
    options = {key: value for key, value in options.items() if value is not None}
    name = recipe.optimizer
    if name == "sgd" and not recipe.momentum:
        name = "momentum"  # as timm calls SGD without Nesterov's, which needs some
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    try:
        takes = inspect.signature(get_optimizer_class(name)).parameters
        # fused steps unscale by themselves what Lightning would have to clip in between
        if "fused" in takes and recipe.clip_norm is None:
            options["fused"] = True
        optimizer: torch.optim.Optimizer = create_optimizer_v2(
            weights if recipe.decay_all else network,
            name,
            lr=recipe.scaled_lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            **options,
        )
    except _OF_OPTIMIZERS as error:
        raise _unusable(recipe, error) from None
    if isinstance(optimizer, torch.optim.SGD) and recipe.momentum:
        for weight in weights:  # fused steps fail where some weights come to their first one late
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    return optimizer


def make_schedule(
    optimizer: torch.optim.Optimizer, recipe: Recipe, steps_per_epoch: int
) -> lr_scheduler.LRScheduler:
    """Make the schedule of a recipe, which changes the learning rate at every step."""
    num_steps = recipe.epochs * steps_per_epoch
    if recipe.schedule == "one_cycle":
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=recipe.scaled_lr,
            total_steps=num_steps + 1,
            pct_start=_num_warmup(recipe, steps_per_epoch) / num_steps,
            cycle_momentum=False,
        )
    return lr_scheduler.LambdaLR(optimizer, lambda step: lr_share(recipe, step, steps_per_epoch))


def lr_share(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    r"""Share of the largest learning rate at a step.

    Rises linearly over the warm-up. Then ``cosine`` falls as :math:`(1 + \cos \pi t) / 2`
    (Loshchilov and Hutter 2017, without restarts) and ``linear`` as :math:`1 - t`, to ``min_lr``
    behind the last step; ``step`` falls at every ``step_epochs`` of the epochs, warm-up included.
    """
    num_steps = recipe.epochs * steps_per_epoch
    num_warmup = _num_warmup(recipe, steps_per_epoch)
    if step < num_warmup:
        if recipe.warmup_lr is None:
            return (step + 1) / (num_warmup + 1)
        first = recipe.warmup_lr / recipe.scaled_lr
        return first + (1 - first) * step / num_warmup
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step":
        assert recipe.step_epochs is not None
        return float(recipe.step_factor ** (step // (recipe.step_epochs * steps_per_epoch)))
    progress = min(1.0, (step - num_warmup) / max(1, num_steps - num_warmup))
    falling = (
        1 - progress if recipe.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    )
    last = recipe.min_lr / recipe.scaled_lr
    return last + (1 - last) * falling


def check_optimization(recipe: Recipe) -> None:
    """Check that optimizer and schedule can be made.

    Raises:
        PfstudyError: They cannot.
    """
    network = nn.Linear(1, 1)
    optimizer = make_optimizer(network, recipe)
    network(torch.ones(1, 1)).square().sum().backward()
    try:
        optimizer.step()
    except _OF_OPTIMIZERS as error:
        raise _unusable(recipe, error) from None
    if recipe.schedule == "step" and recipe.step_epochs is None:
        raise PfstudyError("recipe.schedule=step needs recipe.step_epochs=NUMBER.")
    if recipe.min_lr > recipe.scaled_lr:
        raise PfstudyError(
            f"recipe.min_lr is {recipe.min_lr:g}, above the largest learning rate, "
            f"{recipe.scaled_lr:g}."
        )


def _unusable(recipe: Recipe, error: Exception) -> PfstudyError:
    return PfstudyError(
        f"recipe.optimizer={recipe.optimizer} cannot be used for this recipe: "
        f"{first_line(error) or type(error).__name__}; sgd, adamw and lamb always can."
    )


def _num_warmup(recipe: Recipe, steps_per_epoch: int) -> int:
    """Number of steps of the warm-up, which leaves one step at least."""
    num_steps = recipe.epochs * steps_per_epoch
    return min(int(recipe.warmup_epochs * steps_per_epoch), num_steps - 1)
