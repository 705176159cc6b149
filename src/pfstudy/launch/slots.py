"""Slots: how many runs are trained at a time, and on what each."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config
from pfstudy.tasks import Device, Slot

_WORTHWHILE = 1.03
_MOST_PER_GPU = 8


def devices_per_run(config: Config, devices: Sequence[Device]) -> int:
    """How many devices train one run together.

    Raises:
        PfstudyError: There are not as many GPUs, or one run is to be trained on several machines.
    """
    if config.trainer.num_nodes > 1:
        raise PfstudyError(
            f"trainer.num_nodes is {config.trainer.num_nodes}, but a sweep starts processes on "
            "this machine alone; use hydra/launcher=slurm, or srun python -m pfstudy.worker RUN."
        )
    wanted = config.trainer.devices
    if wanted == "auto":
        return len(devices)
    if devices[0].kind == "gpu" and wanted > len(devices):
        raise PfstudyError(f"trainer.devices is {wanted}, but there are {len(devices)} GPUs here.")
    return wanted


def make_slots(
    config: Config, devices: Sequence[Device], cores: Sequence[int], most: int | None = None
) -> list[Slot]:
    """Divide devices and cores among the runs that are trained at a time.

    Args:
        config: ``launcher`` and ``trainer`` say how.
        devices: All GPUs, or the CPU.
        cores: The cores that this process may use.
        most: Number of runs that there are.

    Raises:
        PfstudyError: As `devices_per_run`.
    """
    number = devices_per_run(config, devices)
    if devices[0].kind == "gpu":
        groups = [devices[i : i + number] for i in range(0, len(devices) - number + 1, number)]
        chosen = [
            (f"gpu {','.join(str(devices.index(d)) for d in group)}", tuple(group))
            for _ in range(config.launcher.slots_per_gpu)
            for group in groups
        ]
    else:
        threads = number * config.trainer.num_threads
        wanted = config.launcher.num_workers
        num_runs = max(1, len(cores) // threads) if wanted == "auto" else wanted
        chosen = [("cpu", (devices[0],) * number)] * num_runs
    chosen = chosen[:most]  # before the cores are divided
    shares = _share_cores(cores, len(chosen), number * config.trainer.num_threads)
    return [
        Slot(f"cpu {_ranges(share)}" if name == "cpu" and share else name, group, share)
        for (name, group), share in zip(chosen, shares, strict=True)
    ]


def choose_number(measure: Callable[[int], float], most: int) -> int:
    """Choose how many runs share a device: the next number is taken only if it pays.

    Args:
        measure: Images per second that this many runs train together.
        most: The largest number to try.
    """
    best, best_rate = 1, measure(1)
    number = 2
    while number <= most:
        rate = measure(number)
        if rate < best_rate * _WORTHWHILE:
            break
        best, best_rate = number, rate
        number *= 2
    return best


def most_to_try(devices: Sequence[Device], cores: Sequence[int], number: int) -> int:
    """How many runs may share a device, or the cores, at most."""
    if devices[0].kind == "gpu":
        return _MOST_PER_GPU
    return max(1, len(cores) // number)


def available_cores() -> tuple[int, ...]:
    """The cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))


def _share_cores(cores: Sequence[int], num_slots: int, threads: int) -> list[tuple[int, ...]]:
    """Give each slot cores of its own, or no cores in particular where there are too few."""
    each = len(cores) // num_slots
    if each < threads:
        return [()] * num_slots
    return [tuple(cores[i * each : (i + 1) * each]) for i in range(num_slots)]


def _ranges(numbers: Sequence[int]) -> str:
    """``0-3`` for neighbours, else ``0,2``."""
    if len(numbers) > 1 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))
