"""What a trial of training is asked for, and what it finds; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Wanted:
    """What to find out about a variant.

    Attributes:
        seconds: How long to train.
        num_ranks: Number of processes that would share every batch; one of them is tried.
        num_parts: Number of steps by which the gradient of a batch is accumulated.
        devices: Ids of the devices, for the lease.
        latency_on: Where a forward pass is timed, too; ``None`` for nowhere.
        cores: The cores that a forward pass may use that wants more than training has.
    """

    seconds: float
    num_ranks: int = 1
    num_parts: int = 1
    devices: tuple[str, ...] = ("cpu",)
    latency_on: Literal["cpu", "gpu"] | None = None
    cores: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trial:
    """What a few steps of training took.

    Attributes:
        seconds_per_step: Mean time of a training step, its data included, without the first ones.
        images_per_s: Training images per second over all of the time, validation included.
        seconds_per_evaluation_batch: Time of a batch of validation, its data included.
        seconds_between_epochs: What the change of the epoch takes besides; 0 if none was seen.
        seconds_to_start: Time from the start until the first step.
        num_steps: Number of steps in an epoch, each with a part of the batch if there are parts.
        num_validation_batches: Number of batches of validation.
        num_test_batches: Number of batches of the test.
        peak_memory_bytes: The most memory that training took in this process: of the GPU what
            tensors had, of the host what the process had beyond its start.
    """

    seconds_per_step: float
    images_per_s: float
    seconds_per_evaluation_batch: float
    seconds_between_epochs: float
    seconds_to_start: float
    num_steps: int
    num_validation_batches: int
    num_test_batches: int
    peak_memory_bytes: int

    def seconds(self, num_epochs: int) -> float:
        """Estimate how long a run takes: its start, so many epochs with validation, and the test.

        Args:
            num_epochs: Number of epochs that are left.
        """
        evaluation = self.seconds_per_evaluation_batch
        epoch = self.num_steps * self.seconds_per_step + self.num_validation_batches * evaluation
        epochs = num_epochs * (epoch + self.seconds_between_epochs)
        return self.seconds_to_start + epochs + self.num_test_batches * evaluation


@dataclass(frozen=True)
class Findings:
    """What was found out about a variant.

    Attributes:
        trial: What training takes.
        latency_ms: Median time of a forward pass; ``None`` if it was not asked for, or failed.
    """

    trial: Trial
    latency_ms: float | None = None
