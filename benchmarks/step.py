"""A training step of the default job against a bare PyTorch loop.

    python benchmarks/step.py

Same network, same batches, same optimizer and schedule. Epochs of the two alternate in one
process; compared are the times of the training part of an epoch, validation apart.
"""

from __future__ import annotations

import time
from typing import Any

import lightning as L  # noqa: N812
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch.nn import functional

from _measuring import machine, show
from pfstudy.cli import compose
from pfstudy.data import fingerprint
from pfstudy.data.tensors import Batches, BatchIndices, EpochOrder, load_splits
from pfstudy.module import Classifier
from pfstudy.network.surgery import build_network
from pfstudy.optimization import lr_share
from pfstudy.variant import make_variant

NUM_ROUNDS = 12
EPOCHS_A_ROUND = 4


class Clock(L.Callback):
    """Times the training part of every epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            self.seconds.append(time.perf_counter() - self.started)


def bare_epochs(classifier: Classifier, batches: Batches) -> list[float]:
    recipe, network = classifier.recipe, classifier.network
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: lr_share(recipe, step, len(batches))
    )
    network.train()
    seconds = []
    for _ in range(EPOCHS_A_ROUND):
        started = time.perf_counter()
        for images, labels in batches:
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                network(images), labels, label_smoothing=recipe.label_smoothing
            )
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def lightning_epochs(classifier: Classifier, batches: Batches) -> list[float]:
    clock = Clock()
    trainer = L.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=EPOCHS_A_ROUND,
        callbacks=[clock],
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(classifier, batches)
    return clock.seconds


def main() -> None:
    print(machine())
    torch.set_num_threads(1)
    (config,) = compose(["data=digits"])
    variant = make_variant(config, fingerprint(config.data))
    split = load_splits(config.data)["train"]
    order = EpochOrder(len(split), 0)
    batches = Batches(split, BatchIndices(len(split), config.recipe.batch_size, order))
    ours: list[float] = []
    bare: list[float] = []
    for number in range(NUM_ROUNDS):
        network = build_network(variant.config, seed=0)
        classifier = Classifier(network, config.recipe, config.data.num_classes, len(batches))
        pair = [(bare, bare_epochs), (ours, lightning_epochs)]
        for found, run in pair if number % 2 else reversed(pair):
            epochs = run(classifier, batches)
            if number:
                found.extend(1e3 * seconds / len(batches) for seconds in epochs)
    show("training step, bare PyTorch loop", bare, "ms")
    show("training step, pfstudy", ours, "ms")
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    show("  ratio of paired epochs", ratios, "x", "1.05x")


if __name__ == "__main__":
    main()
