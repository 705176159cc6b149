"""Sweeps of Ray's tasks, on a real Ray."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from jobs import RUN, Commands, Pfstudy, table_rows
from pfstudy import files, store
from trouble import set_pace, write_module
from under_way import PATIENCE_S, Sweep, Sweeps

pytest.importorskip("hydra_plugins.hydra_ray_launcher")

RAY = ("-m", "hydra/launcher=ray", *RUN)


@pytest.fixture(scope="module")
def commands(pfstudy: Pfstudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    with Commands(pfstudy, tmp_path_factory.mktemp) as given:
        yield given


@pytest.fixture(scope="module")
def sweep(commands: Commands) -> dict[str, Any]:
    """A sweep on a Ray that it starts by itself; its runs share a GPU that they do not look at."""
    given = commands.give(
        "ray",
        *RAY,
        "block.spatial=paced,identity",
        "hydra.launcher.ray.remote.num_cpus=0.5",
        "hydra.launcher.ray.remote.num_gpus=0.5",
        "+hydra.launcher.ray.init.num_cpus=1",
        "+hydra.launcher.ray.init.num_gpus=1",
        variables={"CUDA_VISIBLE_DEVICES": "0"},
    )
    return {"given": given, "done": given.done}


@pytest.mark.slow
class TestSweep:
    def test_tasks_are_one_study_with_one_table(self, sweep: Mapping[str, Any]) -> None:
        done = sweep["done"]
        assert done.returncode == 0, done.stderr
        assert sorted(table_rows(done.stdout)) == ["identity", "paced"]
        assert "launch 2 jobs to ray;" in done.stderr
        assert "ConfigStore" not in done.stderr
        (study,) = sweep["given"].directory.glob("runs/studies/*.json")
        assert len(files.read_json(study)["members"]) == 2

    def test_output_of_the_tasks_is_passed_on(self, sweep: Mapping[str, Any]) -> None:
        assert re.search(r"_run_job pid=.*\[1/1\] identity seed0: ", sweep["done"].stderr)
        assert "Traceback" not in sweep["done"].stderr

    def test_nothing_is_left(self, sweep: Mapping[str, Any]) -> None:
        sweep["given"].wait_until_nothing_is_left()


@contextmanager
def running_ray(directory: Path) -> Iterator[str]:
    """A Ray that was started in a directory; nobody who looks for one finds it by itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with TemporaryDirectory(prefix="ray", dir="/tmp") as home:  # its sockets need short names
        options = (f"--port={port}", f"--temp-dir={home}", "--num-cpus=2")
        head = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("ray")),
                *("start", "--head", "--block", "--include-dashboard=false", *options),
            ],
            cwd=directory,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield f"127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def elsewhere(commands: Commands, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep on a Ray that was started before, in another directory; and the same again."""
    directory = tmp_path_factory.mktemp("elsewhere")
    with running_ray(directory) as address:
        there = (*RAY, f"hydra.launcher.ray.init.address={address}", "block.spatial=paced")
        variables = {"RAY_AUTH_MODE": "disabled"}
        given = commands.give("running", *there, variables=variables)
        assert given.done is not None
        again = commands.again(given.directory, *there, variables=variables)
        return {"given": given, "again": again.done, "directory": directory}


@pytest.mark.slow
class TestRunningRay:
    def test_runs_are_where_the_command_was_given(self, elsewhere: Mapping[str, Any]) -> None:
        given = elsewhere["given"]
        assert given.done.returncode == 0, given.done.stderr
        assert given.state("paced")["state"] == "done"
        assert list(elsewhere["directory"].iterdir()) == []

    def test_again_trains_nothing(self, elsewhere: Mapping[str, Any]) -> None:
        assert elsewhere["again"].returncode == 0
        assert elsewhere["given"].state("paced")["attempt"] == 1
        assert elsewhere["again"].stdout == elsewhere["given"].done.stdout


@pytest.fixture(scope="module")
def interrupted(
    executable: str, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sweep]:
    """Ctrl-C in the middle of training."""
    directory = tmp_path_factory.mktemp("interrupted")
    write_module(directory)
    set_pace(directory, 0.5)
    with Sweeps(executable, environment) as sweeps:
        sweep = sweeps.start(directory, *RAY, "block.spatial=paced")
        sweep.wait_for_epochs(1, "paced")
        os.killpg(sweep.parent.pid, signal.SIGINT)
        sweep.wait()
        yield sweep


@pytest.mark.slow
class TestInterrupted:
    def test_exit_code_and_sentence(self, interrupted: Sweep) -> None:
        assert interrupted.parent.returncode == 130
        sentence = "pfstudy: interrupted; the same command goes on with what is not done."
        assert sentence in interrupted.output.splitlines()

    def test_nothing_is_left_but_a_checkpoint(self, interrupted: Sweep) -> None:
        interrupted.wait_until_nothing_is_left()
        assert interrupted.state_of("paced") == "interrupted"
        assert (interrupted.run_dir("paced") / store.RESUME).exists()
