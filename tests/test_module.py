from __future__ import annotations

import copy
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader

from configs import plain_recipe
from pfstudy.data.order import UNREAD
from pfstudy.module import Classifier, diverged, find_divergence
from pfstudy.schema.recipe import Recipe

NUM_CLASSES = 7
RECIPE = plain_recipe(warmup_epochs=1, label_smoothing=0.1)


def make_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 7))


def make_batches(number: int, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(4, 1, 4, 4, generator=generator),
            torch.randint(NUM_CLASSES, (4,), generator=generator),
        )
        for _ in range(number)
    ]


def fit(
    module: Classifier,
    train: list[tuple[torch.Tensor, torch.Tensor]],
    epochs: int,
    num_parts: int = 1,
    callbacks: Sequence[L.Callback] = (),
) -> L.Trainer:
    trainer = L.Trainer(
        callbacks=list(callbacks),
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=num_parts,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(
        module, DataLoader(train, batch_size=None), DataLoader(make_batches(2), batch_size=None)
    )
    return trainer


class TestTraining:
    @pytest.mark.parametrize(
        "recipe",
        [
            pytest.param(RECIPE, id="cosine"),
            pytest.param(replace(RECIPE, schedule="one_cycle"), id="one_cycle"),
            pytest.param(replace(RECIPE, warmup_epochs=0, label_smoothing=0), id="no-warmup"),
            pytest.param(replace(RECIPE, momentum=0), id="no-momentum"),
            pytest.param(replace(RECIPE, warmup_epochs=9), id="warmup-longer-than-training"),
        ],
    )
    def test_ends_with_the_weights_of_a_bare_loop(self, recipe: Recipe) -> None:
        train = make_batches(5)
        network = make_network()
        reference = copy.deepcopy(network)
        module = Classifier(network, recipe, NUM_CLASSES, len(train))
        fit(module, train, recipe.epochs)
        self.bare_loop(reference, recipe, train)
        for name, expected in reference.state_dict().items():
            torch.testing.assert_close(module.network.state_dict()[name], expected, msg=name)

    @staticmethod
    def bare_loop(
        network: nn.Module, recipe: Recipe, train: list[tuple[torch.Tensor, torch.Tensor]]
    ) -> None:
        num_steps = recipe.epochs * len(train)
        num_warmup = min(int(recipe.warmup_epochs * len(train)), num_steps - 1)
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.momentum > 0,
        )
        if recipe.schedule == "one_cycle":
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer,
                recipe.lr,
                total_steps=num_steps + 1,
                pct_start=num_warmup / num_steps,
                cycle_momentum=False,
            )
        network.train()
        for step in range(num_steps):
            if recipe.schedule == "cosine":
                if step < num_warmup:
                    share = (step + 1) / (num_warmup + 1)
                else:
                    angle = math.pi * (step - num_warmup) / (num_steps - num_warmup)
                    share = (1 + math.cos(angle)) / 2
                optimizer.param_groups[0]["lr"] = recipe.lr * share
            images, labels = train[step % len(train)]
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                network(images), labels, label_smoothing=recipe.label_smoothing
            )
            loss.backward()
            optimizer.step()
            if recipe.schedule == "one_cycle":
                schedule.step()

    def test_losses_of_all_batches_of_an_epoch_are_kept(self) -> None:
        batches = make_batches(6)
        module = Classifier(make_network().eval(), RECIPE, NUM_CLASSES, 2, num_parts=3)
        losses = [float(module.training_step(b, i).detach()) for i, b in enumerate(batches)]
        expected = [
            functional.cross_entropy(module.network(x), y, label_smoothing=0.1).item()
            for x, y in batches
        ]
        np.testing.assert_allclose(losses, expected, rtol=1e-6)
        assert module.train_losses.tolist() == losses

    def test_parts_of_a_batch_train_as_the_whole_of_it(self) -> None:
        train = make_batches(6)
        halves = [
            (images[half], labels[half])
            for images, labels in train
            for half in (slice(0, 2), slice(2, 4))
        ]
        modules = []
        for batches, num_parts in ((train, 1), (halves, 2)):
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, NUM_CLASSES))
            module = Classifier(network, RECIPE, NUM_CLASSES, len(train), num_parts)
            fit(module, batches, RECIPE.epochs, num_parts)
            modules.append(module)
        whole, parts = (module.network.state_dict() for module in modules)
        for name, expected in whole.items():
            torch.testing.assert_close(parts[name], expected, msg=name)
        of_halves = modules[1].train_losses.view(-1, 2).mean(1)
        torch.testing.assert_close(modules[0].train_losses, of_halves)


class TestEvaluation:
    def test_figures_are_those_of_numpy_over_uneven_batches(self) -> None:
        module = Classifier(make_network().eval(), RECIPE, NUM_CLASSES, 1)
        (one, two) = make_batches(2)
        two = (two[0][:3], two[1][:3])
        for batch in (one, two):
            module.test_step(batch, 0)
        module.on_test_epoch_end()
        logits = torch.cat(module.logits).numpy().astype(np.float64)
        labels = torch.cat([one[1], two[1]]).numpy()
        assert logits.shape == (7, NUM_CLASSES)
        assert torch.cat(module.labels).tolist() == labels.tolist()
        rank = np.argsort(-logits, axis=1)
        loss = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(7), labels]
        assert module.evaluated == {
            "test_top1_percent": pytest.approx(100 * np.mean(rank[:, 0] == labels)),
            "test_top5_percent": pytest.approx(
                100 * np.mean((rank[:, :5] == labels[:, None]).any(axis=1))
            ),
            "test_loss": pytest.approx(loss.mean()),
        }

    def test_epochs_do_not_run_into_each_other(self) -> None:
        module = Classifier(make_network().eval(), RECIPE, NUM_CLASSES, 1)
        first, second = make_batches(2)
        module.validation_step(first, 0)
        module.on_validation_epoch_end()
        module.validation_step(second, 0)
        module.on_validation_epoch_end()
        alone = Classifier(module.network, RECIPE, NUM_CLASSES, 1)
        alone.validation_step(second, 0)
        alone.on_validation_epoch_end()
        assert module.evaluated == alone.evaluated
        assert module.logits == []

    def test_top5_of_fewer_classes(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        module = Classifier(network, RECIPE, 3, 1)
        module.test_step((torch.randn(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])), 0)
        module.on_test_epoch_end()
        assert module.evaluated["test_top5_percent"] == 100

    def test_images_that_could_not_be_read_do_not_count(self) -> None:
        module = Classifier(make_network().eval(), RECIPE, NUM_CLASSES, 1)
        ((images, labels),) = make_batches(1)
        module.test_step((images, torch.cat([labels[:3], torch.tensor([UNREAD])])), 0)
        module.on_test_epoch_end()
        alone = Classifier(module.network, RECIPE, NUM_CLASSES, 1)
        alone.test_step((images[:3], labels[:3]), 0)
        alone.on_test_epoch_end()
        assert module.evaluated == pytest.approx(alone.evaluated)


class TestMovingAverage:
    RECIPE = replace(RECIPE, ema_decay=0.5)

    def test_follows_every_step_of_the_optimizer(self) -> None:
        train = make_batches(4)
        module = Classifier(make_network(), self.RECIPE, NUM_CLASSES, len(train))
        seen = []

        class Watch(L.Callback):
            def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
                seen.append(pl_module.network[3].weight.detach().clone())

        fit(module, train, 1, callbacks=[Watch()])
        expected = seen[0]
        for step, weight in enumerate(seen[1:], 1):
            decay = min(0.5, 1 - (1 + step) ** (-2 / 3))  # warmed up as timm does
            expected = decay * expected + (1 - decay) * weight
        torch.testing.assert_close(module.evaluated_network[3].weight, expected)

    def test_is_what_is_evaluated(self) -> None:
        module = Classifier(make_network().eval(), self.RECIPE, NUM_CLASSES, 1)
        with torch.no_grad():
            module.network[3].weight.zero_()
            module.network[3].bias.zero_()
        (batch,) = make_batches(1)
        module.test_step(batch, 0)
        torch.testing.assert_close(module.logits[0], make_network().eval()(batch[0]))


def test_a_compiled_step_trains_as_an_eager_one() -> None:
    train = make_batches(3)
    modules = [
        Classifier(make_network(), RECIPE, NUM_CLASSES, len(train), compile_mode=mode)
        for mode in (None, "default")
    ]
    for module in modules:
        fit(module, train, 1)
    eager, compiled = (module.state_dict() for module in modules)
    assert eager.keys() == compiled.keys()
    for name, expected in eager.items():
        torch.testing.assert_close(compiled[name], expected, msg=name)


class TestDivergence:
    @pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
    def test_is_found_at_its_first_step(self, loss: float) -> None:
        assert find_divergence([[1.0, 1e30, loss, loss]], num_parts=1) == 3
        assert find_divergence([[1.0, 1e30, loss, loss]], num_parts=2) == 2
        assert find_divergence([[1.0, 2.0], [1.0, loss]], num_parts=1) == 2

    def test_is_not_found_where_all_is_finite(self) -> None:
        assert find_divergence([[1e30, 0.0]], num_parts=1) is None

    def test_says_what_to_do(self) -> None:
        assert re.search(r"in epoch 3 at step 7; lower recipe\.lr", str(diverged(3, 7)))
