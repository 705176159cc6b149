"""The training phase of a sweep: runs on slots, what fails tried again, nothing twice."""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfstudy import files, ledger, store
from pfstudy.errors import DiskError, is_about_memory
from pfstudy.launch.display import Display
from pfstudy.launch.failures import count_oom_kills, log_tail
from pfstudy.launch.pool import Child, Event, Pool
from pfstudy.schema.config import Launcher
from pfstudy.tasks import Slot, Task, visible_devices
from pfstudy.tuning import is_trial
from pfstudy.words import duration

_TICK_S = 1.0
_LOOK_ELSEWHERE_S = 3.0
_OTHER_RANKS_S = 5.0
_DUMP_S = 1.0
_NOT_AGAIN = ("diverged", "disk", "user")


@dataclass(frozen=True)
class _Todo:
    """A run that is to be trained.

    Attributes:
        run: The run.
        num_tries: How often it was tried in this sweep.
        accumulation: Number of steps by which the gradient of a batch is accumulated.
    """

    run: store.Run
    num_tries: int = 0
    accumulation: int = 1


@dataclass(eq=False)
class _Job:
    """A run that is being trained, by one process or several.

    Attributes:
        todo: The run.
        slot: Where.
        children: Its processes that live, the first rank's first.
        pid: Process of the first rank, which writes.
        started: When.
        heard: When one of them last said anything.
        oom_kills: What the kernel had killed for memory before.
        value: What the first rank returned.
        problem: What went wrong first.
        kind: Why they are, where it is not what a process said.
        kill_at: When the processes that are left are killed.
    """

    todo: _Todo
    slot: Slot
    children: list[Child]
    pid: int
    started: float
    heard: float
    oom_kills: int
    value: str | None = None
    problem: Event | None = None
    kind: str | None = None
    kill_at: float | None = None


class Training:
    """Trains runs until all are done, here or elsewhere, or have failed.

    Args:
        pool: Where their processes come from.
        display: Told of them.
        names: Of the runs, by directory.
        slots: Where they are trained.
        launcher: What is done when one fails.
        make_task: Makes the task of a run but for its devices and accumulation.

    Attributes:
        failed: Reason by name of the run, for those that failed.
    """

    def __init__(
        self,
        pool: Pool,
        display: Display,
        names: Mapping[Path, str],
        slots: Sequence[Slot],
        launcher: Launcher,
        make_task: Callable[[store.Run, Slot, int], Task],
    ) -> None:
        self.pool = pool
        self.display = display
        self.names = names
        self.launcher = launcher
        self.make_task = make_task
        self.failed: dict[str, str] = {}
        self._free = deque(slots)
        self._jobs: list[_Job] = []
        self._waiting: deque[_Todo] = deque()
        self._elsewhere: dict[Path, store.Run] = {}
        self._looked = 0.0

    def run(self, runs: Iterable[store.Run], on_event: Callable[[Event], None]) -> None:
        """Train runs.

        Args:
            runs: Those that are not done.
            on_event: Told of what a run reports that is not about the run itself.

        Raises:
            DiskError: Nothing can be written any more.
        """
        self._waiting.extend(_Todo(run, accumulation=_accumulation_of(run)) for run in runs)
        while True:
            self._fill()
            self._look_elsewhere()
            if not self._jobs and not self._waiting:
                if not self._elsewhere:
                    return
                time.sleep(_TICK_S)
                continue
            event = self.pool.next_event(_TICK_S)
            if event is not None:
                self._hear(event, on_event)
            self._end_late_ones()

    def _fill(self) -> None:
        while self._waiting and self._free:
            self._start(self._waiting.popleft(), self._free.popleft())

    def _start(self, todo: _Todo, slot: Slot) -> None:
        run, num_ranks = todo.run, len(slot.devices)
        task = self.make_task(run, slot, todo.accumulation)
        common = visible_devices(slot.devices)
        if num_ranks > 1:
            common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            common |= {"WORLD_SIZE": str(num_ranks), "LOCAL_WORLD_SIZE": str(num_ranks)}
        job = _Job(todo, slot, [], 0, time.monotonic(), time.monotonic(), count_oom_kills())
        for rank in range(num_ranks):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if num_ranks > 1 else {}
            child = self.pool.start(
                "pfstudy.worker.run:train_run",
                task,
                log=_log_of(run, rank),
                environment=common | own,
                cores=slot.cores,
                tag=(job, rank),
            )
            job.children.append(child)
        job.pid = job.children[0].process.pid
        self._jobs.append(job)
        self.display.bar(self.names[run.directory], slot=slot.name)

    def _hear(self, event: Event, on_event: Callable[[Event], None]) -> None:
        job, rank = event.child.tag
        job.heard = time.monotonic()
        name = self.names[job.todo.run.directory]
        if not event.is_last:
            if event.kind == "epoch":
                self.display.epoch(name, event.details)
            elif event.kind == "step":
                self.display.step(name, event.details)
            elif event.kind == "note":
                self.display.note(f"{name}: {event.details['text']}")
            else:
                on_event(event)
            return
        job.children.remove(event.child)
        if event.kind == "result" and rank == 0:
            job.value = event.details["value"]
        elif event.kind != "result" and _is_cause(event, job.problem):
            job.problem = event
            job.kill_at = job.kill_at or time.monotonic() + _OTHER_RANKS_S
        if not job.children:
            self._end(job)

    def _end_late_ones(self) -> None:
        """End what hangs, and the processes that an ended one has left waiting for it."""
        now = time.monotonic()
        for job in self._jobs:
            if job.kill_at is None and now - job.heard > 60 * self.launcher.hung_minutes:
                job.kind, job.kill_at = "hung", now + _DUMP_S
                for child in job.children:
                    self.pool.dump(child)
            if job.kill_at is not None and now > job.kill_at:
                for child in job.children:
                    self.pool.kill(child)

    def _end(self, job: _Job) -> None:
        """Say how a run ended, free its slot, and see whether it is tried again."""
        self._jobs.remove(job)
        self._free.append(job.slot)
        run, name = job.todo.run, self.names[job.todo.run.directory]
        self.display.drop_bar(name)
        if ledger.state_of(run.directory) == "done":
            self._say_done(run, f" in {duration(time.monotonic() - job.started)}")
        elif job.value == "elsewhere":
            status = ledger.read_status(run.directory).written
            where = f"process {status.get('pid', '?')} on {status.get('host', 'another host')}"
            self.display.note(f"{name}: is being trained by {where}")
            self._elsewhere[run.directory] = run
        else:
            self._fail(job)

    def _fail(self, job: _Job) -> None:
        run, name = job.todo.run, self.names[job.todo.run.directory]
        reason, kind = self._reason(job)
        problem = None if kind == "hung" else job.problem
        log = _log_of(run, problem.child.tag[1] if problem else 0)
        tail = log_tail(log)
        ledger.bury(run.directory, job.pid, "failed", reason=reason, kind=kind, log=tail)
        if kind == "disk":
            raise DiskError(reason)
        again = self._again(job.todo, kind, len(job.slot.devices))
        if again is None:
            self.failed[name] = reason
            self.display.end(name, f"failed: {reason} (log: {log})")
            return
        how = "tried again"
        if again.accumulation > job.todo.accumulation:
            how += f" with {again.accumulation} steps of accumulation"
        self.display.note(f"{name}: {reason}; {how}")
        self._waiting.append(again)

    def _again(self, todo: _Todo, kind: str, num_ranks: int) -> _Todo | None:
        """Whether, and how, a run that failed is tried again."""
        parts = 2 * todo.accumulation
        if kind == "memory" and self.launcher.halve_batch:
            recipe = todo.run.variant.config.recipe
            least = 2 if recipe.augmentation.mixes else 1  # images that are mixed come in pairs
            if recipe.batch_size % (parts * num_ranks * least) == 0:
                return _Todo(todo.run, todo.num_tries, parts)
            return None
        if kind in _NOT_AGAIN or todo.num_tries >= self.launcher.retries:
            return None
        return _Todo(todo.run, todo.num_tries + 1, todo.accumulation)

    def _reason(self, job: _Job) -> tuple[str, str]:
        """Why a run failed, in a sentence and in a word."""
        if job.kind == "hung":
            after = duration(60 * self.launcher.hung_minutes)
            return f"no progress for {after}; where it hung stands in its log", "hung"
        assert job.problem is not None
        reason = str(job.problem.details["reason"])
        _, rank = job.problem.child.tag
        if rank:
            reason = f"rank {rank}: {reason}"
        if job.problem.kind == "died":
            if "SIGKILL" in reason and count_oom_kills() > job.oom_kills:
                return f"{reason}, as the host was out of memory", "memory"
            return reason, "killed"
        written = ledger.read_status(job.todo.run.directory).written
        kind = written.get("kind", "error") if written.get("pid") == job.pid else "error"
        if kind == "error" and is_about_memory(reason):  # of another rank than the one that writes
            kind = "memory"
        elif kind == "error" and job.problem.details["user"]:
            kind = "user"
        return reason, str(kind)

    def _look_elsewhere(self) -> None:
        """See what became of the runs that other processes train; one that was left is taken."""
        if time.monotonic() - self._looked < _LOOK_ELSEWHERE_S:
            return
        self._looked = time.monotonic()
        for directory, run in list(self._elsewhere.items()):
            status = ledger.read_status(directory)
            if status.state == "running":
                continue
            del self._elsewhere[directory]
            if status.state == "done":
                self._say_done(run, ", trained elsewhere")
            else:
                self._waiting.append(_Todo(run, accumulation=_accumulation_of(run)))

    def _say_done(self, run: store.Run, how: str) -> None:
        metrics: Mapping[str, Any] = files.read_json(run.directory / ledger.RECORD)["metrics"]
        if is_trial(run.directory):
            text = f"{metrics['val_top1_percent']:.2f} % on validation{how}"
        else:
            text = f"{metrics['test_top1_percent']:.2f} %{how}"
        self.display.end(self.names[run.directory], text)


def _accumulation_of(run: store.Run) -> int:
    return ledger.last_accumulation(run.directory, run.variant.config.trainer.accumulation)


def _log_of(run: store.Run, rank: int) -> Path:
    return run.directory / (f"run.rank{rank}.log" if rank else "run.log")


def _is_cause(event: Event, before: Event | None) -> bool:
    """Whether an event says why a run failed, not only that another rank is gone."""
    if before is None:
        return True
    return _is_echo(before) and not _is_echo(event)


def _is_echo(event: Event) -> bool:
    reason = str(event.details["reason"]).lower()
    return any(word in reason for word in ("connection", "gloo", "nccl", "interrupted"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
