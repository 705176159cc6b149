"""Real sweeps that are under way, and the processes that they are made of."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from pfstudy import files, ledger

MARK = "PFSTUDY_TEST_MARK"
PATIENCE_S = 240


def wait_until(
    condition: Callable[[], Any], what: str, while_runs: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll, and give up after a long while, or when a process has ended before its time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        assert while_runs is None or while_runs.poll() is None, f"it ended before {what}"
        time.sleep(0.02)


def marked_processes(mark: str) -> dict[int, str]:
    """Process ids with command lines of those that were started with a mark; none that ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if f"{MARK}={mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def parent_of(process: int) -> int | None:
    """Process id of the parent of a process; ``None`` if it is gone."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[1])


@dataclass(frozen=True, eq=False)
class Sweep:
    """A command in a session of its own; its processes are known by a variable.

    Attributes:
        directory: Its working directory.
        mark: The variable's value.
        parent: The command.
        log: What it says.
    """

    directory: Path
    mark: str
    parent: subprocess.Popen[bytes]
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def runs_dir(self) -> Path:
        return self.directory / "runs"

    def processes(self) -> dict[int, str]:
        """Process ids of the command with their command lines; none that has ended."""
        return marked_processes(self.mark)

    def forkserver(self) -> int | None:
        """The process that runs are forked from."""
        found = [
            process
            for process, command in self.processes().items()
            if "multiprocessing.forkserver" in command and parent_of(process) == self.parent.pid
        ]
        return found[0] if found else None

    def children(self) -> list[int]:
        """The processes that the forkserver has forked."""
        forkserver = self.forkserver()
        return [process for process in self.processes() if parent_of(process) == forkserver]

    def services(self) -> list[int]:
        """The processes of W&B."""
        return [process for process, command in self.processes().items() if "wandb-core" in command]

    def run_dir(self, label: str, seed: int = 0) -> Path:
        (found,) = self.runs_dir.glob(f"*-{label}-*/seed{seed}")
        return found

    def state(self, label: str, seed: int = 0) -> dict[str, Any]:
        """What ``state.json`` says."""
        return files.read_json(self.run_dir(label, seed) / ledger.STATE)

    def state_of(self, label: str, seed: int = 0) -> ledger.State:
        return ledger.state_of(self.run_dir(label, seed))

    def attempts(self, label: str, seed: int = 0) -> int:
        return len(list((self.run_dir(label, seed) / ledger.ATTEMPTS).glob("*.json")))

    def tracked(self, label: str, seed: int = 0) -> list[str]:
        """The ids of the runs of W&B but for their random end: identity, seed and attempt."""
        found = self.run_dir(label, seed).glob("wandb/offline-run-*")
        return sorted("-".join(path.name.split("-")[3:6]) for path in found)

    def num_epochs(self, label: str, seed: int = 0) -> int:
        """How many epochs stand in ``metrics.csv``."""
        pattern = f"*-{label}-*/seed{seed}/metrics.csv"
        paths = list(self.runs_dir.glob(pattern))
        return len(paths[0].read_text().splitlines()) - 1 if paths else 0

    def wait_for_epochs(self, number: int, *labels: str) -> None:
        """Wait until every one of some variants has ended that many epochs."""
        for label in labels:
            wait_until(
                lambda label=label: self.num_epochs(label) >= number,
                f"{label} has ended {number} epochs",
                self.parent,
            )

    def wait_for_output(self, text: str, times: int = 1) -> None:
        wait_until(lambda: self.output.count(text) >= times, f"it says {text!r}", self.parent)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait until it ends, and return its exit code."""
        return self.parent.wait(patience_s)

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not self.processes(), f"these end: {self.processes()}")

    def kill_all(self) -> None:
        for process in self.processes():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.parent.wait()


@dataclass
class Sweeps:
    """Starts commands, and ends whatever is left of them at the end.

    Attributes:
        executable: The console script.
        environment: The environment of the commands.
        started: Those that were.
    """

    executable: str
    environment: Mapping[str, str]
    started: list[Sweep] = field(default_factory=list)

    def __enter__(self) -> Sweeps:
        return self

    def __exit__(self, *_: object) -> None:
        for sweep in self.started:
            sweep.kill_all()

    def start(self, directory: Path, *arguments: str) -> Sweep:
        """Give a command in a directory."""
        mark = uuid4().hex
        log = directory / f"output{len(self.started)}"
        with log.open("wb") as output:
            parent = subprocess.Popen(
                [self.executable, *arguments],
                cwd=directory,
                env={**self.environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.started.append(Sweep(directory, mark, parent, log))
        return self.started[-1]


def resumed_like(directory: Path, reference: Path) -> bool:
    """Whether two runs say the same of every test image, to the bit."""
    import numpy as np

    with (
        np.load(directory / "predictions.npz") as mine,
        np.load(reference / "predictions.npz") as other,
    ):
        return bool(np.array_equal(mine["logits"], other["logits"]))
