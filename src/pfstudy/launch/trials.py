"""Tries variants in fresh processes, as many at a time as runs would be trained."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from pfstudy.launch.display import Display
from pfstudy.launch.failures import count_oom_kills
from pfstudy.launch.pool import Event, Pool
from pfstudy.launch.slots import available_cores
from pfstudy.schema.config import Launcher
from pfstudy.tasks import Device, Slot, visible_devices
from pfstudy.variant import Variant
from pfstudy.words import duration
from pfstudy.worker.findings import Findings, Wanted

NOWHERE = Path(os.devnull)
"""The log of a process whose output nobody needs."""

_TICK_S = 1.0
_BAR = "networks"


@dataclass(frozen=True)
class Candidate:
    """A variant to be tried.

    Attributes:
        variant: The variant.
        times_latency: Whether its forward pass is timed, too.
    """

    variant: Variant
    times_latency: bool


@dataclass(frozen=True)
class Tried:
    """What became of a variant that was tried.

    Attributes:
        findings: What was found out; ``None`` if it cannot be trained.
        cost: ``params`` and ``macs``; empty if it did not come that far.
        num_parts: Number of steps by which the gradient of a batch has to be accumulated.
        problem: Why it cannot be trained.
    """

    findings: Findings | None
    cost: Mapping[str, int]
    num_parts: int = 1
    problem: str | None = None


@dataclass(eq=False)
class _Job:
    """A variant that is being tried."""

    index: int
    slot: Slot
    num_parts: int
    oom_kills: int
    heard: float
    cost: Mapping[str, int] = field(default_factory=dict)
    kind: str = "error"


class Trials:
    """Tries variants on slots; while one is tried, all slots train, as they would in a sweep.

    Args:
        pool: Where the processes come from.
        display: Told of progress.
        slots: Where variants are tried.
        speed_device: Where forward passes are timed.
        seconds: How long each is trained.
        launcher: What is done when one fails.
    """

    def __init__(
        self,
        pool: Pool,
        display: Display,
        slots: Sequence[Slot],
        speed_device: Device,
        seconds: float,
        launcher: Launcher,
    ) -> None:
        self.pool = pool
        self.display = display
        self.speed_device = speed_device
        self.seconds = seconds
        self.launcher = launcher
        self._free = deque(slots)
        self._jobs: list[_Job] = []
        self._waiting: deque[tuple[int, int]] = deque()
        self._tried: dict[int, Tried] = {}

    def run(self, candidates: Sequence[Candidate]) -> list[Tried]:
        """Try variants.

        Returns:
            What became of each of them.
        """
        self._waiting.extend(
            (index, candidate.variant.config.trainer.accumulation)
            for index, candidate in enumerate(candidates)
        )
        company = cycle(candidates)
        try:
            self.display.bar(_BAR, 0, len(candidates))
            while len(self._tried) < len(candidates):
                self._fill(candidates, company)
                event = self.pool.next_event(_TICK_S)
                if event is not None and event.child.tag is not None:
                    self._hear(event, candidates)
                self._end_late_ones()
        finally:
            for child in self.pool.children:
                self.pool.kill(child)
            self.display.drop_bar(_BAR)
        return [self._tried[index] for index in range(len(candidates))]

    def _fill(self, candidates: Sequence[Candidate], company: Iterator[Candidate]) -> None:
        while self._waiting and self._free:
            index, num_parts = self._waiting.popleft()
            now = time.monotonic()
            job = _Job(index, self._free.popleft(), num_parts, count_oom_kills(), now)
            self._jobs.append(job)
            self._start(candidates[index], job.slot, num_parts, self.seconds, job)
        while self._free:  # a run that shares a device is slower than one alone
            beside = next(company)
            num_parts = beside.variant.config.trainer.accumulation
            self._start(beside, self._free.popleft(), num_parts, float("inf"), None)

    def _start(
        self,
        candidate: Candidate,
        slot: Slot,
        num_parts: int,
        seconds: float,
        job: _Job | None,
    ) -> None:
        devices, kind = slot.devices, self.speed_device.kind
        if candidate.times_latency and kind == "gpu" and devices[0].kind == "cpu":
            devices = (self.speed_device,)
        wanted = Wanted(
            seconds,
            num_ranks=len(slot.devices),
            num_parts=num_parts,
            devices=tuple(device.id for device in slot.devices),
            latency_on=kind if candidate.times_latency else None,
            cores=available_cores(),
        )
        self.pool.start(
            "pfstudy.worker.trial:examine",
            candidate.variant,
            wanted,
            log=NOWHERE,
            environment=visible_devices(devices),
            cores=slot.cores,
            tag=job,
        )

    def _hear(self, event: Event, candidates: Sequence[Candidate]) -> None:
        job: _Job = event.child.tag
        job.heard = time.monotonic()
        if event.kind == "cost":
            job.cost = {key: int(value) for key, value in event.details.items()}
        elif event.kind == "failed":
            job.kind = str(event.details["kind"])
        elif event.kind == "note":
            self.display.note(str(event.details["text"]))
        elif event.is_last:
            self._end(job, event, candidates)

    def _end(self, job: _Job, event: Event, candidates: Sequence[Candidate]) -> None:
        self._jobs.remove(job)
        self._free.append(job.slot)
        if event.kind == "result":
            self._tried[job.index] = Tried(event.details["value"], job.cost, job.num_parts)
        else:
            problem, kind = self._reason(job, event)
            parts = 2 * job.num_parts
            batch_size = candidates[job.index].variant.config.recipe.batch_size
            if kind == "memory" and self.launcher.halve_batch and batch_size % parts == 0:
                self._waiting.append((job.index, parts))
                return
            self._tried[job.index] = Tried(None, job.cost, job.num_parts, problem)
        label = candidates[job.index].variant.label
        self.display.bar(_BAR, len(self._tried), len(candidates), label)

    def _reason(self, job: _Job, event: Event) -> tuple[str, str]:
        """Why a variant cannot be trained, in a sentence and in a word."""
        reason = str(event.details["reason"])
        if job.kind == "hung":
            return f"no progress for {duration(60 * self.launcher.hung_minutes)}", "hung"
        if event.kind == "died":
            if "SIGKILL" in reason and count_oom_kills() > job.oom_kills:
                return f"{reason}, as the host was out of memory", "memory"
            return reason, "killed"
        return reason, job.kind

    def _end_late_ones(self) -> None:
        """End what hangs."""
        late = time.monotonic() - 60 * self.launcher.hung_minutes
        hung = [job for job in self._jobs if job.heard < late]
        for child in [child for child in self.pool.children if child.tag in hung]:
            child.tag.kind = "hung"
            self.pool.kill(child)
