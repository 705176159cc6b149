"""A disk that is full: a small file system of its own, on which some room is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from nursery import Nursery
from runs import (
    TINY,
    Moment,
    Outcome,
    Reports,
    assert_equal,
    make_task,
    read_outcome,
    train,
    train_and_stop,
)
from safetensors.torch import load_file
from torch import nn

from pfstudy import files, ledger, store
from pfstudy.errors import DiskError
from pfstudy.tasks import Task
from pfstudy.worker.checkpoints import find_checkpoint
from pfstudy.worker.results import save_weights
from pfstudy.worker.run import train_run

PAGE = 4096


class Disk:
    """A file system of 2 MB.

    Attributes:
        root: Where it is mounted.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._ballast = root / "ballast"

    @property
    def num_free(self) -> int:
        free = os.statvfs(self.root)
        return free.f_bavail * free.f_frsize

    def leave(self, num_bytes: int) -> None:
        """Fill it but for some room."""
        self._ballast.write_bytes(bytes(self.num_free - num_bytes))

    def make_room(self) -> None:
        self._ballast.unlink(missing_ok=True)

    def empty(self) -> None:
        self.make_room()
        shutil.rmtree(self.root / "runs", ignore_errors=True)

    def make_task(self, *overrides: str) -> Task:
        return make_task(self.root / "runs", *TINY, *overrides)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield Disk(root)
    subprocess.run(["umount", str(root)], check=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    task = make_task(tmp_path_factory.mktemp("uninterrupted"), *TINY, "trainer.keep=[last,best]")
    train(task)
    return read_outcome(task.directory)


def check_ended_well(directory: Path, error: DiskError) -> str:
    """Check what a full disk has left of a run.

    Returns:
        Name of the file that could not be written.
    """
    name, _, reason = str(error).partition(" cannot be written: ")
    assert Path(name).is_relative_to(directory)
    assert reason == "No space left on device."
    for path in directory.rglob("*"):
        assert not path.name.startswith("."), "a draft was left"
        if path.suffix == ".json":
            files.read_json(path)
        elif path.suffix == ".safetensors":
            load_file(path)
    find_checkpoint(directory / store.RESUME, pytest.fail)
    assert not (directory / ledger.RECORD).exists()
    written = ledger.read_status(directory).written
    if written["state"] == "failed":
        assert (written["kind"], written["reason"]) == ("disk", str(error))
    else:  # as before, for nothing could be written at all
        assert written["state"] == ("running" if written["attempt"] else "pending")
        let_process_vanish(directory)
    return Path(name).name


def let_process_vanish(directory: Path) -> None:
    """A process that could not even write how it ended has ended nevertheless."""
    for path in (directory / ledger.ATTEMPTS).glob("*.json"):
        owner = files.read_json(path)
        with path.open("r+") as file:  # in place, where no other room is left
            json.dump(owner | {"pid_started": 1}, file)
            file.truncate()


def fail_or_finish(disk: Disk, num_free: int, expected: Outcome) -> str | None:
    """Train a run with some room, and if that did not suffice, go on with more.

    Returns:
        Name of the file that could not be written, if one could not.
    """
    disk.empty()
    task = disk.make_task("trainer.keep=[last,best]")
    disk.leave(num_free)
    try:
        how = train_run(task, Reports())
    except DiskError as error:
        failed = check_ended_well(task.directory, error)
        disk.make_room()
        how = train_run(task, Reports())
    else:
        failed = None
    assert how == "done"
    assert_equal(read_outcome(task.directory), expected)
    return failed


def test_whichever_file_does_not_fit(disk: Disk, uninterrupted: Outcome) -> None:
    """From no room at all to just enough of it."""
    too_little, enough = 8 * PAGE, 256 * PAGE
    assert fail_or_finish(disk, 0, uninterrupted) == "1.json"
    assert fail_or_finish(disk, too_little, uninterrupted) == "best.safetensors"
    assert fail_or_finish(disk, enough, uninterrupted) is None
    failed = set()
    while enough - too_little > PAGE:
        middle = (too_little + enough) // 2 // PAGE * PAGE
        name = fail_or_finish(disk, middle, uninterrupted)
        if name is None:
            enough = middle
        else:
            too_little = middle
            failed.add(name)
    assert "last.safetensors" in failed
    assert failed - {"last.safetensors", "best.safetensors"}  # a small file, too


def test_the_checkpoint_before_is_gone_on_from(disk: Disk, uninterrupted: Outcome) -> None:
    task = disk.make_task("trainer.checkpoint_minutes=1e-9")
    train_and_stop(task, Moment("training", 1))
    path = task.directory / store.RESUME
    before = path.read_bytes()
    disk.leave(10 * PAGE)
    with pytest.raises(DiskError) as caught:
        train_run(task, Reports())
    assert check_ended_well(task.directory, caught.value) == "resume.ckpt"
    assert path.read_bytes() == before
    disk.make_room()
    train(task)
    assert_equal(read_outcome(task.directory), uninterrupted)


def test_old_weights_stay(disk: Disk) -> None:
    network, path = nn.Linear(100, 100), disk.root / "last.safetensors"
    save_weights(network, path)
    disk.leave(PAGE)
    with pytest.raises(DiskError) as caught:
        save_weights(nn.Linear(100, 100), path)
    assert str(caught.value) == f"{path} cannot be written: No space left on device."
    assert torch.equal(load_file(path)["weight"], network.weight)
    assert {file.name for file in disk.root.iterdir()} == {"ballast", "last.safetensors"}


def test_state_that_cannot_be_written_hides_no_record(
    disk: Disk, uninterrupted: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last page goes to the record; all that comes after it must do without."""
    task = disk.make_task()
    really = files.write_json

    def write(path: Path, *arguments: object, **options: object) -> None:
        really(path, *arguments, **options)  # type: ignore[arg-type]
        if path.name == ledger.RECORD:
            disk.leave(0)

    monkeypatch.setattr(files, "write_json", write)
    train(task)
    assert files.read_json(task.directory / ledger.STATE)["state"] == "running"
    assert ledger.state_of(task.directory) == "done"
    assert_equal(read_outcome(task.directory), uninterrupted)


@pytest.mark.slow
def test_is_one_sentence_on_the_command_line(
    disk: Disk, nursery: Nursery, uninterrupted: Outcome, tmp_path: Path
) -> None:
    task = disk.make_task()
    disk.leave(20 * PAGE)
    child = nursery.start(tmp_path / "log", task.directory)
    assert child.wait() == 2
    path = task.directory / store.WEIGHTS
    sentence = f"pfstudy: {path} cannot be written: No space left on device."
    assert child.output.splitlines()[-1] == sentence
    assert "Traceback" not in child.output
    disk.make_room()
    again = nursery.start(tmp_path / "log", task.directory)
    assert again.wait() == 0, again.output
    assert_equal(read_outcome(task.directory), uninterrupted)
