"""What goes to the processes of a sweep and comes back from them; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Device:
    """A device that runs can be placed on.

    Attributes:
        kind: ``cpu`` or ``gpu``.
        id: ``cpu``, or the UUID of the GPU, as ``CUDA_VISIBLE_DEVICES`` takes it.
        name: Name of the processor.
    """

    kind: Literal["cpu", "gpu"]
    id: str
    name: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that make a process see this device alone."""
        return {"CUDA_VISIBLE_DEVICES": self.id if self.kind == "gpu" else ""}


def gpu_id(uuid: object) -> str:
    """Id of a GPU, by which it is leased and made visible, from the UUID that torch gives."""
    return f"GPU-{uuid}"


@dataclass(frozen=True)
class Checked:
    """What the check of a sweep found out.

    Attributes:
        devices: What runs are placed on.
        speed_device: Where speed is measured.
        projected: Number of sites that need a 1x1 convolution, by label of the variant.
        dropped: The constraint that a variant does not satisfy, by its identity.
    """

    devices: tuple[Device, ...]
    speed_device: Device
    projected: Mapping[str, int]
    dropped: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """What a worker must know besides the run's directory.

    Attributes:
        directory: The run directory, with its ``config.json``.
        study: Name of the study, which groups the runs of W&B.
        mode: How to log to W&B: ``online``, ``offline`` or ``disabled``.
        device: Id of the device, for the lease.
        speed: The measurement of the variant for the summary, if there is one.
        environment: As `pfstudy.environment.describe_environment` gives it.
    """

    directory: Path
    study: str
    mode: Literal["online", "offline", "disabled"]
    device: str = "cpu"
    speed: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
