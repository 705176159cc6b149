"""Sweeps whose jobs another launcher starts, above all submitit's local executor."""

from __future__ import annotations

import os
import platform
import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from configs import compose
from jobs import NUM_EPOCHS, RUN, Commands, Given, Pfstudy, are_equal, table_rows
from pfstudy import files, ledger, store
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.launch import job
from pfstudy.launch.sweep import default_study_name
from pfstudy.schema.config import Config
from pfstudy.variant import make_variant
from run_directories import let_owner_vanish, write_record, write_run
from trouble import set_pace, write_module
from under_way import PATIENCE_S, Sweep, Sweeps, parent_of

LOCAL = (
    *("-m", "hydra/launcher=submitit_local"),
    "hydra.launcher.submitit_folder=runs/jobs/%j",
    *RUN,
)
TWO_TASKS = ("trainer.devices=2", "hydra.launcher.tasks_per_node=2")


@pytest.fixture(scope="module")
def commands(pfstudy: Pfstudy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    with Commands(pfstudy, tmp_path_factory.mktemp) as given:
        yield given


def task_of(process: int) -> int:
    """The task of a job that trains a run in a process of its own, forked from a forkserver."""
    forkserver = parent_of(process)
    assert forkserver is not None
    task = parent_of(forkserver)
    assert task is not None
    return task


@pytest.fixture(scope="module")
def failing(commands: Commands) -> Given:
    """A sweep of two jobs, one of which fails."""
    return commands.give("failing", *LOCAL, "block.spatial=raises,paced")


@pytest.fixture(scope="module")
def preempted(commands: Commands, failing: Given) -> dict[str, Any]:
    """A sweep of two jobs, one of which is preempted; afterwards the same command again."""
    variants = "block.spatial=paced,identity"
    given = commands.give("preempted", *LOCAL, variants, pace=0.3)

    def signal_task() -> None:
        task = task_of(given.state("paced")["pid"])
        assert task in given.tasks()
        os.kill(task, signal.SIGUSR2)

    before = given.preempt(signal_task)
    assert given.done is not failing.done  # they ran side by side
    outputs = {ending: "\n".join(given.outputs(ending)) for ending in ("out", "err")}
    attempts = given.state("paced")["attempt"]
    again = commands.again(given.directory, *LOCAL, variants).done
    return {"given": given, "before": before, "attempts": attempts, "again": again, **outputs}


@pytest.mark.slow
class TestLocalExecutor:
    def test_jobs_are_one_study_with_one_table(self, preempted: Mapping[str, Any]) -> None:
        done = preempted["given"].done
        assert done.returncode == 0, done.stderr
        assert sorted(table_rows(done.stdout)) == ["identity", "paced"]
        (study,) = preempted["given"].directory.glob("runs/studies/*.json")
        assert len(files.read_json(study)["members"]) == 2
        assert files.read_json(study)["looks"] == {"declared": [], "taken": [1]}

    def test_command_says_what_is_launched_and_nothing_else(
        self, preempted: Mapping[str, Any]
    ) -> None:
        study, launch = preempted["given"].done.stderr.splitlines()
        assert study.endswith(": 2 variants, 2 runs, 0 done before")
        assert launch.startswith("launch 2 jobs to submitit_local; pfstudy status --watch")

    def test_output_of_the_jobs_is_that_of_sweeps(self, preempted: Mapping[str, Any]) -> None:
        assert re.search(r"^train  1 run, 1 at a time", preempted["err"], re.MULTILINE)
        assert re.search(r"\[1/1\] identity seed0: [\d.]+ % in ", preempted["err"])
        assert "Traceback" not in preempted["err"]

    def test_nothing_is_left(self, preempted: Mapping[str, Any], failing: Given) -> None:
        preempted["given"].wait_until_nothing_is_left()
        failing.wait_until_nothing_is_left()


@pytest.mark.slow
class TestPreempted:
    """A job of one task gets SIGUSR2 in the middle of training."""

    def test_is_asked_to_begin_again_behind_its_checkpoint(
        self, preempted: Mapping[str, Any]
    ) -> None:
        stopping, caught = "1 process may write a checkpoint", "Caught signal SIGUSR2"
        assert stopping in preempted["err"].partition(caught)[0]
        assert caught in preempted["err"]
        assert "Requeued job" in preempted["out"]

    def test_goes_on_in_another_attempt(self, preempted: Mapping[str, Any]) -> None:
        given = preempted["given"]
        assert given.training("paced")["attempts"] == 2
        assert given.training("identity")["attempts"] == 1
        assert len(given.metrics("paced").splitlines()) == NUM_EPOCHS + 1
        assert given.metrics("paced").startswith(preempted["before"])  # with the times it took

    def test_ends_as_if_nothing_had_happened(
        self, preempted: Mapping[str, Any], failing: Given
    ) -> None:
        mine = preempted["given"].weights("paced")
        assert are_equal(mine, failing.weights("paced"))
        assert not are_equal(mine, preempted["given"].weights("identity"))


@pytest.mark.slow
class TestAgain:
    def test_trains_nothing(self, preempted: Mapping[str, Any]) -> None:
        assert preempted["again"].returncode == 0, preempted["again"].stderr
        assert preempted["given"].state("paced")["attempt"] == preempted["attempts"] == 2

    def test_prints_the_same_table(self, preempted: Mapping[str, Any]) -> None:
        assert preempted["again"].stdout == preempted["given"].done.stdout


@pytest.mark.slow
class TestFailingJob:
    def test_exit_code_and_sentence(self, failing: Given) -> None:
        assert failing.done.returncode == 1
        assert failing.done.stderr.splitlines()[-1] == (
            "pfstudy: 1 of 1 runs failed: raises seed0 (RuntimeError: the paint is wet)"
        )
        assert "Traceback" not in failing.done.stderr

    def test_others_are_in_the_table(self, failing: Given) -> None:
        assert table_rows(failing.done.stdout) == ["paced"]

    def test_its_traceback_is_in_its_log(self, failing: Given) -> None:
        log = (failing.run_dir("raises") / "run.log").read_text()
        assert "RuntimeError: the paint is wet" in log


@pytest.fixture(scope="module")
def ranks(commands: Commands) -> Given:
    """A job of two tasks, which train two runs together, one after the other."""
    return commands.give("ranks", *LOCAL, *TWO_TASKS, "block.spatial=identity", "seeds=2")


@pytest.mark.slow
class TestTwoTasks:
    def test_are_the_ranks_of_every_run(self, ranks: Given) -> None:
        assert ranks.done.returncode == 0, ranks.done.stderr
        for seed in (0, 1):
            assert ranks.training("identity", seed)["world_size"] == 2

    def test_runs_are_in_one_table(self, ranks: Given) -> None:
        assert table_rows(ranks.done.stdout) == ["identity"]
        assert "2 seeds" in ranks.done.stdout

    def test_first_says_how_far_they_are(self, ranks: Given) -> None:
        assert ranks.done.returncode == 0
        first, second = ranks.outputs("out")
        said = re.findall(r"^(identity seed\d|epoch \d+)", first, re.MULTILINE)
        epochs = [f"epoch {number + 1}" for number in range(NUM_EPOCHS)]
        assert said == ["identity seed0", *epochs, "identity seed1", *epochs]
        assert "epoch" not in second


@pytest.fixture(scope="module")
def preempted_ranks(commands: Commands) -> dict[str, Any]:
    """A job of two tasks that is preempted, and the same without a job."""
    variant = "block.spatial=paced"
    reference = commands.give("reference", *RUN, variant, "trainer.devices=2")
    given = commands.give("preempted_ranks", *LOCAL, *TWO_TASKS, variant, pace=0.3)

    def signal_tasks() -> None:
        tasks = given.tasks()
        assert given.state("paced")["pid"] in tasks
        assert len(tasks) == 2
        for task in tasks:
            os.kill(task, signal.SIGUSR2)

    before = given.preempt(signal_tasks)
    assert given.done.returncode == reference.done.returncode == 0
    return {"given": given, "reference": reference, "before": before}


@pytest.mark.slow
class TestTwoTasksPreempted:
    """Both tasks get SIGUSR2 in the middle of training."""

    def test_go_on_in_another_attempt(self, preempted_ranks: Mapping[str, Any]) -> None:
        given = preempted_ranks["given"]
        training = given.training("paced")
        assert (training["attempts"], training["world_size"]) == (2, 2)
        assert len(given.metrics("paced").splitlines()) == NUM_EPOCHS + 1
        assert given.metrics("paced").startswith(preempted_ranks["before"])

    def test_first_alone_asks_to_begin_again(self, preempted_ranks: Mapping[str, Any]) -> None:
        outputs = preempted_ranks["given"].outputs("out")
        assert ["Requeued job" in output for output in outputs] == [True, False]

    def test_end_as_if_nothing_had_happened(self, preempted_ranks: Mapping[str, Any]) -> None:
        mine, reference = (
            preempted_ranks[name].weights("paced") for name in ("given", "reference")
        )
        assert are_equal(mine, reference)

    def test_nothing_is_left(self, preempted_ranks: Mapping[str, Any]) -> None:
        preempted_ranks["given"].wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def ranks_in_trouble(commands: Commands) -> dict[str, Given]:
    """Jobs of two tasks: one cannot be trained, of another a task fails, a third one diverges."""
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
        assert "RuntimeError: the paint is wet" in given.outputs("err")[1]

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
def interrupted(
    executable: str, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sweep]:
    """Ctrl-C in a terminal, which reaches the jobs that run there, too."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    directory = tmp_path_factory.mktemp("interrupted")
    write_module(directory)
    set_pace(directory, 0.5)
    with Sweeps(executable, environment) as sweeps:
        sweep = sweeps.start(directory, *LOCAL, "block.spatial=paced")
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

        def run(configs: Sequence[Config], **_: bool) -> None:
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
        def interrupt(configs: Sequence[Config], **_: bool) -> None:
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
        name = job.open_study(self.configs(tmp_path), "slurm").study
        members = store.read_study(tmp_path, name)
        assert len(members) == 2
        assert {ledger.state_of(tmp_path / member) for member in members} == {"pending"}
        assert all((tmp_path / member / store.CONFIG).exists() for member in members)

    def test_name_is_that_of_the_sweep(self, tmp_path: Path) -> None:
        configs = self.configs(tmp_path)
        variants = [make_variant(config, fingerprint(config.data)) for config in configs]
        assert job.open_study(configs, "slurm").study == default_study_name(variants)
        named = self.configs(tmp_path, "study.name=mine")
        assert job.open_study(named, "slurm").study == "mine"

    def test_config_of_a_run_that_is_done_stays_as_it_is(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first, _ = self.configs(tmp_path)
        run = store.make_run(make_variant(first, fingerprint(first.data)), 0)
        store.prepare(run)
        write_record(run.directory)
        before = (run.directory / store.CONFIG).stat().st_mtime_ns
        name = job.open_study(self.configs(tmp_path), "slurm").study
        assert len(store.read_study(tmp_path, name)) == 2
        said = capsys.readouterr().err
        assert f"{name}: 2 variants, 2 runs, 1 done before" in said
        assert f"2 jobs to slurm; pfstudy status {tmp_path} --watch" in said
        assert (run.directory / store.CONFIG).stat().st_mtime_ns == before

    def test_directory_of_another_config_is_left_alone(self, tmp_path: Path) -> None:
        first, _ = self.configs(tmp_path)
        run = store.make_run(make_variant(first, fingerprint(first.data)), 0)
        files.write_json(run.directory / store.CONFIG, {"identity": {"hash": "other"}})
        with pytest.raises(PfstudyError, match="was written by another config"):
            job.open_study(self.configs(tmp_path), "slurm")
        assert not (tmp_path / store.STUDIES).exists()

    def test_what_constraints_may_drop_is_not_made(self, tmp_path: Path) -> None:
        job.open_study(self.configs(tmp_path, "study.constraints=['params < 1x']"), "slurm")
        assert [path.name for path in tmp_path.iterdir()] == [store.STUDIES]


class TestCloseStudy:
    """The end of all jobs is a look at their study."""

    configs = TestOpenStudy.configs

    def test_when_every_run_has_ended(self, tmp_path: Path) -> None:
        opened = job.open_study(self.configs(tmp_path, "study.looks=[1,3]"), "slurm")
        assert store.read_looks(tmp_path, opened.study) == store.Looks(declared=(1, 3))
        first, second = (run.directory for run in opened.runs)
        write_record(first)
        job.close_study(opened)
        assert store.read_looks(tmp_path, opened.study).taken == ()
        write_record(second)
        job.close_study(opened)
        assert store.read_looks(tmp_path, opened.study) == store.Looks((1, 3), (1,))

    def test_another_declaration_is_refused_before_anything_is_written(
        self, tmp_path: Path
    ) -> None:
        opened = job.open_study(self.configs(tmp_path, "study.looks=[1,3]"), "slurm")
        for run in opened.runs:
            write_record(run.directory)
        job.close_study(opened)
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(PfstudyError, match=r"study\.looks=\[1,2\] comes too late"):
            job.open_study(self.configs(tmp_path, "study.looks=[1,2]", "seeds=2"), "slurm")
        assert sorted(tmp_path.rglob("*")) == before

    def test_without_what_constraints_have_dropped(self, tmp_path: Path) -> None:
        constrained = self.configs(tmp_path, "study.constraints=['params < 1x']")
        opened = job.open_study(constrained, "slurm")
        store.prepare(opened.runs[0])
        write_record(opened.runs[0].directory)
        job.close_study(opened)
        assert store.read_looks(tmp_path, opened.study).taken == (1,)

    def test_end_of_one_job_is_none(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        quick = self.configs(tmp_path, "speed=none", "logger=none", "study.name=mine")
        opened = job.open_study(quick, "slurm")
        for run in opened.runs:
            write_record(run.directory)
        monkeypatch.setattr(HydraConfig, "initialized", lambda: False)
        job.run_job(quick[0])
        assert store.read_looks(tmp_path, "mine").taken == ()


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
