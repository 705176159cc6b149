"""A few steps of training, to see what a run would take; nothing is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import lightning as L  # noqa: N812
import torch

from pfstudy.data.tensors import Share
from pfstudy.module import Classifier
from pfstudy.network.surgery import build_network
from pfstudy.variant import Variant
from pfstudy.worker.checkpoints import Conditions
from pfstudy.worker.fit import choose_device, derive_seeds, make_trainer, open_loaders
from pfstudy.worker.ranks import Ranks

_NUM_EPOCHS = 100_000
_LEAST_STEPS = 3
_VALIDATION_BATCHES = 2


@dataclass(frozen=True)
class Trial:
    """What a few steps of training took.

    Attributes:
        seconds_per_step: Median time of a training step, the first one left out.
        images_per_s: Training images per second over all of the time, validation included.
        seconds_per_evaluation_batch: Time of a batch of validation.
        num_steps: Number of steps in an epoch.
        num_validation_batches: Number of batches of validation.
        num_test_batches: Number of batches of the test.
        peak_memory_bytes: The most memory that the steps took: of the GPU what tensors had, of the
            host what the process had beyond its start.
    """

    seconds_per_step: float
    images_per_s: float
    seconds_per_evaluation_batch: float
    num_steps: int
    num_validation_batches: int
    num_test_batches: int
    peak_memory_bytes: int


def try_training(
    variant: Variant, seconds: float, report: Callable[[str, Mapping[str, Any]], None]
) -> Trial:
    """Train for a while as a run would, on one device.

    Args:
        variant: What to train.
        seconds: How long, but at least for three steps.
        report: Not told anything.

    Raises:
        PfstudyError: It cannot be trained.
    """
    del report
    config = variant.config
    config = replace(config, recipe=replace(config.recipe, epochs=_NUM_EPOCHS))
    torch.set_num_threads(config.trainer.num_threads)
    device = choose_device(config)
    before = _start_counting(device)
    loaders = open_loaders(config, config.seed, Share(), device)
    network = build_network(config, derive_seeds(config.seed)["init"])
    module = Classifier(network, config.recipe, config.data.num_classes, len(loaders.train))
    clock = _Clock(seconds, device)
    conditions = Conditions(config.trainer.num_threads)
    trainer = make_trainer(
        config, device, Ranks(), conditions, [clock], limit_val_batches=_VALIDATION_BATCHES
    )
    with loaders:
        trainer.fit(module, loaders.train, loaders.validation)
        number = len(loaders.train), len(loaders.validation), len(loaders.test)
    steps = clock.step_seconds[1:]
    return Trial(
        seconds_per_step=median(steps),
        images_per_s=len(steps) * config.recipe.batch_size / clock.elapsed_s,
        seconds_per_evaluation_batch=median(clock.evaluation_seconds),
        num_steps=number[0],
        num_validation_batches=number[1],
        num_test_batches=number[2],
        peak_memory_bytes=_peak_bytes(device) - before,
    )


class _Clock(L.Callback):
    """Times steps, and ends training after a while."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self.seconds = seconds
        self.device = device
        self.step_seconds: list[float] = []
        self.evaluation_seconds: list[float] = []
        self.elapsed_s = 0.0
        self._began = self._since = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._since = self._now()

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        now = self._now()
        self.step_seconds.append(now - self._since)
        if len(self.step_seconds) == 1:
            self._began = now
        self.elapsed_s = now - self._began
        enough = len(self.step_seconds) >= _LEAST_STEPS and self.elapsed_s >= self.seconds
        trainer.should_stop = trainer.should_stop or enough

    def on_validation_batch_start(self, *_: Any) -> None:
        self._since = self._now()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.evaluation_seconds.append(self._now() - self._since)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _start_counting(device: torch.device) -> int:
    """Begin to count peak memory; returns what there is at the start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what there is now
    return _peak_bytes(device)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux says how much memory a process had")
