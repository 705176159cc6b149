"""The parts of a plan, and what the ledger and a trial say of a run."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pfstudy import files, ledger, store
from pfstudy.inventory import is_run, shorten
from pfstudy.speed.blocktable import Prediction, backbone_of
from pfstudy.tasks import Slot
from pfstudy.variant import Variant
from pfstudy.worker.findings import Trial

NEW = "new"
"""Stands for the state of a run that has no directory."""

MODEL = "model"
"""Key of the backbone's name among the settings that vary."""


@dataclass(frozen=True)
class PlannedRun:
    """What a sweep would do with a run.

    Attributes:
        directory: Its directory, which need not exist.
        seed: Its seed.
        state: Its state by the ledger, or ``new``.
        epochs_done: Number of epochs that need not be trained any more.
        num_epochs: Number of epochs.
        seconds: How long it took, if it is done.
        seconds_left: How long it would take from here; ``None`` if that is not known, 0 for a run
            that is done, or that another process trains.
    """

    directory: str
    seed: int
    state: str
    epochs_done: int
    num_epochs: int
    seconds: float | None = None
    seconds_left: float | None = None

    @property
    def is_left(self) -> bool:
        """Whether a sweep would train it."""
        return self.state not in ("done", "running")


@dataclass(frozen=True)
class PlannedVariant:
    """A variant of a plan; what is not known is ``None``.

    Attributes:
        variant: The variant.
        settings: The settings that vary within the plan, such as ``recipe.lr``, ``model`` among
            them.
        runs: Its runs.
        params: Number of parameters.
        macs: Multiply-accumulates of one image.
        latency_ms: Time of a forward pass in the sweep's setting.
        latency_is_estimate: Whether that was predicted or timed for a moment, and not measured.
        latency_source: The measurement or the block table that it is from; empty without one.
        prediction: What the block table says, where that was not measured.
        trial: What a moment of training took.
        num_parts: Number of steps that a batch has to be divided into.
        problem: Why it cannot be trained.
    """

    variant: Variant
    settings: Mapping[str, Any]
    runs: tuple[PlannedRun, ...]
    params: int | None = None
    macs: int | None = None
    latency_ms: float | None = None
    latency_is_estimate: bool = False
    latency_source: Mapping[str, Any] = field(default_factory=dict)
    prediction: Prediction | None = None
    trial: Trial | None = None
    num_parts: int = 1
    problem: str | None = None

    @property
    def name(self) -> str:
        """What differs between the variants of the plan, in a few words."""
        parts = [str(self.settings[MODEL])] if MODEL in self.settings else []
        parts.append(self.variant.label)
        for key, value in self.settings.items():
            if key != MODEL and value is not None:
                parts.append(f"{key.rpartition('.')[2]}={shorten(value)}")
        return " ".join(parts)

    @property
    def relative_latency(self) -> float | None:
        """Time relative to the unsubstituted backbone."""
        if self.prediction:
            return self.prediction.relative_latency
        return self.latency_source.get("relative_latency")

    @property
    def seconds_per_run(self) -> float | None:
        """Estimated time of a whole run."""
        return self.trial.seconds(self.variant.config.recipe.epochs) if self.trial else None


@dataclass(frozen=True)
class Duplicate:
    """A variant that is asked for several times.

    Attributes:
        name: Its name in the plan.
        asked: How its sites are asked for, every time.
    """

    name: str
    asked: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        study: Name of the study.
        variants: The variants that it would train, or has trained.
        dropped: Those that it would drop, and the constraint that they do not satisfy.
        duplicates: Those that are asked for several times.
        num_slots: Number of runs at a time.
        devices_per_run: Number of devices that train a run together.
        seconds: Estimated time until all runs are done that can be.
        device_hours: Estimated time over all devices; one that several runs share counts once, and
            on the CPU each process of a run counts as a device.
        setting: Device, host and setting of the latencies, as far as they are known.
        trials: The runs by which variants would be tuned before; their time is in ``seconds`` and
            ``device_hours``.
        trial_seconds: Estimated time until all of them are done.
    """

    study: str
    variants: tuple[PlannedVariant, ...]
    dropped: tuple[tuple[PlannedVariant, str], ...]
    duplicates: tuple[Duplicate, ...]
    num_slots: int
    devices_per_run: int
    seconds: float
    device_hours: float
    setting: Mapping[str, Any] = field(default_factory=dict)
    trials: tuple[PlannedRun, ...] = ()
    trial_seconds: float = 0.0


def read_run(run: store.Run) -> PlannedRun:
    """Read what the ledger says of a run.

    Raises:
        PfstudyError: Its state or its record is damaged.
    """
    directory, num_epochs = run.directory, run.variant.config.recipe.epochs
    status = ledger.read_status(directory)
    state: str = status.state
    seconds, epochs_done = None, 0
    if state == "done":
        training = files.read_json(directory / ledger.RECORD).get("training", {})
        seconds = training.get("seconds", 0.0) + training.get("test_seconds", 0.0)
        epochs_done = num_epochs
    elif state == "running" or (directory / store.RESUME).exists():
        epochs_done = min(num_epochs, int(status.written.get("epoch", 0)))
    elif state == "pending" and not is_run(directory):
        state = NEW
    return PlannedRun(str(directory), run.seed, state, epochs_done, num_epochs, seconds)


def recorded_cost(runs: Iterable[PlannedRun]) -> dict[str, Any]:
    """What the record of a run that is done says of the cost of its network; {} without one."""
    for run in runs:
        if run.state == "done":
            cost: dict[str, Any] = files.read_json(Path(run.directory) / ledger.RECORD).get(
                "cost", {}
            )
            return cost
    return {}


def reconcile_latencies(rows: Iterable[PlannedVariant]) -> list[PlannedVariant]:
    """Give latencies: as measured, or predicted relative to one time of the backbone.

    Ratios to it hold from day to day; times differ by more.
    """
    found = list(rows)
    references: dict[str, float] = {}
    for row in sorted(found, key=lambda r: (r.latency_is_estimate, not r.variant.is_baseline)):
        if row.latency_source:
            reference = row.latency_source["baseline_latency_ms"]
            references.setdefault(backbone_of(row.variant), reference)
    return [
        replace(row, latency_ms=row.latency_source["latency_ms"])
        if "latency_ms" in row.latency_source
        else replace(row, latency_ms=row.relative_latency * references[backbone_of(row.variant)])
        if row.relative_latency
        else row
        for row in found
    ]


def estimate(run: PlannedRun, trial: Trial | None) -> PlannedRun:
    """Say how long a run would take from here, if its variant has been tried."""
    if not run.is_left:
        return replace(run, seconds_left=0.0)
    left = trial.seconds(run.num_epochs - run.epochs_done) if trial else None
    return replace(run, seconds_left=left)


def schedule_s(seconds: Iterable[float], num_slots: int) -> float:
    """Time until all runs have ended, if each begins on the slot that is free first."""
    free_at = [0.0] * max(1, num_slots)
    for length in seconds:
        heapq.heapreplace(free_at, free_at[0] + length)
    return max(free_at)


def runs_per_device(slots: Sequence[Slot]) -> int:
    """How many runs share a GPU; on the CPU each process has cores of its own."""
    gpus = [device.id for slot in slots for device in slot.devices if device.kind == "gpu"]
    return max(Counter(gpus).values(), default=1)
