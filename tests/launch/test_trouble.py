"""Sweeps in trouble: other launchers, processes that die early, other sweeps, full disks."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from configs import variant_of
from pfstudy import files, ledger, store
from pfstudy.launch.display import Display
from pfstudy.launch.measure import measure_speed
from pfstudy.launch.pool import Pool
from pfstudy.speed import archive
from pfstudy.tasks import Device
from trouble import SMALL, set_pace, write_module
from under_way import PATIENCE_S, Sweep, Sweeps, wait_until

Ended = subprocess.CompletedProcess[str]
Pfstudy = Callable[..., Ended]
PfstudyTogether = Callable[..., dict[str, Ended]]


@pytest.fixture(scope="module")
def failing(
    pfstudy_together: PfstudyTogether, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Ended]]:
    """Runs that fail, with Hydra's launcher and with ours."""
    commands = {
        "basic": ("-m", *SMALL, "hydra/launcher=basic", "recipe.lr=1e9", "logger=none"),
        "ours": (
            *("-m", *SMALL, "imports=[trouble_ops]", "block.spatial=identity,dies,raises"),
            *("launcher.retries=0", "logger=none"),
        ),
    }
    directories = {name: tmp_path_factory.mktemp(name) for name in commands}
    write_module(directories["ours"])
    done = pfstudy_together({name: (directories[name], commands[name]) for name in commands})
    return {name: (directories[name], done[name]) for name in commands}


@pytest.mark.slow
class TestForeignLauncher:
    """Hydra's own launchers keep what a job raised to themselves."""

    def test_mistake_is_found_before_the_first_job(self, pfstudy: Pfstudy, tmp_path: Path) -> None:
        done = pfstudy(tmp_path, "-m", "hydra/launcher=basic", "block.spatial=original,maxpol")
        assert done.returncode == 2
        assert "operation 'maxpol' does not exist" in done.stderr
        assert not (tmp_path / "runs").exists()

    def test_failure_of_a_job_is_the_commands(self, failing: dict[str, tuple[Path, Ended]]) -> None:
        _, done = failing["basic"]
        assert done.returncode == 1
        assert "the training loss became" in done.stderr
        assert "Traceback" not in done.stderr


class TestFailingRuns:
    def test_exit_code_and_a_sentence_with_every_reason(
        self, failing: dict[str, tuple[Path, Ended]]
    ) -> None:
        _, done = failing["ours"]
        assert done.returncode == 1
        last = done.stderr.splitlines()[-1]
        assert last.startswith("pfstudy: 2 of 3 runs failed: ")
        assert "dies seed0 (its process was killed by SIGKILL)" in last
        assert "raises seed0 (RuntimeError: the paint is wet)" in last
        assert "Traceback" not in done.stdout + done.stderr

    def test_the_others_are_done_and_in_the_table(
        self, failing: dict[str, tuple[Path, Ended]]
    ) -> None:
        directory, done = failing["ours"]
        states = {
            path.parent.name.split("-")[2]: ledger.state_of(path)
            for path in directory.glob("runs/*/seed0")
        }
        assert states == {"identity": "done", "dies": "failed", "raises": "failed"}
        rows = [line.split()[0] for line in done.stdout.splitlines() if "0.00342" in line]
        assert rows == ["identity"]


def test_ctrl_c_while_importing_says_one_sentence(
    executable: str, environment: Mapping[str, str], tmp_path: Path
) -> None:
    """Ctrl-C of a terminal reaches the whole process group, the forkserver too."""
    sweep = subprocess.Popen(
        [executable, "block.spatial=maxpool", "speed=none", "logger=none"],
        cwd=tmp_path,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert sweep.stderr is not None
    said = ""
    while "importing torch" not in said:
        said += sweep.stderr.readline()
    time.sleep(1)  # into the imports
    os.killpg(sweep.pid, signal.SIGINT)
    said += sweep.communicate(timeout=PATIENCE_S)[1]
    assert sweep.returncode == 130
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("pfstudy: interrupted")
    assert not (tmp_path / "runs").exists()


def test_a_measuring_process_that_dies_costs_the_measurement_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variant = variant_of("block.spatial=maxpool", f"runs_dir={tmp_path / 'runs'}")
    with Display() as display, Pool(("pfstudy.launch.pool",)) as pool:
        start = pool.start

        def die(function: str, *arguments: object, **options: object) -> object:
            del function, arguments, options
            return start("os:abort")  # abort takes no report, so it cannot even start

        monkeypatch.setattr(pool, "start", die)
        device = Device("cpu", "cpu", "Some CPU")
        measure_speed(pool, display, device, [variant], archive.save)
    assert "speed could not be measured" in capfd.readouterr().err
    assert store.read_speeds(store.variant_directory(variant)) == []


@pytest.fixture(scope="module")
def sweeps(executable: str, environment: Mapping[str, str]) -> Iterator[Sweeps]:
    with Sweeps(executable, environment) as started:
        yield started


@dataclass(frozen=True)
class Concurrent:
    """Sweeps over one directory at the same time, which have ended.

    Attributes:
        killed: One that was killed in the middle.
        survivor: The same command.
        other: One that shares some of their runs.
        held: The runs that were trained by the one that was killed, by label.
    """

    killed: Sweep
    survivor: Sweep
    other: Sweep
    held: set[str]


@pytest.fixture(scope="module")
def concurrent(sweeps: Sweeps, tmp_path_factory: pytest.TempPathFactory) -> Concurrent:
    directory = tmp_path_factory.mktemp("concurrent")
    write_module(directory)
    set_pace(directory, 0.5)
    settings = (*SMALL, "-m", "imports=[trouble_ops]", "recipe.epochs=30", "logger=none")
    same = ("block.spatial=paced,paced_too,identity", "launcher.num_workers=2")
    twins = [sweeps.start(directory, *settings, *same) for _ in range(2)]
    other = sweeps.start(directory, *settings, "block.spatial=paced_too,maxpool")
    twins[0].wait_for_epochs(2, "paced", "paced_too")
    owner = twins[0].state("paced")["pid"]
    killed, survivor = sorted(twins, key=lambda sweep: owner not in sweep.processes())
    survivor.wait_for_output("paced seed0: is being trained by process")
    other.wait_for_output("maxpool seed0: ")
    mine = killed.processes()
    held = {label for label in ("paced", "paced_too") if killed.state(label)["pid"] in mine}
    killed.parent.kill()
    killed.parent.wait()
    wait_until(lambda: survivor.attempts("paced") == 2, "it is taken over", survivor.parent)
    set_pace(directory, 0)
    for sweep in (survivor, other):
        sweep.wait()
    return Concurrent(killed, survivor, other, held)


@pytest.mark.slow
class TestConcurrentSweeps:
    def test_those_that_live_end_well_with_whole_tables(self, concurrent: Concurrent) -> None:
        tables = {
            concurrent.survivor: ("paced", "paced_too", "identity"),
            concurrent.other: ("paced_too", "maxpool"),
        }
        for sweep, labels in tables.items():
            assert sweep.parent.returncode == 0, sweep.output
            rows = [line.split()[0] for line in sweep.output.splitlines() if line.strip()]
            assert set(labels) <= set(rows)
            assert "Traceback" not in sweep.output

    def test_each_says_who_trains_what_it_waits_for(self, concurrent: Concurrent) -> None:
        host = platform.node()
        line = rf"paced(_too)? seed0: is being trained by process \d+ on {re.escape(host)}"
        assert re.search(line, concurrent.survivor.output)

    def test_runs_of_the_one_that_was_killed_are_taken_over(self, concurrent: Concurrent) -> None:
        assert "paced" in concurrent.held
        for label in ("paced", "paced_too"):
            assert concurrent.survivor.state_of(label) == "done"
            assert concurrent.survivor.attempts(label) == 1 + (label in concurrent.held)

    def test_nothing_is_trained_again_once_it_is_done(self, concurrent: Concurrent) -> None:
        for label in ("paced", "paced_too", "identity", "maxpool"):
            record = files.read_json(concurrent.survivor.run_dir(label) / ledger.RECORD)
            assert record["training"]["attempts"] == concurrent.survivor.attempts(label)

    def test_nothing_is_left(self, concurrent: Concurrent) -> None:
        for sweep in (concurrent.killed, concurrent.survivor, concurrent.other):
            sweep.wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 2 MB, as ``runs`` of a working directory."""
    runs = tmp_path_factory.mktemp("disk") / "runs"
    runs.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "pfstudy-test", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
    try:
        yield runs
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


@dataclass(frozen=True)
class FullDisk:
    """A sweep whose disk got full in the middle.

    Attributes:
        full: The command.
        before: The records that there were, by path.
        after: The same ones behind the command.
        again: The same command, with room again.
        read_only: A command that could not write anything.
    """

    full: Sweep
    before: dict[Path, bytes]
    after: dict[Path, bytes]
    again: Sweep
    read_only: Sweep


@pytest.fixture(scope="module")
def full_disk(sweeps: Sweeps, small_disk: Path) -> FullDisk:
    directory = small_disk.parent
    write_module(directory)
    set_pace(directory, 0.5)
    grid = (*SMALL, "imports=[trouble_ops]", "block.spatial=identity,paced,paced_too")
    command = ("-m", *grid, "recipe.epochs=30", "launcher.num_workers=1", "logger=none")
    full = sweeps.start(directory, *command)
    full.wait_for_epochs(1, "paced")
    before = records_below(small_disk)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 1024)
    full.wait()
    after = records_below(small_disk)
    filler.unlink()
    set_pace(directory, 0)
    again = sweeps.start(directory, *command)
    again.wait()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    read_only = sweeps.start(directory, *command, "seed=1")
    read_only.wait()
    return FullDisk(full, before, after, again, read_only)


def records_below(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.glob("*/seed*/record.json")}


@pytest.mark.slow
class TestFullDisk:
    def test_one_clear_sentence_and_exit_code_2(self, full_disk: FullDisk) -> None:
        assert full_disk.full.parent.returncode == 2
        last = full_disk.full.output.splitlines()[-1]
        assert re.fullmatch(r"pfstudy: \S+ cannot be written: No space left on device\.", last)
        assert "Traceback" not in full_disk.full.output

    def test_records_stay_as_they_are(self, full_disk: FullDisk) -> None:
        assert len(full_disk.before) == 1
        assert full_disk.after == full_disk.before
        for path, content in full_disk.before.items():
            assert path.read_bytes() == content

    def test_with_room_the_same_command_finishes(self, full_disk: FullDisk) -> None:
        assert full_disk.again.parent.returncode == 0, full_disk.again.output
        assert "3 runs, 1 done before" in full_disk.again.output
        for label in ("identity", "paced", "paced_too"):
            assert full_disk.again.state_of(label) == "done"

    def test_no_process_is_left(self, full_disk: FullDisk) -> None:
        full_disk.full.wait_until_nothing_is_left()

    def test_read_only_directory_is_found_before_anything_starts(self, full_disk: FullDisk) -> None:
        assert full_disk.read_only.parent.returncode == 2
        (sentence,) = full_disk.read_only.output.splitlines()
        assert sentence.startswith("pfstudy: runs_dir=runs cannot be written to: ")
        assert "(Read-only file system); choose another with runs_dir=DIRECTORY." in sentence
        assert len(records_below(full_disk.again.runs_dir)) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_directory_without_the_right_to_write(pfstudy: Pfstudy, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o555)
    done = pfstudy(tmp_path, "block.spatial=maxpool")
    assert done.returncode == 2
    (sentence,) = done.stderr.splitlines()
    assert "runs_dir=runs cannot be written to" in sentence
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.slow
def test_a_thousand_variants(sweeps: Sweeps, tmp_path: Path) -> None:
    settings = (*SMALL, "recipe.epochs=1", "data.num_train=64", "logger=none")
    command = ("-m", *settings, "recipe.lr=range(1,1001)", "block.spatial=identity")
    first = sweeps.start(tmp_path, *command)
    assert first.wait(3600) == 0, first.output[-2000:]
    assert "1000 variants, 1000 runs, 0 done before" in first.output
    assert len(records_below(first.runs_dir)) == 1000
    (table,) = (first.runs_dir / "studies").glob("*/table.csv")
    assert len(table.read_text().splitlines()) == 1001
    again = sweeps.start(tmp_path, *command)
    assert again.wait(600) == 0
    assert "1000 runs, 1000 done before" in again.output
    assert "importing torch" not in again.output
    assert len(table.read_text().splitlines()) == 1001
    for sweep in (first, again):
        sweep.wait_until_nothing_is_left()
