"""What goes to the processes of a sweep and comes back from them; needs no torch."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Device:
    """A device that runs can be placed on.

    Attributes:
        kind: ``cpu`` or ``gpu``.
        id: ``cpu``, or the UUID of the GPU or of its part, as ``CUDA_VISIBLE_DEVICES`` takes it.
        name: Name of the processor.
        driver: Version of a GPU's driver, where that is known.
    """

    kind: Literal["cpu", "gpu"]
    id: str
    name: str
    driver: str | None = None


@dataclass(frozen=True)
class Slot:
    """Where one run is trained at a time.

    Attributes:
        name: For people: ``cpu 0-1``, ``gpu 2``.
        devices: The devices, one for each of the run's processes; several may be the CPU.
        cores: The cores that its processes share; empty for all.
    """

    name: str
    devices: tuple[Device, ...]
    cores: tuple[int, ...] = ()


def visible_devices(devices: Iterable[Device]) -> dict[str, str]:
    """Variables that make a process see these devices alone."""
    gpus = dict.fromkeys(device.id for device in devices if device.kind == "gpu")
    return {"CUDA_VISIBLE_DEVICES": ",".join(gpus)}


def place_of(device: Device) -> dict[str, str]:
    """What a measurement says of where it was taken: host, device, its kind and its driver."""
    place = {"host": platform.node(), "device": device.name, "device_kind": device.kind}
    return place | ({"driver": device.driver} if device.driver else {})


def gpu_id(uuid: object, index: int = 0) -> str:
    """Id of a GPU, by which it is leased and made visible.

    Args:
        uuid: As torch gives it.
        index: Which one it is of those that this process sees.

    Returns:
        For a part of a GPU (MIG), which no id made of the UUID would name, what
        ``CUDA_VISIBLE_DEVICES`` calls it.
    """
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    name = names[index].strip() if index < len(names) else ""
    return name if name.startswith("MIG-") else f"GPU-{uuid}"


@dataclass(frozen=True)
class Checked:
    """What the check of a sweep found out.

    Attributes:
        devices: What runs are placed on.
        speed_device: Where speed is measured.
        projected: Number of sites that need a 1x1 convolution, by label of the variant.
        dropped: The constraint that a variant does not satisfy, by its identity.
        notes: What to know about images and initial weights.
    """

    devices: tuple[Device, ...]
    speed_device: Device
    projected: Mapping[str, int]
    dropped: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What a worker must know besides the run's directory.

    Attributes:
        directory: The run directory, with its ``config.json``.
        study: Name of the study, which groups the runs of W&B.
        mode: How to log to W&B: ``online``, ``offline`` or ``disabled``.
        devices: Ids of the devices, for the lease.
        speed: The measurement of the variant for the summary, if there is one.
        environment: As `pfstudy.environment.describe_environment` gives it.
        accumulation: Number of steps by which the gradient of a batch is accumulated.
    """

    directory: Path
    study: str
    mode: Literal["online", "offline", "disabled"]
    devices: tuple[str, ...] = ("cpu",)
    speed: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    accumulation: int = 1
