"""Every recipe that is shipped: what it asks for can be made, and a step of it be done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from configs import compose
from pfstudy.data.loading import check_augmentation
from pfstudy.data.transforms import make_transform
from pfstudy.losses import Objective
from pfstudy.optimization import check_optimization, make_optimizer, make_schedule
from pfstudy.schema.config import Config
from pfstudy.schema.models import conf_directory

SHIPPED = sorted(path.stem for path in (conf_directory() / "recipe").glob("*.yaml"))
RECIPES = [name for name in SHIPPED if name != "base"]
OF_FOLDERS = ("deit_300ep", "r50_90ep", "r50_long", "rsb_a2", "rsb_a3")


def config_of(name: str) -> Config:
    data = ("imagenet", "data.path=x") if name in OF_FOLDERS else ("cifar10",)
    return compose(f"recipe={name}", *(f"data={data[0]}", *data[1:]))


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_lowers_the_loss(name: str) -> None:
    config = config_of(name)
    recipe = replace(config.recipe, warmup_epochs=0)
    check_augmentation(config.data, recipe.augmentation)
    check_optimization(recipe)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    optimizer = make_optimizer(network, recipe)
    make_schedule(optimizer, recipe, steps_per_epoch=10)
    objective = Objective(recipe, 10)
    images, targets = objective.prepare((torch.randn(16, 3, 8, 8), torch.arange(16) % 10))
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = objective.of_targets(network(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < losses[0]


@pytest.mark.parametrize("name", OF_FOLDERS)
def test_images_of_files_are_augmented_to_the_size_of_training(name: str) -> None:
    config = config_of(name)
    transform = make_transform(config.data, config.recipe.augmentation, training=True)
    side = 160 if name == "rsb_a3" else 224
    assert transform(Image.new("RGB", (300, 260))).shape == (3, side, side)


@pytest.mark.parametrize(
    ("paper", "recipe"),
    [("r50", "r50_90ep"), ("r50_hybrid", "r50_90ep"), ("vit_s_max", "deit_300ep")],
)
def test_networks_of_the_paper_take_its_recipe(paper: str, recipe: str) -> None:
    config = compose(f"paper={paper}")
    assert config.recipe.name == recipe
    assert (config.trainer.precision, config.trainer.channels_last) == ("bf16-mixed", True)
    assert compose(f"paper={paper}", "recipe=digits").recipe.name == "digits"


def test_the_published_setting_is_as_published() -> None:
    """Training of the R50 family (Han et al. 2022)."""
    recipe = compose("paper=r50_max").recipe
    assert (recipe.scaled_lr, recipe.momentum, recipe.weight_decay) == (0.2, 0.9, 1e-4)
    assert (recipe.batch_size, recipe.epochs, recipe.step_epochs) == (4 * 256, 90, 30)
    assert (recipe.warmup_epochs, recipe.label_smoothing) == (3, 0)


def test_a_head_names_source_and_expected_figure() -> None:
    for name in RECIPES:
        lines = Path(conf_directory() / "recipe" / f"{name}.yaml").read_text().splitlines()
        head = "\n".join(line for line in lines if line.startswith("#"))
        assert "%" in head, name
