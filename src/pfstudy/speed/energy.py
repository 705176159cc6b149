"""Energy, where the device reports it: GPUs through NVML, Intel and AMD processors by RAPL."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from pfstudy.tasks import gpu_id

POWERCAP = Path("/sys/class/powercap")

_MIN_S = 1.0
_MIN_STEPS = 5

Meter = Callable[[], float]


def find_meter(device: torch.device) -> Meter | None:
    """Find what tells the joules that a device has used so far.

    Returns:
        ``None`` where it does not report them, or not to us.
    """
    return _gpu_meter(device) if device.type == "cuda" else _cpu_meter()


def energy_j(step: Callable[[], object], meter: Meter, synchronize: Callable[[], None]) -> float:
    """Joules of the whole device that a step takes, over a second or more of them.

    Args:
        step: Has run before.
        meter: As `find_meter` gives it.
        synchronize: Waits until the device has done what it was given.
    """
    synchronize()
    before, began, number = meter(), time.monotonic(), 0
    while number < _MIN_STEPS or time.monotonic() - began < _MIN_S:
        step()
        number += 1
    synchronize()
    return (meter() - before) / number


def _gpu_meter(device: torch.device) -> Meter | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        name = gpu_id(torch.cuda.get_device_properties(device).uuid)
        if name.startswith("MIG-"):  # whose share of the energy nobody knows
            return None
        handle = pynvml.nvmlDeviceGetHandleByUUID(name)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except Exception:  # not installed, not supported, not allowed
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3


def _cpu_meter() -> Meter | None:
    """The packages' counters, which only root may read on most hosts."""
    counters = [
        _RaplCounter(path)
        for path in sorted(POWERCAP.glob("intel-rapl:*"))
        if path.name.count(":") == 1  # a package, and no part of one
    ]
    if not counters:
        return None
    with suppress(OSError, ValueError):
        for counter in counters:
            counter()
        return lambda: sum(counter() for counter in counters)
    return None


class _RaplCounter:
    """Joules of a package since the first call; the kernel's counter wraps around."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._last: int | None = None
        self._total = 0

    def __call__(self) -> float:
        now = int((self._directory / "energy_uj").read_text())
        if self._last is not None:
            since = now - self._last
            if since < 0:
                since += int((self._directory / "max_energy_range_uj").read_text())
            self._total += since
        self._last = now
        return self._total / 1e6
