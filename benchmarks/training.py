"""Training images per second: pfstudy, a bare PyTorch loop, and timm's way of a loop.

    python benchmarks/training.py [digits|small|large ...]

The same network, batches, loss, optimizer and schedule for all three, and one process. Epochs of
the three alternate; compared are the times of the training part of an epoch, validation apart.
pfstudy trains as a run does, with its callbacks; timm's loop is that of its train.py, written anew
of timm's parts: it reads the loss at every step, which a GPU would have to be waited for.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import torch
from timm.loss import LabelSmoothingCrossEntropy
from timm.scheduler import CosineLRScheduler
from timm.utils import AverageMeter
from torch.nn import functional

from _measuring import machine, show
from pfstudy.cli import compose
from pfstudy.data.loading import Loaders
from pfstudy.data.order import Share
from pfstudy.network.surgery import build_network
from pfstudy.optimization import make_optimizer, make_schedule
from pfstudy.schema.config import Config
from pfstudy.tracking import Tracker
from pfstudy.worker.checkpoints import Checkpoints, Conditions
from pfstudy.worker.progress import Progress
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.stopping import StopRequest
from pfstudy.worker.trainer import choose_device, make_module, make_trainer, open_loaders

ALWAYS = ["trainer.accelerator=cpu", "data.num_validation=16", "recipe.warmup_epochs=0"]
SMALL = ["model=resnet20", "data=synthetic", "data.num_train=1024", "recipe.batch_size=128"]
LARGE = ["model=resnet50", "data=synthetic", "data.num_train=32", "recipe.batch_size=8"]
CASES = {
    "digits": (["data=digits"], 1, 4, 12, "0.95x"),
    "small": (SMALL, 1, 1, 10, "0.95x"),
    "large": (LARGE, 2, 1, 6, "1.0x"),
}
"""Overrides, threads, epochs a round, rounds, and what was asked for."""

Epochs = Callable[[Config, Loaders, int], list[float]]


class Clock(L.Callback):
    """Times the training part of every epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.started = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.is_last_batch:
            self.seconds.append(time.perf_counter() - self.started)


def ours(config: Config, loaders: Loaders, num_epochs: int) -> list[float]:
    del num_epochs  # the recipe's
    device, ranks, clock = choose_device(config), Ranks(), Clock()
    conditions = Conditions(config.trainer.num_threads)
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        progress = Progress(
            directory,
            config.recipe.epochs,
            keep_best=False,
            ranks=ranks,
            claim=None,
            tracker=Tracker(config.logger, "disabled", directory, lambda text: None),
            report=lambda kind, details: None,
            loaders=loaders,
        )
        path = directory / "checkpoints" / "resume.ckpt"
        checkpoints = Checkpoints(path, 600, conditions, ranks, StopRequest())
        trainer = make_trainer(config, device, ranks, conditions, [progress, checkpoints, clock])
        module = make_module(config, 0, len(loaders.train), 1, device)
        trainer.fit(module, loaders.train, loaders.validation)
    return clock.seconds


def bare(config: Config, loaders: Loaders, num_epochs: int) -> list[float]:
    recipe, network = config.recipe, build_network(config, 0).train()
    optimizer = make_optimizer(network, recipe)
    schedule = make_schedule(optimizer, recipe, len(loaders.train))
    seconds = []
    for _ in range(num_epochs):
        started = time.perf_counter()
        for images, labels in loaders.train:
            optimizer.zero_grad()
            loss = functional.cross_entropy(
                network(images), labels, label_smoothing=recipe.label_smoothing
            )
            loss.backward()
            optimizer.step()
            schedule.step()
        seconds.append(time.perf_counter() - started)
    return seconds


def timms(config: Config, loaders: Loaders, num_epochs: int) -> list[float]:
    recipe, network = config.recipe, build_network(config, 0).train()
    optimizer = make_optimizer(network, recipe)
    number = len(loaders.train)
    schedule = CosineLRScheduler(optimizer, num_epochs * number, t_in_epochs=False)
    loss_of = LabelSmoothingCrossEntropy(recipe.label_smoothing)
    seconds, step = [], 0
    for _ in range(num_epochs):
        losses, times = AverageMeter(), AverageMeter()
        started = before = time.perf_counter()
        for images, labels in loaders.train:
            optimizer.zero_grad()
            loss = loss_of(network(images), labels)
            loss.backward()
            optimizer.step()
            step += 1
            losses.update(loss.item(), len(labels))
            now = time.perf_counter()
            times.update(now - before)
            before = now
            schedule.step_update(num_updates=step, metric=losses.avg)
        seconds.append(time.perf_counter() - started)
    return seconds


def compare(name: str) -> None:
    overrides, num_threads, num_epochs, num_rounds, asked = CASES[name]
    torch.set_num_threads(num_threads)
    given = [
        *ALWAYS,
        *overrides,
        f"recipe.epochs={num_epochs}",
        f"trainer.num_threads={num_threads}",
    ]
    (config,) = compose(given)
    loaders = open_loaders(config, 0, Share(), choose_device(config))
    contestants: dict[str, Epochs] = {"pfstudy": ours, "bare loop": bare, "timm's loop": timms}
    found: dict[str, list[float]] = {label: [] for label in contestants}
    for number in range(num_rounds):
        order = list(contestants) if number % 2 else list(reversed(contestants))
        for label in order:
            seconds = contestants[label](config, loaders, num_epochs)
            if number:  # the first round warms up
                found[label] += seconds
    report(name, config, found, len(loaders.train) * config.recipe.batch_size, asked)


def report(
    name: str, config: Config, found: dict[str, Sequence[float]], num_images: int, asked: str
) -> None:
    size = f"{config.data.image_size}x{config.data.image_size}"
    print(f"{name}: {config.model.name}, {size}, {config.trainer.num_threads} thread(s)")
    for label, seconds in found.items():
        show(f"  {label}", [num_images / each for each in seconds], "images/s")
    for label in ("bare loop", "timm's loop"):
        ratios = [b / a for a, b in zip(found["pfstudy"], found[label], strict=True)]
        show(f"  pfstudy against {label}, paired epochs", ratios, "x", asked)


def main() -> None:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    print(machine())
    for name in sys.argv[1:] or CASES:
        compare(name)


if __name__ == "__main__":
    main()
