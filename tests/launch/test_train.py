"""The training phase: real processes, forked from one that has the whole stack imported."""

from __future__ import annotations

import io
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from rich.console import Console

from configs import compose
from pfstudy import files, lease, ledger, store
from pfstudy.data import fingerprint
from pfstudy.launch import probe, train
from pfstudy.launch.display import Display
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.launch.slots import available_cores, make_slots
from pfstudy.launch.sweep import name_runs
from pfstudy.launch.train import Training
from pfstudy.schema.config import Launcher
from pfstudy.tasks import Device, Slot, Task
from pfstudy.variant import make_variant
from run_directories import let_age
from trouble import SMALL, registered, set_pace, write_module
from under_way import MARK, marked_processes, resumed_like, wait_until

CPU = Device("cpu", "cpu", "Some CPU")
ALONE = (Slot("cpu", (CPU,)),)
TWO_AT_A_TIME = ALONE * 2
TWO_RANKS = (Slot("cpu", (CPU, CPU)),)

LAUNCHER = Launcher(
    num_workers="auto",
    slots_per_gpu=1,
    retries=1,
    halve_batch=False,
    hung_minutes=30,
    stop_seconds=60,
)


@pytest.fixture(scope="module")
def mark() -> Iterator[str]:
    """By which the processes of these tests are known."""
    forkserver._forkserver._stop()
    with pytest.MonkeyPatch.context() as patch:
        mark = uuid4().hex
        patch.setenv(MARK, mark)
        yield mark
    forkserver._forkserver._stop()


@pytest.fixture(scope="module")
def pool(mark: str) -> Iterator[Pool]:
    with Pool(PRELOAD) as opened:
        yield opened


@pytest.fixture(scope="module")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The module of the operations that behave badly."""
    path = write_module(tmp_path_factory.mktemp("operations"))
    with registered(path):
        yield path


@dataclass(frozen=True)
class Trained:
    """How a training phase ended.

    Attributes:
        runs: The runs, by what stands at their only site and the names of other settings.
        said: What was shown.
        failed: As `Training` says.
        left: Processes of it that are left.
    """

    runs: dict[str, store.Run]
    said: str
    failed: dict[str, str]
    left: set[int]

    def directory(self, name: str) -> Path:
        return self.runs[name].directory

    def state(self, name: str) -> dict[str, Any]:
        return files.read_json(self.directory(name) / ledger.STATE)

    def record(self, name: str) -> dict[str, Any]:
        return files.read_json(self.directory(name) / ledger.RECORD)

    def log(self, name: str, rank: int = 0) -> str:
        return (self.directory(name) / (f"run.rank{rank}.log" if rank else "run.log")).read_text()

    def num_attempts(self, name: str) -> int:
        return len(list((self.directory(name) / ledger.ATTEMPTS).iterdir()))

    def lines(self, text: str) -> list[str]:
        return [line.strip() for line in self.said.splitlines() if text in line]


Train = Callable[..., Trained]


def make_run(root: Path, operations: Path, *overrides: str) -> store.Run:
    """Make a run, ready to be trained."""
    config = replace(compose(*SMALL, *overrides), runs_dir=str(root), imports=(str(operations),))
    run = store.make_run(make_variant(config, fingerprint(config.data)), config.seed)
    store.prepare(run)
    return run


def begin(
    pool: Pool, runs: Sequence[store.Run], slots: Sequence[Slot], **settings: Any
) -> tuple[Training, io.StringIO]:
    """Make a training phase, and where it speaks to."""

    def make_task(run: store.Run, slot: Slot, accumulation: int) -> Task:
        devices = tuple(device.id for device in slot.devices)
        return Task(run.directory, "mine", "disabled", devices=devices, accumulation=accumulation)

    said = io.StringIO()
    display = Display(Console(file=said, soft_wrap=True, highlight=False))
    display.begin_runs(len(runs))
    launcher = replace(LAUNCHER, **settings)
    return Training(pool, display, name_runs(runs), slots, launcher, make_task), said


def ended_processes(mark: str, before: set[int]) -> set[int]:
    """The processes that are left of a training phase, which may take a moment to end."""
    deadline = time.monotonic() + 30
    while (left := set(marked_processes(mark)) - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.fixture(scope="module")
def train_all(
    mark: str, pool: Pool, operations: Path, tmp_path_factory: pytest.TempPathFactory
) -> Train:
    """Train runs of one variant each: an operation, and overrides behind it."""

    def run(*variants: str, slots: Sequence[Slot] = TWO_AT_A_TIME, **settings: Any) -> Trained:
        pool.call("builtins:repr")  # the forkserver is there
        before = set(marked_processes(mark))
        root = tmp_path_factory.mktemp("train") / "runs"
        runs = {
            variant: make_run(root, operations, *f"block.spatial={variant}".split())
            for variant in variants
        }
        training, said = begin(pool, list(runs.values()), slots, **settings)
        training.run(runs.values(), lambda event: None)
        left = ended_processes(mark, before)
        return Trained(runs, said.getvalue(), training.failed, left)

    return run


@pytest.fixture(scope="module")
def tried_twice(train_all: Train) -> Trained:
    """All that goes wrong in a process of its own, beside two that go well."""
    return train_all(
        *("identity", "dies_once", "raises", "refuses", "hungry", "identity recipe.lr=1e9"),
        "maxpool",
    )


@pytest.fixture(scope="module")
def tried_once(train_all: Train) -> Trained:
    """One that hangs beside those that go on, without retries."""
    return train_all("hangs", "dies", "identity", retries=0, hung_minutes=0.1)


@pytest.fixture(scope="module")
def halved(train_all: Train) -> Trained:
    return train_all("hungry", "identity", "hungry recipe.batch_size=33", halve_batch=True)


@pytest.fixture(scope="module")
def of_two_ranks(train_all: Train) -> Trained:
    return train_all(
        *("identity", "raises_on_rank_1", "dies_on_rank_1", "dies_on_rank_0", "maxpool"),
        "hungry_on_rank_1",
        slots=TWO_RANKS,
        retries=0,
        halve_batch=True,
    )


class TestSuccess:
    def test_the_others_are_done_whatever_fails(self, tried_twice: Trained) -> None:
        for name in ("identity", "maxpool"):
            assert ledger.state_of(tried_twice.directory(name)) == "done"
            assert tried_twice.num_attempts(name) == 1
            assert re.search(rf"\[\d/7\] {name} .*seed0: \d+\.\d\d % in \d+ s", tried_twice.said)

    def test_each_run_is_counted_once(self, tried_twice: Trained) -> None:
        counters = re.findall(r"\[(\d)/7\]", tried_twice.said)
        assert counters == [str(number) for number in range(1, 8)]

    def test_no_process_is_left(
        self, tried_twice: Trained, tried_once: Trained, halved: Trained, of_two_ranks: Trained
    ) -> None:
        for trained in (tried_twice, tried_once, halved, of_two_ranks):
            assert trained.left == set()

    def test_it_trains_on_the_cores_of_its_slot(
        self, pool: Pool, operations: Path, tmp_path: Path
    ) -> None:
        run = make_run(tmp_path / "runs", operations, "block.spatial=identity", "seed=7")
        cores = available_cores()
        found: list[set[int]] = []
        training, _ = begin(pool, [run], [Slot("cpu", (CPU,), cores[:1])])
        hear = training._hear

        def look(event: Any, on_event: Any) -> None:
            with suppress(ProcessLookupError):
                found.append(os.sched_getaffinity(event.child.process.pid))
            hear(event, on_event)

        training._hear = look  # type: ignore[method-assign]
        training.run([run], lambda event: None)
        assert found[0] == set(cores[:1])


class TestKilled:
    def test_is_tried_again_and_done(self, tried_twice: Trained) -> None:
        (line,) = tried_twice.lines("tried again")[:1]
        assert line.startswith("dies_once")
        assert line.endswith("its process was killed by SIGKILL; tried again")
        assert ledger.state_of(tried_twice.directory("dies_once")) == "done"
        assert tried_twice.num_attempts("dies_once") == 2
        assert tried_twice.record("dies_once")["training"]["attempts"] == 2
        assert "dies_once" not in " ".join(tried_twice.failed)

    def test_without_retries_it_has_failed(self, tried_once: Trained) -> None:
        state = tried_once.state("dies")
        assert (state["state"], state["attempt"], state["kind"]) == ("failed", 1, "killed")
        assert state["reason"] == "its process was killed by SIGKILL"

    def test_end_of_its_log_stands_in_its_state(self, tried_once: Trained) -> None:
        assert tried_once.state("dies")["log"][-1] == "last words"

    def test_failure_is_said_with_its_log(self, tried_once: Trained) -> None:
        (line,) = tried_once.lines("dies seed0")
        log = tried_once.directory("dies") / "run.log"
        assert line.endswith(f"failed: its process was killed by SIGKILL (log: {log})")
        assert tried_once.failed["dies seed0"] == "its process was killed by SIGKILL"


class TestHung:
    def test_is_ended_and_has_failed(self, tried_once: Trained) -> None:
        state = tried_once.state("hangs")
        assert (state["state"], state["kind"]) == ("failed", "hung")
        assert state["reason"] == "no progress for 6 s; where it hung stands in its log"
        assert tried_once.failed["hangs seed0"] == state["reason"]

    def test_where_it_hung_stands_in_its_log(self, tried_once: Trained) -> None:
        log = tried_once.log("hangs")
        assert "most recent call first" in log
        assert re.search(r'trouble_ops\.py", line \d+ in hangs', log)

    def test_others_go_on(self, tried_once: Trained) -> None:
        assert ledger.state_of(tried_once.directory("identity")) == "done"
        assert set(tried_once.failed) == {"dies seed0", "hangs seed0"}


class TestError:
    def test_exception_is_tried_again_and_has_failed(self, tried_twice: Trained) -> None:
        state = tried_twice.state("raises")
        assert (state["state"], state["kind"], state["attempt"]) == ("failed", "error", 2)
        assert state["reason"] == "RuntimeError: the paint is wet"
        assert state["log"][-1] == "RuntimeError: the paint is wet"
        (again,) = tried_twice.lines("the paint is wet; tried again")
        assert again.startswith("raises")

    def test_users_mistake_is_not_tried_again(self, tried_twice: Trained) -> None:
        state = tried_twice.state("refuses")
        assert (state["state"], state["kind"], state["attempt"]) == ("failed", "user", 1)
        assert state["reason"] == "this brush is no good; take another."

    def test_divergence_is_not_tried_again(self, tried_twice: Trained) -> None:
        state = tried_twice.state("identity recipe.lr=1e9")
        assert (state["state"], state["kind"], state["attempt"]) == ("failed", "diverged", 1)
        assert "the training loss became NaN" in state["reason"]

    def test_failures_are_by_name(self, tried_twice: Trained) -> None:
        labels = sorted(name.split()[0] for name in tried_twice.failed)
        assert labels == ["hungry", "identity", "raises", "refuses"]


class TestMemory:
    def test_without_halving_it_fails(self, tried_twice: Trained) -> None:
        state = tried_twice.state("hungry")
        assert (state["state"], state["kind"], state["attempt"]) == ("failed", "memory", 2)
        assert "can't allocate memory" in state["reason"]

    def test_half_the_batch_fits(self, halved: Trained) -> None:
        assert ledger.state_of(halved.directory("hungry")) == "done"
        assert halved.record("hungry")["training"]["accumulation"] == 2
        assert halved.record("hungry")["training"]["effective_batch_size"] == 64
        assert halved.num_attempts("hungry") == 2

    def test_it_is_said(self, halved: Trained) -> None:
        (line,) = halved.lines("accumulation")
        assert line.endswith("; tried again with 2 steps of accumulation")

    def test_those_that_fit_are_trained_as_they_are(self, halved: Trained) -> None:
        assert halved.record("identity")["training"]["accumulation"] == 1
        assert halved.num_attempts("identity") == 1

    def test_batch_that_cannot_be_halved_fails(self, halved: Trained) -> None:
        state = halved.state("hungry recipe.batch_size=33")
        assert (state["state"], state["kind"], state["attempt"]) == ("failed", "memory", 1)
        assert [name for name in halved.failed if "hungry" in name and "33" in name]

    def test_next_sweep_goes_on_with_what_fitted(
        self, pool: Pool, operations: Path, tmp_path: Path
    ) -> None:
        run = make_run(tmp_path / "runs", operations, "block.spatial=hungry")
        claimed = ledger.claim(run.directory)
        assert claimed is not None
        claimed.write(accumulation=2)
        claimed.end("interrupted")
        training, said = begin(pool, [run], ALONE, halve_batch=True)
        training.run([run], lambda event: None)
        record = files.read_json(run.directory / ledger.RECORD)
        assert record["training"]["accumulation"] == 2
        assert "can't allocate" not in said.getvalue()


class TestTwoRanks:
    def test_are_one_run(self, of_two_ranks: Trained) -> None:
        for name in ("identity", "maxpool"):
            assert ledger.state_of(of_two_ranks.directory(name)) == "done"
            assert of_two_ranks.record(name)["training"]["world_size"] == 2
            assert of_two_ranks.num_attempts(name) == 1
            assert (of_two_ranks.directory(name) / "run.rank1.log").exists()

    def test_exception_of_the_second_is_the_cause(self, of_two_ranks: Trained) -> None:
        state = of_two_ranks.state("raises_on_rank_1")
        assert (state["state"], state["kind"]) == ("failed", "error")
        assert state["reason"] == "rank 1: RuntimeError: the paint is wet"
        assert of_two_ranks.failed["raises_on_rank_1 seed0"] == state["reason"]
        assert "the paint is wet" in of_two_ranks.log("raises_on_rank_1", rank=1)

    def test_the_log_is_that_of_the_cause(self, of_two_ranks: Trained) -> None:
        assert of_two_ranks.state("raises_on_rank_1")["log"][-1] == "RuntimeError: the paint is wet"
        (line,) = of_two_ranks.lines("] raises_on_rank_1")
        log = of_two_ranks.directory("raises_on_rank_1") / "run.rank1.log"
        assert line.endswith(f"(log: {log})")

    def test_death_of_the_second_is_the_cause(self, of_two_ranks: Trained) -> None:
        state = of_two_ranks.state("dies_on_rank_1")
        assert (state["state"], state["kind"]) == ("failed", "killed")
        assert state["reason"] == "rank 1: its process was killed by SIGKILL"

    def test_death_of_the_first_is_the_cause(self, of_two_ranks: Trained) -> None:
        state = of_two_ranks.state("dies_on_rank_0")
        assert (state["state"], state["kind"]) == ("failed", "killed")
        assert state["reason"] == "its process was killed by SIGKILL"

    def test_memory_of_the_second_halves_the_batch(self, of_two_ranks: Trained) -> None:
        assert ledger.state_of(of_two_ranks.directory("hungry_on_rank_1")) == "done"
        assert of_two_ranks.record("hungry_on_rank_1")["training"]["accumulation"] == 2
        (line,) = of_two_ranks.lines("accumulation")
        assert line.startswith("hungry_on_rank_1 seed0: rank 1: ")

    def test_stopped_it_goes_on_as_if_nothing_had_happened(
        self, mark: str, pool: Pool, operations: Path, tmp_path: Path
    ) -> None:
        before = set(marked_processes(mark))
        settings = ("block.spatial=paced", "recipe.epochs=12")
        whole = make_run(tmp_path / "whole", operations, *settings)
        training, _ = begin(pool, [whole], TWO_RANKS)
        training.run([whole], lambda event: None)

        run = make_run(tmp_path / "stopped", operations, *settings)
        set_pace(operations.parent, 0.5)
        training, _ = begin(pool, [run], TWO_RANKS)
        metrics = run.directory / "metrics.csv"

        def interrupt() -> None:
            wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, "2 epochs")
            os.kill(os.getpid(), signal.SIGINT)

        impatient = threading.Thread(target=interrupt)
        impatient.start()
        with pytest.raises(KeyboardInterrupt):
            training.run([run], lambda event: None)
        impatient.join()
        pool.stop()
        assert ended_processes(mark, before) == set()
        assert ledger.read_status(run.directory).written["state"] == "interrupted"
        assert (run.directory / store.RESUME).exists()

        set_pace(operations.parent, 0)
        training, _ = begin(pool, [run], TWO_RANKS)
        training.run([run], lambda event: None)
        assert ledger.state_of(run.directory) == "done"
        assert files.read_json(run.directory / ledger.RECORD)["training"]["attempts"] == 2
        assert resumed_like(run.directory, whole.directory)
        epochs = [line.split(",")[0] for line in metrics.read_text().splitlines()[1:]]
        assert epochs == [str(epoch) for epoch in range(1, 13)]
        assert ended_processes(mark, before) == set()


class TestWaiting:
    def test_for_a_measurement_of_speed_is_no_hanging(
        self, pool: Pool, operations: Path, tmp_path: Path
    ) -> None:
        run = make_run(tmp_path / "runs", operations, "block.spatial=identity", "seed=5")
        training, said = begin(pool, [run], ALONE, retries=0, hung_minutes=0.1)
        with ExitStack() as lock:
            lock.enter_context(lease.measuring(CPU.id))
            ending = threading.Timer(9, lock.close)
            ending.start()
            training.run([run], lambda event: None)
            ending.join()
        assert training.failed == {}
        assert "waiting for a measurement of speed to end" in said.getvalue()
        assert ledger.state_of(run.directory) == "done"


class TestHangingRank:
    def test_all_of_them_are_ended_and_say_where_they_were(self, train_all: Train) -> None:
        trained = train_all("hangs_on_rank_1", slots=TWO_RANKS, retries=0, hung_minutes=0.1)
        assert trained.state("hangs_on_rank_1")["kind"] == "hung"
        assert " in hangs_on_rank_1" in trained.log("hangs_on_rank_1", rank=1)
        assert "most recent call first" in trained.log("hangs_on_rank_1")
        assert trained.left == set()


OWNER = {"host": "far-away", "machine": "far-away 1234 pid:[1]", "pid": 4711, "pid_started": 5}


@pytest.fixture
def far_away(operations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> store.Run:
    """A run that a process of another machine trains, whose last heartbeat is young."""
    monkeypatch.setattr(train, "_LOOK_ELSEWHERE_S", 0.2)
    monkeypatch.setattr(train, "_TICK_S", 0.2)
    run = make_run(tmp_path / "runs", operations, "block.spatial=identity", "seed=3")
    (run.directory / ledger.ATTEMPTS).mkdir()
    files.write_json(run.directory / ledger.ATTEMPTS / "1.json", OWNER)
    state = {"state": "running", "attempt": 1, "epoch": 1, "num_epochs": 2, **OWNER}
    files.write_json(run.directory / ledger.STATE, state)
    return run


class TestElsewhere:
    """Another machine trains a run just now."""

    @staticmethod
    def train_while(pool: Pool, run: store.Run, then: Callable[[], None]) -> str:
        """Train a run; something happens once it is said who trains it, and it was waited."""
        training, said = begin(pool, [run], ALONE)
        problems: list[BaseException] = []

        def watch() -> None:
            try:
                wait_until(lambda: "is being trained" in said.getvalue(), "it is said")
                time.sleep(2)  # several looks
                assert training._elsewhere == {run.directory: run}
                assert not (run.directory / ledger.ATTEMPTS / "2.json").exists()
            except BaseException as error:
                problems.append(error)
            then()

        watcher = threading.Thread(target=watch)
        watcher.start()
        training.run([run], lambda event: None)
        watcher.join()
        assert problems == []
        assert training.failed == {}
        return said.getvalue()

    def test_says_who_trains_it_and_takes_it_over_when_its_heart_has_stopped(
        self, pool: Pool, far_away: store.Run
    ) -> None:
        said = self.train_while(pool, far_away, lambda: let_age(far_away.directory, 3600))
        assert said.count("is being trained by process 4711 on far-away") == 1
        assert ledger.state_of(far_away.directory) == "done"
        state = files.read_json(far_away.directory / ledger.STATE)
        assert (state["state"], state["attempt"]) == ("done", 2)
        assert state["host"] != "far-away"
        assert re.search(r"\[1/1\] identity seed3: \d+\.\d\d % in", said)

    def test_run_that_it_finishes_is_not_trained_again(
        self, pool: Pool, far_away: store.Run
    ) -> None:
        def finish() -> None:
            record = {"metrics": {"test_top1_percent": 97.25}}
            files.write_json(far_away.directory / ledger.RECORD, record)

        said = self.train_while(pool, far_away, finish)
        assert "[1/1] identity seed3: 97.25 %, trained elsewhere" in said
        assert not (far_away.directory / ledger.ATTEMPTS / "2.json").exists()
        assert files.read_json(far_away.directory / ledger.RECORD)["metrics"] == {
            "test_top1_percent": 97.25
        }

    def test_run_that_fails_there_is_tried_here(self, pool: Pool, far_away: store.Run) -> None:
        def fail() -> None:
            state = {"state": "failed", "attempt": 1, "reason": "no idea", **OWNER}
            files.write_json(far_away.directory / ledger.STATE, state)

        self.train_while(pool, far_away, fail)
        assert ledger.state_of(far_away.directory) == "done"


def test_a_real_probe_finds_what_the_machine_can_do(
    pool: Pool, operations: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_SECONDS", 0.2)
    run = make_run(tmp_path / "runs", operations, "block.spatial=identity")
    said = io.StringIO()
    display = Display(Console(file=said, soft_wrap=True, highlight=False))
    config, cores = run.variant.config, available_cores()
    found = probe.probe_slots(pool, display, run.variant, config, [CPU], cores)
    number = found.launcher.num_workers
    assert isinstance(number, int)
    assert 1 <= number <= len(cores)
    rates = dict(re.findall(r"(\d+): (\d+)[,;]", said.getvalue()))
    assert all(int(rate) > 0 for rate in rates.values())
    assert str(number) in rates
    assert len(make_slots(found, [CPU], cores)) == number
    assert not (run.directory / "metrics.csv").exists()
