"""Trains a batch of runs on the slots of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pfstudy import store
from pfstudy.environment import describe_environment
from pfstudy.errors import ChildFailedError
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Event, Pool
from pfstudy.launch.probe import probe_slots
from pfstudy.launch.slots import available_cores, make_slots
from pfstudy.launch.train import Training
from pfstudy.speed import archive
from pfstudy.tasks import Device, Slot, Task
from pfstudy.tracking import Mode
from pfstudy.variant import Variant
from pfstudy.words import counted


class RunTrainer:
    """Trains the runs of a sweep's phases, each on as many slots as it needs.

    Args:
        pool: Where their processes come from.
        display: Told of them.
        devices: All GPUs, or the CPU.
        mode: How to log to W&B.
        place: Where their speed was measured.
    """

    def __init__(
        self,
        pool: Pool,
        display: Display,
        devices: Sequence[Device],
        mode: Mode,
        place: Mapping[str, str],
    ) -> None:
        self._pool = pool
        self._display = display
        self._devices = devices
        self._mode = mode
        self._place = place
        self._environment = describe_environment()

    def train(
        self, runs: Sequence[store.Run], names: Mapping[Path, str], study: str
    ) -> dict[str, str]:
        """Train runs, in a phase of the display.

        Args:
            runs: Those that are not done, at least one.
            names: Of the runs, by directory.
            study: Name of their study.

        Returns:
            Reason by name of the run, for those that failed.

        Raises:
            PfstudyError: There are not as many devices, or nothing can be written any more.
        """
        config = runs[0].variant.config
        slots = choose_slots(self._pool, self._display, runs[0].variant, self._devices, len(runs))
        threads = counted(config.trainer.num_threads, "thread")
        ranks = len(slots[0].devices)
        together = f"{ranks} devices, " if ranks > 1 else ""
        self._display.phase(
            "train",
            f"{counted(len(runs), 'run')}, {len(slots)} at a time, {together}{threads} each",
        )
        self._display.begin_runs(len(runs))

        def make_task(run: store.Run, slot: Slot, accumulation: int) -> Task:
            return Task(
                directory=run.directory.absolute(),
                study=study,
                mode=self._mode,
                devices=tuple(device.id for device in slot.devices),
                speed=archive.find_measured(run.variant, self._place) or {},
                environment=self._environment,
                accumulation=accumulation,
            )

        def hear(event: Event) -> None:
            if event.kind == "offline":  # those to come need not find out by themselves
                self._mode = "offline"

        training = Training(self._pool, self._display, names, slots, config.launcher, make_task)
        training.run(runs, hear)
        return training.failed


def choose_slots(
    pool: Pool, display: Display, variant: Variant, devices: Sequence[Device], most: int
) -> list[Slot]:
    """Choose where runs are trained, by trying a variant if that is asked for.

    Args:
        pool: Where the processes come from that try it.
        display: Told of what was found.
        variant: The variant.
        devices: All GPUs, or the CPU.
        most: Number of runs that there are.

    Raises:
        PfstudyError: There are not as many devices.
    """
    cores, config = available_cores(), variant.config
    if config.launcher.slots == "auto":
        try:
            config = probe_slots(pool, display, variant, config, devices, cores)
        except ChildFailedError as error:
            display.note(f"launcher.slots=auto: {variant.label} cannot be trained: {error}")
    return make_slots(config, devices, cores, most)
