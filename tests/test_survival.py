"""Whatever is killed, the same command ends with every run done once, as if nothing had been."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pfstudy import files, ledger
from trouble import SMALL, set_pace, write_module
from under_way import Sweep, Sweeps, wait_until

SEED = int(os.environ.get("PFSTUDY_TEST_SEED") or time.time_ns() % 1_000_000)
NUM_ROUNDS = 25
VICTIMS = ("parent", "child", "rank", "forkserver", "service")

OFTEN = ("trainer.checkpoint_minutes=0.0005",)
NUM_EPOCHS = 30
SETTINGS = (*SMALL, "-m", "imports=[trouble_ops]", *OFTEN, f"recipe.epochs={NUM_EPOCHS}")


@pytest.fixture(scope="module")
def sweeps(executable: str, environment: Mapping[str, str]) -> Iterator[Sweeps]:
    with Sweeps(executable, environment) as started:
        yield started


@dataclass
class Records:
    """Watches the records of a directory from the outside: each is written once and stays.

    Attributes:
        runs_dir: The directory.
        seen: What stood in a record when it was first seen, and the attempts that there were.
        problems: What was not as it should be.
    """

    runs_dir: Path
    seen: dict[Path, tuple[bytes, int, set[str]]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def look(self) -> None:
        for path in self.runs_dir.glob("*/seed*/record.json"):
            attempts = {entry.name for entry in (path.parent / ledger.ATTEMPTS).glob("*.json")}
            now = (path.read_bytes(), path.stat().st_mtime_ns, attempts)
            if self.seen.setdefault(path, now) != now:
                self.problems.append(f"{path} was {self.seen[path]}, and is {now}")

    def watch(self, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            self.look()


def check_directory(runs_dir: Path, num_runs: int) -> None:
    """Check that every run of a directory is done once, wholly, and every file whole."""
    for path in runs_dir.rglob("*.json"):
        files.read_json(path)
    runs = list(runs_dir.glob("*/seed*"))
    assert len(runs) == num_runs
    for directory in runs:
        state = files.read_json(directory / ledger.STATE)
        record = files.read_json(directory / ledger.RECORD)
        claims = (directory / ledger.ATTEMPTS).glob("*.json")
        attempts = sorted(int(path.stem) for path in claims)
        assert state["state"] == "done"
        assert attempts == list(range(1, len(attempts) + 1))
        assert state["attempt"] == record["training"]["attempts"] == len(attempts)
        lines = (directory / "metrics.csv").read_text().splitlines()
        num_epochs = record["training"]["epochs"]
        epochs = [line.split(",")[0] for line in lines]
        assert epochs == ["epoch", *(str(epoch) for epoch in range(1, num_epochs + 1))]
        tracked = [path.name.split("-") for path in directory.glob("wandb/offline-run-*")]
        assert {int(parts[5]) for parts in tracked} <= set(attempts)


def results(runs_dir: Path) -> dict[str, Any]:
    """The metrics of every run, which do not depend on how often it was interrupted."""
    records = {path.parent: files.read_json(path) for path in runs_dir.glob("*/seed*/record.json")}
    return {str(path.relative_to(runs_dir)): record["metrics"] for path, record in records.items()}


@dataclass(frozen=True)
class Survivor:
    """A directory in which one thing of every kind was killed, one after the other.

    Attributes:
        sweep: The sweep until its command was killed.
        again: The same command, which has ended.
        ranks: A run of two ranks, one of which was killed.
        records: The records of the directory.
        orphans: Processes that were training when the forkserver was killed.
        kept: Those that were still training afterwards.
        states: The states of the runs behind the death of the command.
    """

    sweep: Sweep
    again: Sweep
    ranks: Sweep
    records: Records
    orphans: set[int]
    kept: set[int]
    states: set[ledger.State]


@pytest.fixture(scope="module")
def survivor(sweeps: Sweeps, tmp_path_factory: pytest.TempPathFactory) -> Survivor:
    directory = tmp_path_factory.mktemp("survivor")
    write_module(directory)
    set_pace(directory, 0.5)
    records = Records(directory / "runs")
    command = (*SETTINGS, "block.spatial=paced,paced_too", "seeds=2", "launcher.num_workers=2")
    sweep = sweeps.start(directory, *command)
    with_ranks = (*SETTINGS, "block.spatial=paced", "trainer.devices=2", "seed=7")
    ranks = sweeps.start(directory, *with_ranks)

    sweep.wait_for_epochs(2, "paced", "paced_too")
    os.kill(sweep.state("paced")["pid"], signal.SIGKILL)
    sweep.wait_for_output("its process was killed by SIGKILL; tried again")

    wait_until(lambda: ranks.num_epochs("paced", 7) >= 2, "two ranks train", ranks.parent)
    first = ranks.state("paced", 7)["pid"]
    (second,) = [process for process in ranks.children() if process != first]
    os.kill(second, signal.SIGKILL)

    wait_until(lambda: len(sweep.children()) == 2, "two runs are trained", sweep.parent)
    orphans = set(sweep.children())
    forkserver = sweep.forkserver()
    assert forkserver is not None
    os.kill(forkserver, signal.SIGKILL)
    sweep.wait_for_epochs(sweep.num_epochs("paced_too") + 2, "paced_too")
    kept = orphans & set(sweep.processes())

    for service in sweep.services():
        os.kill(service, signal.SIGKILL)
    sweep.wait_for_output("tracking is lost", times=2)
    set_pace(directory, 0)
    wait_until(lambda: sweep.output.count("% in") >= 2, "two runs are done", sweep.parent)
    records.look()
    set_pace(directory, 0.5)
    wait_until(lambda: len(sweep.children()) == 2, "two runs are trained", sweep.parent)
    sweep.parent.kill()
    sweep.parent.wait()
    sweep.wait_until_nothing_is_left()
    states = {ledger.state_of(path) for path in sweep.runs_dir.glob("*/seed[01]")}

    set_pace(directory, 0)
    again = sweeps.start(directory, *command)
    for one in (again, ranks):
        one.wait()
    records.look()
    return Survivor(sweep, again, ranks, records, orphans, kept, states)


@pytest.mark.slow
class TestOneOfEachKind:
    def test_everything_is_done_once(self, survivor: Survivor) -> None:
        assert survivor.again.parent.returncode == 0, survivor.again.output
        assert "Traceback" not in survivor.again.output
        check_directory(survivor.again.runs_dir, 5)
        assert survivor.records.problems == []

    def test_child_was_tried_again(self, survivor: Survivor) -> None:
        (line,) = [line for line in survivor.sweep.output.splitlines() if "SIGKILL" in line]
        assert line.strip() == ("paced seed0: its process was killed by SIGKILL; tried again")
        assert survivor.again.attempts("paced") >= 2

    def test_orphans_of_the_forkserver_went_on(self, survivor: Survivor) -> None:
        assert len(survivor.orphans) == 2
        assert survivor.kept == survivor.orphans
        assert survivor.again.attempts("paced_too") == 1

    def test_without_the_service_training_went_on_and_said_so(self, survivor: Survivor) -> None:
        said = survivor.sweep.output
        assert said.count("tracking is lost") == 2

    def test_nothing_seems_to_run_when_the_command_is_dead(self, survivor: Survivor) -> None:
        assert survivor.sweep.parent.returncode == -signal.SIGKILL
        assert "running" not in survivor.states
        assert "done" in survivor.states

    def test_rank_was_tried_again_together_with_the_other(self, survivor: Survivor) -> None:
        assert survivor.ranks.parent.returncode == 0, survivor.ranks.output
        assert "rank 1: its process was killed by SIGKILL; tried again" in survivor.ranks.output
        assert survivor.ranks.attempts("paced", 7) == 2
        (record,) = survivor.ranks.runs_dir.glob("*-paced-*/seed7/record.json")
        assert files.read_json(record)["training"]["world_size"] == 2

    def test_nothing_is_left(self, survivor: Survivor) -> None:
        for sweep in (survivor.again, survivor.ranks):
            sweep.wait_until_nothing_is_left()


GRID = ("block.spatial=paced,paced_too,identity", "seeds=2", "launcher.num_workers=2")


@pytest.fixture(scope="module")
def undisturbed(sweeps: Sweeps, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """What the runs end with if nothing is killed, by the number of their ranks."""
    found = {}
    for devices in (1, 2):
        directory = tmp_path_factory.mktemp(f"undisturbed{devices}")
        write_module(directory)
        sweep = sweeps.start(directory, *SETTINGS, *GRID, f"trainer.devices={devices}")
        assert sweep.wait() == 0, sweep.output
        check_directory(sweep.runs_dir, 6)
        found[devices] = results(sweep.runs_dir)
    return found


def find_victims(sweep: Sweep, kind: str) -> list[int]:
    """The processes of a kind that there are just now."""
    if kind == "parent":
        return [sweep.parent.pid]
    if kind == "forkserver":
        forkserver = sweep.forkserver()
        return [forkserver] if forkserver else []
    if kind == "service":
        return sweep.services()
    firsts = set()
    for path in sweep.runs_dir.glob("*/seed*/state.json"):
        with suppress(ValueError):
            firsts.add(files.read_json(path).get("pid"))
    training = [process for process in sweep.children() if firsts]
    return [process for process in training if (process in firsts) == (kind == "child")]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(NUM_ROUNDS))
def test_random_kills(
    number: int, sweeps: Sweeps, undisturbed: dict[int, Any], tmp_path: Path
) -> None:
    print(f"PFSTUDY_TEST_SEED={SEED}")
    chance = random.Random(f"{SEED} {number}")
    kind = VICTIMS[number % len(VICTIMS)]
    devices = 2 if kind == "rank" or chance.random() < 0.3 else 1
    moment_s = chance.uniform(0, 6)
    while_importing = chance.random() < 0.2 and kind != "rank"
    print(f"{kind}, {devices} devices, after {moment_s:.2f} s, importing: {while_importing}")

    write_module(tmp_path)
    set_pace(tmp_path, 0.05)
    command = (*SETTINGS, *GRID, f"trainer.devices={devices}")
    sweep = sweeps.start(tmp_path, *command)
    records, ended = Records(sweep.runs_dir), threading.Event()
    watcher = threading.Thread(target=records.watch, args=(ended,))
    watcher.start()
    try:
        if not while_importing:
            wait_until(lambda: any(sweep.runs_dir.glob("*/seed*/metrics.csv")), "it trains")
        time.sleep(moment_s)
        victims: list[int] = []
        while not victims and sweep.parent.poll() is None:
            victims = find_victims(sweep, kind)
        victim = chance.choice(victims) if victims else None
        print(f"killed: {victim} of {sweep.processes()}")
        if victim is not None:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        sweep.wait()
        print(sweep.output)
        if kind != "parent" and not while_importing:
            assert sweep.parent.returncode == 0
        sweep.wait_until_nothing_is_left()
        for _ in range(2):
            again = sweeps.start(tmp_path, *command)
            assert again.wait() == 0, again.output
            again.wait_until_nothing_is_left()
        assert "6 runs, 6 done before" in again.output
    finally:
        ended.set()
        watcher.join()
    records.look()
    assert records.problems == []
    check_directory(sweep.runs_dir, 6)
    assert results(sweep.runs_dir) == undisturbed[devices]
