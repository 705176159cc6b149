"""The ledger of a run: who trains it, in which attempt, and how that went.

``attempts/N.json`` says which process has claimed the N-th attempt; only one process can make that
file. A claim holds until its attempt has ended or its process is gone: on this machine the kernel
tells, elsewhere the heartbeat, whose age is taken by the clock of the file system alone, so hosts
need not agree on the time. ``state.json`` says the same to people and programs.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pfstudy.errors import PfstudyError
from pfstudy.files import cannot_write, read_json, write_json

State = Literal["pending", "running", "done", "failed", "interrupted"]
STATES: tuple[State, ...] = ("done", "running", "pending", "interrupted", "failed")

ATTEMPTS = "attempts"
RECORD = "record.json"
STATE = "state.json"

HEARTBEAT_S = 10.0
STALE_S = 60.0
"""A claim of another machine is given up when its heartbeat is that old."""


@dataclass(frozen=True)
class Status:
    """What the ledger says of a run.

    Attributes:
        state: The state; one that says ``running`` of a process that is gone is ``interrupted``.
        attempt: Number of the last attempt; 0 if there was none.
        written: ``state.json``: host, pid, heartbeat, reason, log, epoch, ...
    """

    state: State
    attempt: int
    written: Mapping[str, Any]


def state_of(directory: Path) -> State:
    """State of a run."""
    if (directory / RECORD).exists():
        return "done"
    return read_status(directory, lenient=True).state


def read_status(directory: Path, *, lenient: bool = False) -> Status:
    """Read what the ledger says of a run.

    Args:
        directory: The run directory.
        lenient: Whether a damaged ``state.json``, as a power cut may leave it, counts as none:
            claims and records are what decides.

    Raises:
        PfstudyError: ``state.json`` is damaged.
    """
    path = directory / STATE
    try:
        written = read_json(path) if path.exists() else {}
    except PfstudyError:
        if not lenient:
            raise
        written = {}
    attempt = _last_attempt(directory)
    state: State = written.get("state", "pending")
    if (directory / RECORD).exists():
        state = "done"
    elif attempt and _holds(directory, attempt, written):
        state = "running"
    elif state in ("running", "done") or attempt > written.get("attempt", 0):
        state = "interrupted"  # its process, or its record, is gone
    return Status(state, attempt, written)


class Claim:
    """The right to train a run in one attempt; ends with `end`, or with this process.

    Attributes:
        directory: The run directory.
        attempt: Which attempt it is, counted from 1.
    """

    def __init__(self, directory: Path, attempt: int) -> None:
        self.directory = directory
        self.attempt = attempt
        self._lost = False
        self._progress: dict[str, Any] = {}
        self._lock = threading.Lock()

    def write(self, **progress: Any) -> None:
        """Write that the run is being trained, and how far it is.

        Raises:
            PfstudyError: It cannot be written, or the claim is lost.
        """
        self.check()
        with self._lock:
            self._progress |= progress
            self._write("running", self._progress)

    def check(self) -> None:
        """Check that nobody began another attempt meanwhile.

        Raises:
            PfstudyError: Somebody did.
        """
        if self.is_lost():
            raise PfstudyError(
                f"{self.directory}: another process took this one for dead and trains the run."
            )

    def is_lost(self) -> bool:
        """Whether another attempt was begun, or the run was taken away."""
        own = _attempt_path(self.directory, self.attempt)
        self._lost = self._lost or _last_attempt(self.directory) > self.attempt or not own.exists()
        return self._lost

    def end(self, state: State, **details: Any) -> None:
        """Write how the attempt ended, unless the claim is lost."""
        if not self.is_lost():
            with self._lock:
                self._write(state, {**self._progress, **details})

    @contextmanager
    def beating(self) -> Iterator[None]:
        """Show others that this process lives, until the end of the context."""
        ended = threading.Event()

        def beat() -> None:
            lost = False
            while not ended.wait(HEARTBEAT_S):
                with suppress(OSError):
                    lost = self.is_lost()
                if lost:  # a beat of ours would make a dead successor look alive
                    return
                with suppress(OSError):
                    os.utime(self.directory / STATE)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _write(self, state: State, details: Mapping[str, Any]) -> None:
        entry = {"state": state, "attempt": self.attempt, **_owner(), "heartbeat": time.time()}
        write_json(self.directory / STATE, {**entry, **details})


def claim(directory: Path) -> Claim | None:
    """Claim the next attempt at a run.

    Returns:
        The claim; ``None`` if the run is done, or another process has claimed it.

    Raises:
        PfstudyError: The directory cannot be written to.
    """
    while True:
        status = read_status(directory, lenient=True)
        if status.state in ("done", "running"):
            return None
        attempt = max(status.attempt, status.written.get("attempt", 0)) + 1
        path = _attempt_path(directory, attempt)
        try:
            path.parent.mkdir(exist_ok=True)
        except OSError as error:
            raise cannot_write(path, error) from None
        if not write_json(path, _owner(), once=True):
            continue
        if (directory / RECORD).exists():  # done since we looked
            path.unlink()
            return None
        claimed = Claim(directory, attempt)
        try:
            claimed.write()
        except PfstudyError:
            path.unlink(missing_ok=True)
            raise
        return claimed


def bury(directory: Path, pid: int, state: State, **details: Any) -> None:
    """Write how an attempt ended whose process, on this machine, cannot do so any more.

    Nothing is written of a run that is done, or that another process has claimed meanwhile.
    """
    status = read_status(directory, lenient=True)
    owner = _read_owner(directory, status.attempt)
    is_others = owner.get("pid") != pid or owner.get("machine") != _machine()
    if status.state == "done" or (status.state == "running" and is_others):
        return
    kept = {key: value for key, value in status.written.items() if key != "heartbeat"}
    entry = {**kept, **owner, "state": state, "attempt": status.attempt}
    write_json(directory / STATE, {**entry, **details})


def write_pending(directory: Path) -> None:
    """Write that a run is to be trained, unless the ledger says something already."""
    if not (directory / STATE).exists() and not (directory / RECORD).exists():
        write_json(directory / STATE, {"state": "pending", "attempt": 0}, once=True)


def last_accumulation(directory: Path, asked: int = 1) -> int:
    """The accumulation of the last attempt, which one that goes on must share; else that asked."""
    written = read_status(directory, lenient=True).written
    usual = 1 if written.get("attempt") else asked  # nothing else is written of an attempt
    return int(written.get("accumulation", usual))


def heartbeat_age_s(directory: Path) -> float:
    """Age of the last heartbeat, by the clock of the file system."""
    beats = [directory / STATE, _attempt_path(directory, _last_attempt(directory))]
    last = 0.0
    for path in beats:
        with suppress(OSError):  # it may be gone by now
            last = max(last, path.stat().st_mtime)
    return max(0.0, _file_system_time(directory) - last)


def _holds(directory: Path, attempt: int, written: Mapping[str, Any]) -> bool:
    """Whether the claim of the last attempt holds."""
    if written.get("attempt") == attempt and written.get("state") != "running":
        return False
    owner = _read_owner(directory, attempt)
    if owner.get("machine") == _machine():
        return _started_at(int(owner.get("pid", 0))) == owner.get("pid_started")
    return heartbeat_age_s(directory) < STALE_S


def _last_attempt(directory: Path) -> int:
    try:
        names = [path.stem for path in (directory / ATTEMPTS).iterdir()]
    except OSError:
        return 0
    return max((int(name) for name in names if name.isdigit()), default=0)


def _attempt_path(directory: Path, attempt: int) -> Path:
    return directory / ATTEMPTS / f"{attempt}.json"


def _read_owner(directory: Path, attempt: int) -> dict[str, Any]:
    """Who claimed an attempt; nothing if that is damaged, as a power cut may leave it."""
    try:
        owner = json.loads(_attempt_path(directory, attempt).read_text())
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _owner() -> dict[str, Any]:
    return {
        "host": platform.node(),
        "pid": os.getpid(),
        "pid_started": _started_at(os.getpid()),
        "machine": _machine(),
    }


@cache
def _machine() -> str:
    """What process ids are unique in: a boot of a host, and a namespace of its containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return platform.node()


def _started_at(pid: int) -> int | None:
    """When a process started, in ticks since boot; ``None`` if it is gone."""
    try:
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if after_name[0] in "ZX" else int(after_name[19])


def _file_system_time(directory: Path) -> float:
    """The time by the clock that stamps the files of a directory."""
    try:
        with tempfile.NamedTemporaryFile(dir=directory) as file:
            os.utime(file.name)
            return Path(file.name).stat().st_mtime
    except OSError:  # a reader who may not write
        return time.time()
