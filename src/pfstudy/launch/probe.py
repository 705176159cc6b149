"""Finds out how many runs should share a device, by training some of them for a short while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pfstudy.errors import ChildFailedError, PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Pool
from pfstudy.launch.slots import choose_number, make_slots, most_to_try
from pfstudy.schema.config import Config
from pfstudy.tasks import Device, Slot, visible_devices
from pfstudy.variant import Variant

_SECONDS = 3.0


def probe_slots(
    pool: Pool,
    display: Display,
    variant: Variant,
    config: Config,
    devices: Sequence[Device],
    cores: Sequence[int],
) -> Config:
    """Choose ``num_workers``, or ``slots_per_gpu``, by what trains most images per second.

    Args:
        pool: Where the processes come from.
        display: Told of what was found.
        variant: What they train.
        config: The config of the sweep.
        devices: All GPUs, or the CPU.
        cores: The cores that this process may use.

    Returns:
        The config with the number that was chosen.
    """
    if config.trainer.devices != 1:
        raise PfstudyError("launcher.slots=auto needs trainer.devices=1.")
    rates: dict[int, float] = {}

    def measure(number: int) -> float:
        display.bar("probing", figures=f"{number} at a time")
        own = cores[: max(1, len(cores) // len(devices))]  # those of the one device that is tried
        slots = make_slots(_with_number(config, devices, number), devices[:1], own)
        rates[number] = _images_per_s(pool, variant, slots)
        return rates[number]

    most = most_to_try(devices, cores, config.trainer.num_threads)
    number = choose_number(measure, most)
    display.drop_bar("probing")
    listed = ", ".join(f"{count}: {rate:.0f}" for count, rate in rates.items())
    display.note(f"runs at a time and images/s together: {listed}; chosen: {number}")
    return _with_number(config, devices, number)


def _with_number(config: Config, devices: Sequence[Device], number: int) -> Config:
    if devices[0].kind == "gpu":
        return replace(config, launcher=replace(config.launcher, slots_per_gpu=number))
    return replace(config, launcher=replace(config.launcher, num_workers=number))


def _images_per_s(pool: Pool, variant: Variant, slots: Sequence[Slot]) -> float:
    """Images per second of runs that train at the same time; 0 if one cannot."""
    for slot in slots:
        pool.start(
            "pfstudy.worker.trial:try_training",
            variant,
            _SECONDS,
            environment=visible_devices(slot.devices),
            cores=slot.cores,
        )
    total = 0.0
    problem = None
    for event in pool.events():
        if event.kind == "result":
            total += event.details["value"].images_per_s
        elif event.is_last:
            problem = str(event.details["reason"])
    if problem is not None and len(slots) == 1:
        raise ChildFailedError(problem)
    return 0.0 if problem else total
