"""Real sweeps whose jobs another launcher starts, in the background."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors.numpy import load_file

from pfstudy import files, ledger, store
from trouble import SMALL, set_pace, write_module
from under_way import MARK, marked_processes, wait_until

Ended = subprocess.CompletedProcess[str]
Pfstudy = Callable[..., Ended]

NUM_EPOCHS = 12
RUN = (*SMALL, f"recipe.epochs={NUM_EPOCHS}", "imports=[trouble_ops]", "logger=none")
"""A run of 24 steps, of a network that may have operations of trouble's."""

_TASK = "submitit.core._submit"


class Given:
    """A command that was given.

    Attributes:
        directory: Its working directory.
        mark: By which its processes are known.
    """

    def __init__(self, directory: Path, mark: str, ended: Future[Ended]) -> None:
        self.directory = directory
        self.mark = mark
        self._ended = ended

    @property
    def done(self) -> Ended:
        """What it has said when it has ended, which is waited for."""
        return self._ended.result()

    def run_dir(self, label: str, seed: int = 0) -> Path:
        (found,) = self.directory.glob(f"runs/*-{label}-*/seed{seed}")
        return found

    def state(self, label: str, seed: int = 0) -> dict[str, Any]:
        return files.read_json(self.run_dir(label, seed) / ledger.STATE)

    def training(self, label: str, seed: int = 0) -> dict[str, Any]:
        """What the record says of the training."""
        record = files.read_json(self.run_dir(label, seed) / ledger.RECORD)
        training: dict[str, Any] = record["training"]
        return training

    def metrics(self, label: str) -> str:
        return (self.run_dir(label) / "metrics.csv").read_text()

    def weights(self, label: str) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = load_file(self.run_dir(label) / store.WEIGHTS)
        return found

    def outputs(self, ending: str) -> list[str]:
        """What the tasks of all jobs of submitit's have said, on ``out`` or ``err``."""
        paths = sorted(self.directory.glob(f"runs/jobs/*/*_log.{ending}"))
        return [path.read_text() for path in paths]

    def tasks(self) -> list[int]:
        """The tasks of all jobs of submitit's."""
        found = marked_processes(self.mark)
        return [process for process, command in found.items() if _TASK in command]

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait, unless the command ends before its time."""

        def holds() -> bool:
            assert not self._ended.done(), self.done
            return bool(condition())

        wait_until(holds, what)

    def wait_for_epochs(self, number: int, label: str) -> None:
        pattern = f"runs/*-{label}-*/seed0/metrics.csv"

        def is_so_far() -> bool:
            paths = list(self.directory.glob(pattern))
            return bool(paths) and len(paths[0].read_text().splitlines()) > number

        self.wait_until(is_so_far, f"{label} has ended {number} epochs")

    def preempt(self, announce: Callable[[], None]) -> str:
        """Announce in the middle of training that ``paced`` must stop, and speed up what goes on.

        Returns:
            The metrics that there were.
        """
        self.wait_for_epochs(2, "paced")
        announce()
        self.wait_until(lambda: self.state("paced")["state"] != "running", "it has stopped")
        set_pace(self.directory, 0)
        return self.metrics("paced")

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not marked_processes(self.mark), "its processes are gone")


class Commands:
    """Gives commands in the background, and ends what is left of them.

    Args:
        pfstudy: Runs one until it ends.
        make_directory: Makes a working directory of some name.
    """

    def __init__(self, pfstudy: Pfstudy, make_directory: Callable[[str], Path]) -> None:
        self._pfstudy = pfstudy
        self._make_directory = make_directory
        self._threads = ThreadPoolExecutor(max_workers=8)
        self._marks: list[str] = []

    def __enter__(self) -> Commands:
        return self

    def __exit__(self, *_: object) -> None:
        for mark in self._marks:
            for process in marked_processes(mark):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self._threads.shutdown()

    def give(
        self,
        name: str,
        *arguments: str,
        pace: float = 0.0,
        variables: Mapping[str, str] | None = None,
    ) -> Given:
        """Give a command in a new directory, where steps of ``paced`` take some seconds."""
        directory = self._make_directory(name)
        write_module(directory)
        set_pace(directory, pace)
        return self.again(directory, *arguments, variables=variables)

    def again(
        self, directory: Path, *arguments: str, variables: Mapping[str, str] | None = None
    ) -> Given:
        """Give a command in a directory that there is."""
        mark = uuid4().hex
        self._marks.append(mark)
        ended = self._threads.submit(
            self._pfstudy, directory, *arguments, **{**(variables or {}), MARK: mark}
        )
        return Given(directory, mark, ended)


def are_equal(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    """Whether two networks have the same weights, to the bit."""
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def table_rows(stdout: str) -> list[str]:
    """The first column of the one table that was printed."""
    lines = [line.strip() for line in stdout.splitlines()]
    (rule,) = [number for number, line in enumerate(lines) if line and set(line) == {"─"}]
    assert lines[rule - 1].startswith("variant ")
    return [line.split()[0] for line in lines[rule + 1 : lines.index("", rule)]]
