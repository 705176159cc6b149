"""Sweeps whose jobs another launcher starts: submitit's local executor, SLURM, Ray."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from safetensors.numpy import load_file

import pretended_slurm as slurm
from configs import compose
from pfstudy import files, ledger, store
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.launch import job
from pfstudy.launch.resume import list_unfinished
from pfstudy.launch.sweep import default_study_name
from pfstudy.schema.config import Config
from pfstudy.variant import make_variant
from run_directories import let_owner_vanish, write_run
from trouble import SMALL, set_pace, write_module
from under_way import (
    MARK,
    PATIENCE_S,
    Sweep,
    Sweeps,
    marked_processes,
    parent_of,
    wait_until,
)

Ended = subprocess.CompletedProcess[str]
Pfstudy = Callable[..., Ended]

NUM_EPOCHS = 12
COMMON = (*SMALL, f"recipe.epochs={NUM_EPOCHS}", "imports=[trouble_ops]", "logger=none")
LOCAL = (
    *("-m", "hydra/launcher=submitit_local"),
    "hydra.launcher.submitit_folder=runs/jobs/%j",
    *COMMON,
)
SLURM = ("-m", "hydra/launcher=slurm", *COMMON)
RAY = ("-m", "hydra/launcher=ray", *COMMON)
TWO_TASKS = ("trainer.devices=2", "hydra.launcher.tasks_per_node=2")
TASK = "submitit.core._submit"


class Given:
    """A command that was given in the background.

    Attributes:
        directory: Its working directory.
        mark: By which its processes are known.
        ended: The command, once it has.
    """

    def __init__(self, directory: Path, mark: str, ended: Future[Ended]) -> None:
        self.directory = directory
        self.mark = mark
        self.ended = ended

    @property
    def done(self) -> Ended:
        return self.ended.result()

    def run_dir(self, label: str, seed: int = 0) -> Path:
        (found,) = self.directory.glob(f"runs/*-{label}-*/seed{seed}")
        return found

    def state(self, label: str, seed: int = 0) -> dict[str, Any]:
        return files.read_json(self.run_dir(label, seed) / ledger.STATE)

    def record(self, label: str, seed: int = 0) -> dict[str, Any]:
        return files.read_json(self.run_dir(label, seed) / ledger.RECORD)

    def outputs(self, ending: str) -> str:
        """What the tasks of all jobs have said on stdout or stderr."""
        paths = sorted(self.directory.glob(f"runs/jobs/*/*_log.{ending}"))
        return "\n".join(path.read_text() for path in paths)

    def tasks(self) -> list[int]:
        found = marked_processes(self.mark)
        return [process for process, command in found.items() if TASK in command]

    def wait_for_epochs(self, number: int, label: str) -> None:
        def is_so_far() -> bool:
            assert not self.ended.done(), self.done
            paths = list(self.directory.glob(f"runs/*-{label}-*/seed0/metrics.csv"))
            return bool(paths) and len(paths[0].read_text().splitlines()) > number

        wait_until(is_so_far, f"{label} has ended {number} epochs")

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not marked_processes(self.mark), "its processes are gone")


class Commands:
    """Gives commands in the background, each in its directory, where runs are slow at first."""

    def __init__(self, pfstudy: Pfstudy, make_directory: Callable[[str], Path]) -> None:
        self.pfstudy = pfstudy
        self.make_directory = make_directory
        self.threads = ThreadPoolExecutor(max_workers=8)
        self.given: list[Given] = []

    def give(self, name: str, *arguments: str, pace: float = 0.0, **variables: str) -> Given:
        directory = self.make_directory(name)
        write_module(directory)
        set_pace(directory, pace)
        return self.again(directory, *arguments, **variables)

    def again(self, directory: Path, *arguments: str, **variables: str) -> Given:
        mark = uuid4().hex
        variables |= {MARK: mark}
        ended = self.threads.submit(self.pfstudy, directory, *arguments, **variables)
        self.given.append(Given(directory, mark, ended))
        return self.given[-1]

    def end(self) -> None:
        for given in self.given:
            for process in marked_processes(given.mark):
                try:
                    os.kill(process, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        self.threads.shutdown()


@pytest.fixture(scope="module")
def commands(pfstudy: Pfstudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    made = Commands(pfstudy, tmp_path_factory.mktemp)
    yield made
    made.end()


def weights_of(run_dir: Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = load_file(run_dir / store.WEIGHTS)
    return found


def are_equal(left: Mapping[str, np.ndarray], right: Mapping[str, np.ndarray]) -> bool:
    return left.keys() == right.keys() and all(np.array_equal(left[k], right[k]) for k in left)


def table_rows(stdout: str) -> list[str]:
    """The first column of the one table that was printed."""
    lines = [line.strip() for line in stdout.splitlines()]
    (rule,) = [number for number, line in enumerate(lines) if line and set(line) == {"─"}]
    assert lines[rule - 1].startswith("variant ")
    return [line.split()[0] for line in lines[rule + 1 : lines.index("", rule)]]


def preempt(given: Given, signal_tasks: Callable[[], None]) -> str:
    """Announce in the middle of training that a job is preempted, and speed up what goes on.

    Returns:
        The rows of metrics that there were.
    """
    given.wait_for_epochs(2, "paced")
    signal_tasks()
    wait_until(lambda: given.state("paced")["state"] != "running", "it has stopped")
    set_pace(given.directory, 0)
    return (given.run_dir("paced") / "metrics.csv").read_text()


def task_of(process: int) -> int:
    """The task of a job that trains a run in a process of its own, forked from a forkserver."""
    forkserver = parent_of(process)
    assert forkserver is not None
    task = parent_of(forkserver)
    assert task is not None
    return task


@pytest.fixture(scope="module")
def local(commands: Commands) -> dict[str, Any]:
    """Sweeps of submitit's local executor: one is preempted, another one fails in part."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    variants = "block.spatial=paced,identity"
    preempted = commands.give("preempted", *LOCAL, variants, pace=0.3)
    failing = commands.give("failing", *LOCAL, "block.spatial=raises,paced")

    def signal_task() -> None:
        task = task_of(preempted.state("paced")["pid"])
        assert task in preempted.tasks()
        os.kill(task, signal.SIGUSR2)

    before = preempt(preempted, signal_task)
    assert preempted.done is not failing.done  # both have ended
    again = commands.again(preempted.directory, *LOCAL, variants)
    return {
        "preempted": preempted,
        "before": before,
        "failing": failing,
        "output": preempted.outputs("out"),
        "errors": preempted.outputs("err"),
        "attempts": preempted.state("paced")["attempt"],
        "again": again.done,
    }


class TestLocalExecutor:
    def test_jobs_are_one_study_with_one_table(self, local: Mapping[str, Any]) -> None:
        done = local["preempted"].done
        assert done.returncode == 0, done.stderr
        assert sorted(table_rows(done.stdout)) == ["identity", "paced"]
        (study,) = local["preempted"].directory.glob("runs/studies/*.json")
        assert len(files.read_json(study)["members"]) == 2

    def test_command_says_nothing_else(self, local: Mapping[str, Any]) -> None:
        assert local["preempted"].done.stderr == ""

    def test_output_of_the_jobs_is_that_of_sweeps(self, local: Mapping[str, Any]) -> None:
        assert re.search(r"^train  1 run, 1 at a time", local["errors"], re.MULTILINE)
        assert re.search(r"\[1/1\] identity seed0: [\d.]+ % in ", local["errors"])
        assert "Traceback" not in local["errors"]

    def test_nothing_is_left(self, local: Mapping[str, Any]) -> None:
        local["preempted"].wait_until_nothing_is_left()
        local["failing"].wait_until_nothing_is_left()


class TestPreempted:
    """A job of one task gets SIGUSR2 in the middle of training."""

    def test_is_asked_to_begin_again_behind_its_checkpoint(self, local: Mapping[str, Any]) -> None:
        stopping = "1 process may write a checkpoint"
        caught = "Caught signal SIGUSR2"
        assert caught in local["errors"]
        assert stopping in local["errors"].partition(caught)[0]
        assert "Requeued job" in local["output"]

    def test_goes_on_in_another_attempt(self, local: Mapping[str, Any]) -> None:
        preempted = local["preempted"]
        assert preempted.record("paced")["training"]["attempts"] == 2
        assert preempted.record("identity")["training"]["attempts"] == 1
        metrics = (preempted.run_dir("paced") / "metrics.csv").read_text()
        assert len(metrics.splitlines()) == NUM_EPOCHS + 1
        assert metrics.startswith(local["before"])  # with the times that these epochs took

    def test_ends_as_if_nothing_had_happened(self, local: Mapping[str, Any]) -> None:
        mine = weights_of(local["preempted"].run_dir("paced"))
        assert are_equal(mine, weights_of(local["failing"].run_dir("paced")))
        assert not are_equal(mine, weights_of(local["preempted"].run_dir("identity")))


class TestAgain:
    def test_trains_nothing(self, local: Mapping[str, Any]) -> None:
        assert local["again"].returncode == 0, local["again"].stderr
        assert local["preempted"].state("paced")["attempt"] == local["attempts"] == 2

    def test_prints_the_same_table(self, local: Mapping[str, Any]) -> None:
        assert local["again"].stdout == local["preempted"].done.stdout


class TestFailingJob:
    def test_exit_code_and_sentence(self, local: Mapping[str, Any]) -> None:
        done = local["failing"].done
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1] == (
            "pfstudy: 1 of 1 runs failed: raises seed0 (RuntimeError: the paint is wet)"
        )
        assert "Traceback" not in done.stderr

    def test_others_are_in_the_table(self, local: Mapping[str, Any]) -> None:
        assert table_rows(local["failing"].done.stdout) == ["paced"]

    def test_its_traceback_is_in_its_log(self, local: Mapping[str, Any]) -> None:
        log = (local["failing"].run_dir("raises") / "run.log").read_text()
        assert "RuntimeError: the paint is wet" in log


@pytest.fixture(scope="module")
def ranks(commands: Commands) -> Given:
    """A job of two tasks, which train two runs together, one after the other."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    given = commands.give("ranks", *LOCAL, *TWO_TASKS, "block.spatial=identity", "seeds=2")
    assert given.done is not None
    return given


class TestTwoTasks:
    def test_are_the_ranks_of_every_run(self, ranks: Given) -> None:
        assert ranks.done.returncode == 0, ranks.done.stderr
        for seed in (0, 1):
            assert ranks.record("identity", seed)["training"]["world_size"] == 2

    def test_runs_are_in_one_table(self, ranks: Given) -> None:
        assert table_rows(ranks.done.stdout) == ["identity"]
        assert "2 seeds" in ranks.done.stdout

    def test_first_says_how_far_they_are(self, ranks: Given) -> None:
        first, second = sorted(ranks.directory.glob("runs/jobs/*/*_log.out"))
        said = re.findall(r"^(identity seed\d|epoch \d+)", first.read_text(), re.MULTILINE)
        epochs = [f"epoch {number + 1}" for number in range(NUM_EPOCHS)]
        assert said == ["identity seed0", *epochs, "identity seed1", *epochs]
        assert "epoch" not in second.read_text()


@pytest.fixture(scope="module")
def preempted_ranks(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Jobs of two tasks that are preempted, here and by SLURM, and the same without jobs."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    home = slurm.install(tmp_path_factory.mktemp("slurm") / "bin")
    variant = "block.spatial=paced"
    reference = commands.give("reference", *COMMON, variant, "trainer.devices=2")
    here = commands.give("here", *LOCAL, *TWO_TASKS, variant, pace=0.3)

    def signal_tasks() -> None:
        tasks = here.tasks()
        assert here.state("paced")["pid"] in tasks
        assert len(tasks) == 2
        for task in tasks:
            os.kill(task, signal.SIGUSR2)

    before = {"here": preempt(here, signal_tasks)}
    variables = slurm.variables(home)
    there = commands.give("there", *SLURM, "trainer.devices=2", variant, pace=0.3, **variables)
    before["there"] = preempt(there, lambda: slurm.preempt(home, "4000"))
    given = {"here": here, "there": there, "reference": reference}
    assert all(each.done.returncode == 0 for each in given.values())
    return {**given, "before": before}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["here", "there"])
class TestTwoTasksPreempted:
    """All tasks get SIGUSR2 in the middle of training; those of SLURM's get SIGTERM before."""

    def test_go_on_in_another_attempt(self, preempted_ranks: Mapping[str, Any], name: str) -> None:
        given = preempted_ranks[name]
        training = given.record("paced")["training"]
        assert (training["attempts"], training["world_size"]) == (2, 2)
        metrics = (given.run_dir("paced") / "metrics.csv").read_text()
        assert len(metrics.splitlines()) == NUM_EPOCHS + 1
        assert metrics.startswith(preempted_ranks["before"][name])

    def test_first_alone_asks_to_begin_again(
        self, preempted_ranks: Mapping[str, Any], name: str
    ) -> None:
        paths = sorted(preempted_ranks[name].directory.glob("runs/jobs/*/*_log.out"))
        assert ["Requeued job" in path.read_text() for path in paths] == [True, False]

    def test_end_as_if_nothing_had_happened(
        self, preempted_ranks: Mapping[str, Any], name: str
    ) -> None:
        mine, reference = (
            weights_of(preempted_ranks[which].run_dir("paced")) for which in (name, "reference")
        )
        assert are_equal(mine, reference)

    def test_nothing_is_left(self, preempted_ranks: Mapping[str, Any], name: str) -> None:
        preempted_ranks[name].wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def ranks_in_trouble(commands: Commands) -> dict[str, Given]:
    """Jobs of two tasks: one cannot be trained, of another a task fails, a third one diverges."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    overrides = {
        "mistake": ("recipe.batch_size=1000",),
        "failure": ("block.spatial=raises_on_rank_1",),
        "divergence": ("recipe.lr=1e30", "seeds=2"),
    }
    given = {
        name: commands.give(name, *LOCAL, *TWO_TASKS, *changed)
        for name, changed in overrides.items()
    }
    assert all(each.done.returncode for each in given.values())
    return given


@pytest.mark.slow
class TestTwoTasksInTrouble:
    """No task waits for another one that will not come."""

    def test_mistake(self, ranks_in_trouble: Mapping[str, Given]) -> None:
        done = ranks_in_trouble["mistake"].done
        assert done.returncode == 2
        assert "batch_size" in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr

    def test_failure(self, ranks_in_trouble: Mapping[str, Given]) -> None:
        given = ranks_in_trouble["failure"]
        assert given.done.returncode == 1
        assert "1 of 1 runs failed: raises_on_rank_1 seed0" in given.done.stderr
        assert "Traceback" not in given.done.stderr
        assert given.state("raises_on_rank_1")["state"] == "failed"
        _, of_second = sorted(given.directory.glob("runs/jobs/*/*_log.err"))
        assert "RuntimeError: the paint is wet" in of_second.read_text()

    def test_divergence_of_a_run_does_not_stop_the_next(
        self, ranks_in_trouble: Mapping[str, Given]
    ) -> None:
        given = ranks_in_trouble["divergence"]
        assert given.done.returncode == 1
        assert "2 of 2 runs failed: " in given.done.stderr
        assert given.done.stderr.count("the training loss became") == 2
        for seed in (0, 1):
            assert given.state("original", seed)["kind"] == "diverged"

    def test_nothing_is_left(self, ranks_in_trouble: Mapping[str, Given]) -> None:
        for given in ranks_in_trouble.values():
            given.wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def ray(commands: Commands) -> dict[str, Any]:
    """A sweep on a Ray that it starts by itself, whose runs share a GPU that nobody looks at."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    given = commands.give(
        "ray",
        *RAY,
        "block.spatial=paced,identity",
        "hydra.launcher.ray.remote.num_cpus=0.5",
        "hydra.launcher.ray.remote.num_gpus=0.5",
        "+hydra.launcher.ray.init.num_cpus=1",
        "+hydra.launcher.ray.init.num_gpus=1",
        CUDA_VISIBLE_DEVICES="0",
    )
    return {"given": given, "done": given.done}


class TestRay:
    def test_jobs_are_one_study_with_one_table(self, ray: Mapping[str, Any]) -> None:
        done = ray["done"]
        assert done.returncode == 0, done.stderr
        assert sorted(table_rows(done.stdout)) == ["identity", "paced"]
        (study,) = ray["given"].directory.glob("runs/studies/*.json")
        assert len(files.read_json(study)["members"]) == 2

    def test_output_of_the_jobs_is_passed_on(self, ray: Mapping[str, Any]) -> None:
        assert re.search(r"_run_job pid=.*\[1/1\] identity seed0: ", ray["done"].stderr)
        assert "Traceback" not in ray["done"].stderr

    def test_nothing_is_left(self, ray: Mapping[str, Any]) -> None:
        ray["given"].wait_until_nothing_is_left()

    def test_runs_are_what_they_are_elsewhere(
        self, ray: Mapping[str, Any], local: Mapping[str, Any]
    ) -> None:
        mine = weights_of(ray["given"].run_dir("paced"))
        assert are_equal(mine, weights_of(local["failing"].run_dir("paced")))


@pytest.fixture(scope="module")
def running_ray(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep on a Ray that was started before, in another directory; and the same again."""
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    own = {**os.environ, "RAY_AUTH_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}
    address = ("--head", "--port=6399", "--num-cpus=2", "--include-dashboard=false")
    ray_command = str(Path(sys.executable).with_name("ray"))
    head = subprocess.Popen(
        [ray_command, "start", "--block", *address],
        cwd=elsewhere,
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    there = ("hydra.launcher.ray.init.address=127.0.0.1:6399", "block.spatial=paced")
    try:
        given = commands.give("running", *RAY, *there, RAY_AUTH_MODE="disabled")
        assert given.done is not None
        again = commands.again(given.directory, *RAY, *there, RAY_AUTH_MODE="disabled")
        return {"given": given, "again": again.done, "elsewhere": elsewhere}
    finally:
        head.terminate()
        head.wait(PATIENCE_S)


@pytest.mark.slow
class TestRunningRay:
    def test_runs_are_where_the_command_was_given(self, running_ray: Mapping[str, Any]) -> None:
        given = running_ray["given"]
        assert given.done.returncode == 0, given.done.stderr
        assert given.state("paced")["state"] == "done"
        assert list(running_ray["elsewhere"].iterdir()) == []

    def test_again_trains_nothing(self, running_ray: Mapping[str, Any]) -> None:
        assert running_ray["again"].returncode == 0
        assert running_ray["given"].state("paced")["attempt"] == 1
        assert running_ray["again"].stdout == running_ray["given"].done.stdout


@pytest.fixture(scope="module")
def array(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep of an array of SLURM's, the first job of which is preempted."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    home = slurm.install(tmp_path_factory.mktemp("slurm") / "bin")
    given = commands.give(
        "array", *SLURM, "block.spatial=paced,identity", pace=0.3, **slurm.variables(home)
    )
    before = preempt(given, lambda: slurm.preempt(home, "4000_0"))
    return {"given": given, "done": given.done, "home": home, "before": before}


@pytest.mark.slow
class TestArray:
    def test_jobs_are_one_study_with_one_table(self, array: Mapping[str, Any]) -> None:
        done = array["done"]
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert sorted(table_rows(done.stdout)) == ["identity", "paced"]

    def test_script(self, array: Mapping[str, Any]) -> None:
        (script,) = array["home"].glob("*.sh")
        jobs = array["given"].directory / "runs" / "jobs"
        assert slurm.read_options(script) == {
            "job-name": "pfstudy",
            "array": "0-1%2",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "4",
            "time": "1440",
            "signal": "USR2@120",
            "requeue": "",
            "open-mode": "append",
            "output": f"{jobs}/%A_%a/%A_%a_0_log.out",
            "error": f"{jobs}/%A_%a/%A_%a_0_log.err",
            "wckey": "submitit",
        }

    def test_tasks_get_their_cores(self, array: Mapping[str, Any]) -> None:
        """Since SLURM 22.05, srun must be told again."""
        for member in ("4000_0", "4000_1"):
            seen = (array["home"] / f"srun-{member}").read_text().splitlines()
            assert "SRUN_CPUS_PER_TASK=4" in seen

    def test_preempted_one_goes_on_in_another_attempt(self, array: Mapping[str, Any]) -> None:
        """It was sent SIGTERM, the signal that it waits for, and SIGTERM again."""
        given = array["given"]
        assert given.record("paced")["training"]["attempts"] == 2
        assert given.record("identity")["training"]["attempts"] == 1
        metrics = (given.run_dir("paced") / "metrics.csv").read_text()
        assert len(metrics.splitlines()) == NUM_EPOCHS + 1
        assert metrics.startswith(array["before"])

    def test_and_ends_as_if_nothing_had_happened(
        self, array: Mapping[str, Any], local: Mapping[str, Any]
    ) -> None:
        mine = weights_of(array["given"].run_dir("paced"))
        assert are_equal(mine, weights_of(local["failing"].run_dir("paced")))


@pytest.fixture(scope="module")
def waiting(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep whose jobs SLURM lets wait, and whose command is interrupted."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    home = slurm.install(tmp_path_factory.mktemp("slurm") / "bin")
    (home / slurm.HOLDS).touch()
    given = commands.give(
        "waiting",
        *SLURM,
        "block.spatial=maxpool,avgpool,identity",
        *("trainer.devices=2", "trainer.num_nodes=3"),
        *("hydra.launcher.partition=gpu", "hydra.launcher.timeout_min=90"),
        *("hydra.launcher.gpus_per_node=2", "hydra.launcher.array_parallelism=2"),
        "hydra.launcher.additional_parameters.requeue=false",
        "+hydra.launcher.additional_parameters.mail-type=END",
        **slurm.variables(home),
    )
    submitted = given.directory / "runs" / "jobs" / "4000_2" / "4000_2_submitted.pkl"
    wait_until(lambda: submitted.exists() or given.ended.done(), "it is submitted")
    (command,) = (p for p in marked_processes(given.mark) if parent_of(p) == os.getpid())
    os.kill(command, signal.SIGINT)
    return {"given": given, "done": given.done, "home": home}


class TestWaiting:
    def test_script_says_what_the_command_said(self, waiting: Mapping[str, Any]) -> None:
        options = slurm.read_options(waiting["home"] / "4000.sh")
        wanted = {
            "array": "0-2%2",
            "nodes": "3",
            "ntasks-per-node": "2",
            "gpus-per-node": "2",
            "partition": "gpu",
            "time": "90",
            "requeue": "False",
            "mail-type": "END",
        }
        assert {name: options.get(name) for name in wanted} == wanted

    def test_command_may_be_interrupted(self, waiting: Mapping[str, Any]) -> None:
        assert waiting["done"].returncode == 130
        (sentence,) = waiting["done"].stderr.splitlines()
        assert sentence.startswith("pfstudy: interrupted; the same command goes on")

    def test_runs_can_be_seen(self, waiting: Mapping[str, Any]) -> None:
        runs = waiting["given"].directory.glob("runs/*/seed0")
        assert [ledger.state_of(run) for run in runs] == ["pending"] * 3

    def test_runs_can_be_trained_elsewhere(self, waiting: Mapping[str, Any]) -> None:
        (left,) = list_unfinished(waiting["given"].directory / "runs")
        assert len(left.configs) == 3
        assert left.missing == ()


def test_refusal_of_slurm_is_passed_on(pfstudy: Pfstudy, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    home = slurm.install(tmp_path / "bin")
    (home / slurm.REFUSES).write_text("sbatch: error: invalid partition specified: nope")
    done = pfstudy(tmp_path, "-m", "hydra/launcher=slurm", **slurm.variables(home))
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last == "pfstudy: the launcher says: sbatch: error: invalid partition specified: nope"
    assert "Traceback" not in done.stderr


def test_machine_without_slurm_is_said(pfstudy: Pfstudy, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    done = pfstudy(tmp_path, "-m", "hydra/launcher=slurm", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith('pfstudy: the launcher says: Could not detect "srun"')


@pytest.mark.parametrize("launcher", ["submitit_local", "slurm", "ray"])
@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        pytest.param(
            ("block.spatial=original,maxpol",), "operation 'maxpol' does not exist", id="operation"
        ),
        pytest.param(
            (
                *("data=npz", "data.path=missing.npz", "data.image_size=8", "data.channels=1"),
                *("data.num_classes=10", "data.num_validation=8", "data.num_test=8"),
            ),
            "data.path=missing.npz cannot be read",
            id="dataset",
        ),
    ],
)
def test_mistake_is_found_before_anything_is_submitted(
    launcher: str, overrides: Sequence[str], sentence: str, pfstudy: Pfstudy, tmp_path: Path
) -> None:
    plugin = "ray" if launcher == "ray" else "submitit"
    pytest.importorskip(f"hydra_plugins.hydra_{plugin}_launcher")
    done = pfstudy(tmp_path, "-m", f"hydra/launcher={launcher}", *overrides)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def interrupted(
    executable: str, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Sweep]]:
    """Ctrl-C in a terminal, which reaches the jobs that run there, too."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    pytest.importorskip("hydra_plugins.hydra_ray_launcher")
    with Sweeps(executable, environment) as sweeps:
        given = {}
        for name, launcher in (("submitit", LOCAL), ("ray", RAY)):
            directory = tmp_path_factory.mktemp(name)
            write_module(directory)
            set_pace(directory, 0.5)
            given[name] = sweeps.start(directory, *launcher, "block.spatial=paced")
        for sweep in given.values():
            sweep.wait_for_epochs(1, "paced")
            os.killpg(sweep.parent.pid, signal.SIGINT)
            sweep.wait()
        yield given


@pytest.mark.slow
@pytest.mark.parametrize("name", ["submitit", "ray"])
class TestInterrupted:
    def test_exit_code_and_sentence(self, interrupted: Mapping[str, Sweep], name: str) -> None:
        assert interrupted[name].parent.returncode == 130
        sentence = "pfstudy: interrupted; the same command goes on with what is not done."
        assert sentence in interrupted[name].output.splitlines()

    def test_nothing_is_left_but_a_checkpoint(
        self, interrupted: Mapping[str, Sweep], name: str
    ) -> None:
        sweep = interrupted[name]
        sweep.wait_until_nothing_is_left()
        assert sweep.state_of("paced") == "interrupted"
        assert (sweep.run_dir("paced") / store.RESUME).exists()


SIGNALS = [signal.SIGTERM, signal.SIGUSR2]


class TestSignals:
    """What a job does with signals, while it trains one run in processes of its own."""

    @pytest.fixture
    def events(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """What happens, in its order; a plugin handles one of the signals."""
        happened: list[str] = []
        before = signal.signal(signal.SIGUSR2, lambda *_: happened.append("begin again"))
        yield happened
        signal.signal(signal.SIGUSR2, before)

    def stop(
        self, events: list[str], monkeypatch: pytest.MonkeyPatch, sent: Sequence[signal.Signals]
    ) -> None:
        """Send signals to a job: the first one while it trains, the others while it stops."""

        def run(configs: Sequence[Config]) -> None:
            first, *others = sent
            try:
                os.kill(os.getpid(), first)
                time.sleep(PATIENCE_S)
            except KeyboardInterrupt:
                for number in others:
                    os.kill(os.getpid(), number)
                time.sleep(0.1)
                events.append("checkpoint")
                raise

        monkeypatch.setattr(job, "run_sweep", run)
        with pytest.raises(KeyboardInterrupt):
            job.run_job(compose())

    @pytest.mark.parametrize(
        ("sent", "expected"),
        [
            pytest.param([signal.SIGTERM], ["checkpoint"], id="ended"),
            pytest.param([signal.SIGUSR2], ["checkpoint", "begin again"], id="preempted"),
            pytest.param(SIGNALS, ["checkpoint", "begin again"], id="ended, then preempted"),
            pytest.param(SIGNALS[::-1], ["checkpoint", "begin again"], id="preempted, then ended"),
            pytest.param(
                [signal.SIGTERM, signal.SIGTERM], ["checkpoint"], id="ended more than once"
            ),
        ],
    )
    def test_checkpoint_comes_first(
        self,
        events: list[str],
        monkeypatch: pytest.MonkeyPatch,
        sent: Sequence[signal.Signals],
        expected: Sequence[str],
    ) -> None:
        self.stop(events, monkeypatch, sent)
        assert events == expected

    def test_handlers_are_as_before(
        self, events: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = [signal.getsignal(number) for number in SIGNALS]
        self.stop(events, monkeypatch, SIGNALS)
        assert [signal.getsignal(number) for number in SIGNALS] == before

    def test_slurm_may_send_its_signal_late(
        self, events: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("submitit")
        monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
        sleep = time.sleep

        def wait(seconds: float) -> None:
            if seconds > PATIENCE_S:  # until it is killed
                events.append("waits")
                os.kill(os.getpid(), signal.SIGUSR2)
                seconds = 0.1
            sleep(seconds)

        monkeypatch.setattr(time, "sleep", wait)
        self.stop(events, monkeypatch, [signal.SIGTERM])
        assert events == ["checkpoint", "waits", "begin again"]

    def test_refusal_to_begin_again_is_one_sentence(
        self, events: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise RuntimeError("Job not requeued because: timed-out too many times.")

        signal.signal(signal.SIGUSR2, refuse)
        monkeypatch.setattr(job, "run_sweep", lambda _, **__: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(PfstudyError, match=r"too many times\. The same command goes on"):
            job.run_job(compose())

    def test_task_that_is_not_the_first_ends_well(
        self, events: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "1")
        monkeypatch.setattr(job, "_run_as_rank", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert job.run_job(compose()) is None

    def test_ctrl_c_is_passed_on(self, events: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(configs: Sequence[Config]) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(job, "run_sweep", interrupt)
        with pytest.raises(KeyboardInterrupt):
            job.run_job(compose())
        assert events == []


class TestOpenStudy:
    def configs(self, root: Path, *overrides: str) -> list[Config]:
        operations = ("original", "maxpool")
        made = (compose(*overrides, f"block.spatial={name}") for name in operations)
        return [replace(config, runs_dir=str(root)) for config in made]

    def test_runs_are_pending_members(self, tmp_path: Path) -> None:
        name = job.open_study(self.configs(tmp_path))
        members = store.read_study(tmp_path, name)
        assert len(members) == 2
        assert {ledger.state_of(tmp_path / member) for member in members} == {"pending"}
        assert all((tmp_path / member / store.CONFIG).exists() for member in members)

    def test_name_is_that_of_the_sweep(self, tmp_path: Path) -> None:
        configs = self.configs(tmp_path)
        variants = [make_variant(config, fingerprint(config.data)) for config in configs]
        assert job.open_study(configs) == default_study_name(variants)
        assert job.open_study(self.configs(tmp_path, "study.name=mine")) == "mine"

    def test_run_that_is_done_stays_as_it_is(self, tmp_path: Path) -> None:
        done = write_run(tmp_path, state="done")
        (done / store.CONFIG).write_text("{}")
        with pytest.raises(PfstudyError, match="was written by another config"):
            job.open_study(self.configs(tmp_path))
        done = write_run(tmp_path, state="done")
        before = (done / store.CONFIG).stat().st_mtime_ns
        name = job.open_study(self.configs(tmp_path))
        assert len(store.read_study(tmp_path, name)) == 2
        assert (done / store.CONFIG).stat().st_mtime_ns == before

    def test_what_constraints_may_drop_is_not_made(self, tmp_path: Path) -> None:
        job.open_study(self.configs(tmp_path, "study.constraints=['params < 1x']"))
        assert [path.name for path in tmp_path.iterdir()] == [store.STUDIES]


class TestElsewhere:
    """A rank finds that its run is being trained, as one of a machine that is gone seems to be."""

    def test_is_waited_for_and_said_once(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        directory = write_run(tmp_path, state="running")
        waited = []

        def wait(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                let_owner_vanish(directory)

        monkeypatch.setattr(job.time, "sleep", wait)
        job._wait_while_elsewhere(directory)
        assert len(waited) == 3
        (line,) = capsys.readouterr().err.splitlines()
        assert line.endswith(f"is being trained by process {os.getpid()} on {platform.node()}")

    def test_others_are_not(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(job.time, "sleep", lambda _: pytest.fail("it waits"))
        job._wait_while_elsewhere(write_run(tmp_path))


def test_job_enters_the_directory_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(directory: Path) -> None:
        config = OmegaConf.create({"hydra": {"runtime": {"cwd": str(directory)}}})
        monkeypatch.setattr(HydraConfig.instance(), "cfg", config)

    monkeypatch.chdir("/")
    monkeypatch.setattr(job, "run_sweep", lambda _, **__: Path.cwd())
    pretend(tmp_path)
    assert job.run_job(compose()) == tmp_path
    pretend(tmp_path / "gone")
    with pytest.raises(PfstudyError, match=r"gone cannot be entered on .* that all machines share"):
        job.run_job(compose())
