"""Sweeps of SLURM's jobs, with commands that pretend to be SLURM."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import pretended_slurm as slurm
from jobs import NUM_EPOCHS, RUN, Commands, Pfstudy, are_equal, table_rows
from pfstudy import ledger
from pfstudy.launch.resume import list_unfinished
from under_way import marked_processes, parent_of

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

SLURM = ("-m", "hydra/launcher=slurm", *RUN)


@pytest.fixture(scope="module")
def commands(pfstudy: Pfstudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(pfstudy, tmp_path_factory.mktemp) as given:
        yield given


@pytest.fixture(scope="module")
def waiting(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep whose jobs wait to be started, and whose command is interrupted."""
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
        variables=slurm.variables(home),
    )
    submitted = given.directory / "runs" / "jobs" / "4000_2" / "4000_2_submitted.pkl"
    given.wait_until(submitted.exists, "its jobs are submitted")
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
        *_, sentence = waiting["done"].stderr.splitlines()
        assert sentence.startswith("pfstudy: interrupted; the same command goes on")

    def test_runs_can_be_seen(self, waiting: Mapping[str, Any]) -> None:
        runs = waiting["given"].directory.glob("runs/*/seed0")
        assert [ledger.state_of(run) for run in runs] == ["pending"] * 3

    def test_runs_can_be_trained_elsewhere(self, waiting: Mapping[str, Any]) -> None:
        (left,) = list_unfinished(waiting["given"].directory / "runs")
        assert len(left.configs) == 3
        assert left.missing == ()


def test_refusal_of_slurm_is_passed_on(pfstudy: Pfstudy, tmp_path: Path) -> None:
    home = slurm.install(tmp_path / "bin")
    (home / slurm.REFUSES).write_text("sbatch: error: invalid partition specified: nope")
    done = pfstudy(tmp_path, "-m", "hydra/launcher=slurm", **slurm.variables(home))
    assert (done.returncode, done.stdout) == (2, "")
    last = done.stderr.splitlines()[-1]
    assert last == "pfstudy: the launcher says: sbatch: error: invalid partition specified: nope"
    assert "Traceback" not in done.stderr


def test_machine_without_slurm_is_said(pfstudy: Pfstudy, tmp_path: Path) -> None:
    done = pfstudy(tmp_path, "-m", "hydra/launcher=slurm", PATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    *_, sentence = done.stderr.splitlines()
    assert sentence.startswith('pfstudy: the launcher says: Could not detect "srun"')


@pytest.fixture(scope="module")
def preempted(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Sweeps that are preempted: an array of jobs of one task, a job of two; and the same here."""
    home = slurm.install(tmp_path_factory.mktemp("slurm") / "bin")
    variables = slurm.variables(home)
    settings = {
        "array": ("block.spatial=paced,identity",),
        "ranks": ("block.spatial=paced", "trainer.devices=2"),
    }
    found: dict[str, Any] = {"home": home}
    for name, member in (("array", "4000_0"), ("ranks", "4100")):
        found[f"{name} here"] = commands.give(f"{name}_here", "-m", *RUN, *settings[name])
        found[name] = commands.give(name, *SLURM, *settings[name], pace=0.3, variables=variables)
        announce = partial(slurm.preempt, home, member)
        found[f"{name} before"] = found[name].preempt(announce)
    for name in settings:
        for given in (found[name], found[f"{name} here"]):
            assert given.done.returncode == 0, given.done.stderr
    return found


@pytest.mark.slow
class TestArray:
    def test_jobs_are_one_study_with_one_table(self, preempted: Mapping[str, Any]) -> None:
        done = preempted["array"].done
        assert [line.split()[0] for line in done.stderr.splitlines()] == ["study", "launch"]
        assert sorted(table_rows(done.stdout)) == ["identity", "paced"]

    def test_script(self, preempted: Mapping[str, Any]) -> None:
        jobs = preempted["array"].directory / "runs" / "jobs"
        assert slurm.read_options(preempted["home"] / "4000.sh") == {
            "job-name": "pfstudy",
            "array": "0-1%2",
            "nodes": "1",
            "ntasks-per-node": "1",
            "cpus-per-task": "4",
            "gpus-per-node": "1",
            "time": "1440",
            "signal": "USR2@120",
            "requeue": "",
            "open-mode": "append",
            "output": f"{jobs}/%A_%a/%A_%a_0_log.out",
            "error": f"{jobs}/%A_%a/%A_%a_0_log.err",
            "wckey": "submitit",
        }

    def test_tasks_get_their_cores(self, preempted: Mapping[str, Any]) -> None:
        """Since SLURM 22.05, srun must be told again."""
        for member in ("4000_0", "4000_1"):
            seen = (preempted["home"] / f"srun-{member}").read_text().splitlines()
            assert "SRUN_CPUS_PER_TASK=4" in seen

    def test_job_that_is_not_preempted_ends(self, preempted: Mapping[str, Any]) -> None:
        assert preempted["array"].training("identity")["attempts"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_ranks"), [("array", 1), ("ranks", 2)])
class TestPreempted:
    """All tasks get SIGTERM, then the signal to begin again, then SIGTERM, and are killed."""

    def test_goes_on_in_another_attempt(
        self, preempted: Mapping[str, Any], name: str, num_ranks: int
    ) -> None:
        given = preempted[name]
        training = given.training("paced")
        assert (training["attempts"], training["world_size"]) == (2, num_ranks)
        assert len(given.metrics("paced").splitlines()) == NUM_EPOCHS + 1
        assert given.metrics("paced").startswith(preempted[f"{name} before"])

    def test_ends_as_if_nothing_had_happened(
        self, preempted: Mapping[str, Any], name: str, num_ranks: int
    ) -> None:
        reference = preempted[f"{name} here"].weights("paced")
        assert are_equal(preempted[name].weights("paced"), reference)

    def test_nothing_is_left(self, preempted: Mapping[str, Any], name: str, num_ranks: int) -> None:
        preempted[name].wait_until_nothing_is_left()
