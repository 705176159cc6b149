"""Sweeps in trouble: other launchers, processes that die early, runs that another sweep holds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from filelock import FileLock

from configs import variant_of
from pfstudy import store
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Pool
from pfstudy.launch.sweep import _Sweep
from pfstudy.store import Run
from pfstudy.tasks import Device

Pfstudy = Callable[..., subprocess.CompletedProcess[str]]
PATIENCE_S = 120


@pytest.fixture(scope="module")
def diverged(pfstudy: Pfstudy, tmp_path_factory: pytest.TempPathFactory) -> object:
    return pfstudy(
        tmp_path_factory.mktemp("basic"),
        *("-m", "hydra/launcher=basic", "recipe.lr=1e9", "recipe.epochs=1"),
        *("logger=none", "speed=none"),
    )


class TestForeignLauncher:
    """Hydra's own launchers keep what a job raised to themselves."""

    def test_mistake_is_found_before_the_first_job(self, pfstudy: Pfstudy, tmp_path: Path) -> None:
        done = pfstudy(tmp_path, "-m", "hydra/launcher=basic", "block.spatial=original,maxpol")
        assert done.returncode == 2
        assert "operation 'maxpol' does not exist" in done.stderr
        assert not (tmp_path / "runs").exists()

    def test_failure_of_a_job_is_the_commands(
        self, diverged: subprocess.CompletedProcess[str]
    ) -> None:
        assert diverged.returncode == 1
        assert "the training loss became" in diverged.stderr
        assert "Traceback" not in diverged.stderr


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
    run = Run(variant, 0, tmp_path / "runs" / "maxpool" / "seed0")
    with Display() as display, Pool(("pfstudy.launch.pool",)) as pool:
        start = pool.start

        def die(function: str, *arguments: object, **options: object) -> object:
            del function, arguments, options
            return start("os:abort")  # abort takes no report, so it cannot even start

        monkeypatch.setattr(pool, "start", die)
        sweep = _Sweep(display, tmp_path / "runs", "study", [run])
        sweep._measure(pool, Device("cpu", "cpu", "Some CPU"), [variant])
    assert "speed could not be measured" in capfd.readouterr().err
    assert store.read_speeds(store.variant_directory(variant)) == []


@pytest.fixture(scope="module")
def held(
    pfstudy: Pfstudy,
    make_config: Callable[..., object],
    tmp_path_factory: pytest.TempPathFactory,
) -> subprocess.CompletedProcess[str]:
    from pfstudy.data import fingerprint
    from pfstudy.variant import make_variant

    directory = tmp_path_factory.mktemp("held")
    settings = ("block.spatial=maxpool", "recipe.epochs=1", "logger=none", "speed=none")
    config = make_config(*settings, f"runs_dir={directory / 'runs'}")
    variant = make_variant(config, fingerprint(config.data))  # type: ignore[attr-defined]
    run = store.make_run(variant, 0)
    run.directory.mkdir(parents=True)
    with FileLock(run.directory / ".lock"):
        return pfstudy(directory, *settings)


class TestHeldElsewhere:
    """Another process trains the only run: its lock is held while the command is given."""

    def test_exit_code_is_no_mistake_of_the_user(
        self, held: subprocess.CompletedProcess[str]
    ) -> None:
        assert held.returncode == 1

    def test_says_which_run_and_what_to_do(self, held: subprocess.CompletedProcess[str]) -> None:
        last = held.stderr.splitlines()[-1]
        assert "maxpool seed0: trained by another pfstudy just now" in last
        assert "the same command later" in last
