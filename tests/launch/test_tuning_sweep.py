"""Sweeps that tune every variant first: real ones, one of which is killed meanwhile."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from configs import compose
from pfstudy import files, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.inventory import find_runs
from pfstudy.launch import job, tuning
from pfstudy.launch.tuning import list_trials
from pfstudy.sources import gather
from pfstudy.tables.content import make_content
from pfstudy.tables.rows import make_rows
from pfstudy.tasks import Task
from pfstudy.tuning import TUNED, TUNING, check_tuning
from pfstudy.worker.run import train_run
from records import make_record
from trouble import SMALL, set_pace, write_module
from under_way import Sweep, Sweeps, wait_until

Ended = subprocess.CompletedProcess[str]

# a learning rate of the recipe's that is far too small, so that another one is chosen
GRID = (
    *("-m", "block.spatial=original,maxpool", "recipe.epochs=2", "recipe.lr=0.002"),
    *("tune.trials=3", "tune.lr_factor=50", "trainer.accelerator=cpu", "speed=none"),
    "logger=none",
)
TROUBLED = (
    *("-m", *SMALL, "imports=[trouble_ops]", "block.spatial=paced,raises", "tune.trials=2"),
    *("launcher.num_workers=1", "launcher.retries=0", "recipe.epochs=8", "logger=none"),
)


QUIET = ("trainer.accelerator=cpu", "speed=none", "logger=none")


@dataclass(frozen=True)
class Tuned:
    """A sweep that tunes, and the same command again.

    Attributes:
        runs: The directory of its runs.
        done: The command.
        again: The same.
        attempts: Number of attempts of all runs and trials after the first.
    """

    runs: Path
    done: Ended
    again: Ended
    attempts: int

    def variant(self, label: str) -> Path:
        (found,) = self.runs.glob(f"*-{label}-*")
        return found


def count_attempts(runs: Path) -> int:
    return len(list(runs.rglob(f"{ledger.ATTEMPTS}/*.json")))


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, pfstudy: Callable[..., Ended]) -> Tuned:
    directory = tmp_path_factory.mktemp("tuned")
    done = pfstudy(directory, *GRID)
    attempts = count_attempts(directory / "runs")
    return Tuned(directory / "runs", done, pfstudy(directory, *GRID), attempts)


def curves(directory: Path) -> list[list[str]]:
    """What a run has written of its epochs, but for the seconds."""
    with (directory / store.METRICS).open() as file:
        return [line[:-1] for line in csv.reader(file)]


BOTH = pytest.mark.parametrize("label", ["original", "maxpool"])


class TestTuned:
    def test_says_what_it_tries_and_chooses(self, tuned: Tuned) -> None:
        assert tuned.done.returncode == 0, tuned.done.stderr
        lines = tuned.done.stderr.splitlines()
        (tune,) = (line for line in lines if line.startswith("tune "))
        assert tune == (
            "tune   2 variants x 3 trials, 0 done before; pfstudy status runs/tuning shows them"
        )
        assert sum(line.startswith("       [6/6] ") for line in lines) == 1
        assert sum(line.startswith("       [2/2] ") for line in lines) == 1
        assert sum("on validation in" in line for line in lines) == 6

    @BOTH
    def test_choice_is_the_best_on_validation(self, tuned: Tuned, label: str) -> None:
        choice = files.read_json(tuned.variant(label) / TUNED)
        accuracies = choice["val_top1_percent"]
        best = accuracies.index(max(accuracies))
        assert best != 0
        assert choice["lr"] == choice["tried"]["lr"][best]
        assert choice["weight_decay"] == choice["tried"]["weight_decay"][best]
        for run, accuracy in zip(choice["runs"], accuracies, strict=True):
            record = files.read_json(tuned.runs / run / ledger.RECORD)
            assert record["metrics"]["val_top1_percent"] == accuracy

    @BOTH
    def test_run_is_trained_with_what_was_chosen(self, tuned: Tuned, label: str) -> None:
        choice = files.read_json(tuned.variant(label) / TUNED)
        chosen = choice["tried"]["lr"].index(choice["lr"])
        for index, run in enumerate(choice["runs"]):  # of the same seed and length
            same = curves(tuned.variant(label) / "seed0") == curves(tuned.runs / run)
            assert same == (index == chosen)

    def test_variants_are_tried_with_the_same_pairs(self, tuned: Tuned) -> None:
        original, maxpool = (
            files.read_json(tuned.variant(label) / TUNED) for label in ("original", "maxpool")
        )
        assert original["tried"] == maxpool["tried"]
        assert set(original["runs"]).isdisjoint(maxpool["runs"])

    @BOTH
    def test_record_says_it_and_config_what_was_asked(self, tuned: Tuned, label: str) -> None:
        directory = tuned.variant(label) / "seed0"
        choice = files.read_json(tuned.variant(label) / TUNED)
        assert files.read_json(directory / ledger.RECORD)["tuning"] == choice
        config = files.read_json(directory / store.CONFIG)["config"]
        assert config["recipe"]["lr"] == 0.002
        assert config["tune"]["trials"] == 3

    def test_trials_do_not_touch_the_test_images(self, tuned: Tuned) -> None:
        for trial in find_runs(tuned.runs / TUNING):
            metrics = files.read_json(trial / ledger.RECORD)["metrics"]
            assert set(metrics) == {"val_top1_percent", "val_top5_percent", "val_loss"}
            assert not (trial / store.PREDICTIONS).exists()
        content = make_content(make_rows(gather([tuned.runs / TUNING]).records))
        keys = [column.key for column in content.columns]
        assert "val_top1_percent" in keys
        assert not [key for key in keys if key.startswith("test")]

    def test_trials_say_nothing_of_tuning_and_keep_no_weights(self, tuned: Tuned) -> None:
        trials = find_runs(tuned.runs / TUNING)
        assert len(trials) == 6
        for trial in trials:
            assert "tuning" not in files.read_json(trial / ledger.RECORD)
            assert not list(trial.glob("checkpoints/*"))

    def test_trials_are_among_no_runs_but_their_own(self, tuned: Tuned) -> None:
        assert len(find_runs(tuned.runs)) == 2
        (study,) = (tuned.runs / store.STUDIES).glob("*.json")
        assert len(store.read_study(tuned.runs, study.stem)) == 2
        assert len(store.read_study(tuned.runs / TUNING, f"{study.stem}-{TUNING}")) == 6

    def test_table_names_the_budget(self, tuned: Tuned) -> None:
        assert (
            "Learning rate and weight decay of every variant were chosen by validation accuracy, "
            "each among 3 trials of 2 epochs."
        ) in " ".join(tuned.done.stdout.split())

    def test_same_command_again_trains_nothing(self, tuned: Tuned) -> None:
        assert tuned.again.returncode == 0, tuned.again.stderr
        assert tuned.again.stdout == tuned.done.stdout
        assert "tune" not in tuned.again.stderr
        assert count_attempts(tuned.runs) == tuned.attempts == 8


class TestContent:
    def test_columns_show_what_was_chosen(self, tuned: Tuned) -> None:
        content = make_content(make_rows(store.read_records(find_runs(tuned.runs))))
        keys = [column.key for column in content.columns]
        assert keys[:3] == ["variant", "tuned_lr", "tuned_weight_decay"]
        choice = files.read_json(tuned.variant("original") / TUNED)
        assert content.lines[0][1].first == f"{choice['lr']:g}"

    def test_where_some_are_not_tuned_caption_and_audit_say_so(self, tuned: Tuned) -> None:
        records = list(store.read_records(find_runs(tuned.runs)))
        plain = [dict(record) for record in records]
        for record in plain:
            del record["tuning"]
            canonical = {k: v for k, v in record["identity"]["canonical"].items() if k != "tune"}
            identity = {name: f"x{record['identity'][name]}" for name in ("hash", "baseline")}
            record["identity"] = {**identity, "canonical": canonical}
        rows = make_rows([*records, *plain])
        (finding,) = rows.audit.findings
        assert (finding.key, finding.name) == ("tune", "tuning")
        assert [value.text for value in finding.values] == [
            "trials=3, lr_factor=50, weight_decay_factor=4, seed=0",
            "not set",
        ]
        assert rows.settings == ("tune.trials",)
        caption = make_content(rows).caption
        assert "of 2 of 4 variants were chosen" in caption
        assert "the others have the recipe's own" in caption
        assert "Not the same for all rows: tuning;" in caption


@pytest.fixture(scope="module")
def sweeps(executable: str, environment: Mapping[str, str]) -> Iterator[Sweeps]:
    with Sweeps(executable, environment) as started:
        yield started


@dataclass(frozen=True)
class Killed:
    """A sweep that was killed while it tuned, and the same command again, which has ended.

    Attributes:
        again: The same command.
        done: The trial that was done when it was killed.
        cut: The one that was not.
        trained: Whether anything but trials had been trained by then.
    """

    again: Sweep
    done: Path
    cut: Path
    trained: bool


@pytest.fixture(scope="module")
def killed(sweeps: Sweeps, tmp_path_factory: pytest.TempPathFactory) -> Killed:
    directory = tmp_path_factory.mktemp("killed")
    write_module(directory)
    set_pace(directory, 0.2)
    sweep = sweeps.start(directory, *TROUBLED)
    trials = directory / "runs" / TUNING
    sweep.wait_for_output("[1/4] paced")
    (done,) = (path.parent for path in trials.glob(f"*/*/{ledger.RECORD}"))

    def under_way() -> list[Path]:
        found = (path.parent for path in trials.glob(f"*-paced-*/seed0/{store.METRICS}"))
        return [run for run in found if run != done]

    wait_until(under_way, "the second trains", sweep.parent)
    sweep.kill_all()
    (cut,) = under_way()
    trained = any(sweep.attempts(label) for label in ("paced", "raises"))
    set_pace(directory, 0)
    again = sweeps.start(directory, *TROUBLED)
    again.wait()
    return Killed(again, done, cut, trained)


@pytest.mark.slow
class TestKilled:
    def test_what_was_done_is_not_tried_again(self, killed: Killed) -> None:
        assert not killed.trained
        assert "tune   2 variants x 2 trials, 1 done before" in killed.again.output
        training = files.read_json(killed.done / ledger.RECORD)["training"]
        assert training["attempts"] == 1

    def test_what_was_cut_off_is(self, killed: Killed) -> None:
        assert files.read_json(killed.cut / ledger.RECORD)["training"]["attempts"] == 2

    def test_choice_is_of_all_trials(self, killed: Killed) -> None:
        directory = killed.again.run_dir("paced")
        choice = files.read_json(directory.parent / TUNED)
        assert set(choice["runs"]) == {
            str(run.relative_to(killed.again.runs_dir)) for run in (killed.done, killed.cut)
        }
        assert files.read_json(directory / ledger.RECORD)["tuning"] == choice

    def test_variant_whose_trials_all_failed_fails_and_the_others_go_on(
        self, killed: Killed
    ) -> None:
        assert killed.again.parent.returncode == 1
        assert "raises: 2 of its 2 trials failed, but have not diverged" in killed.again.output
        assert killed.again.output.splitlines()[-1].startswith(
            "pfstudy: 1 of 2 runs failed: raises seed0 (raises has no learning rate and weight "
            "decay yet: none of its 2 trials is done; see pfstudy status "
        )
        assert killed.again.state("raises")["state"] == "failed"
        assert not (killed.again.run_dir("raises").parent / TUNED).exists()


class TestElsewhere:
    """Where no sweep trains: one of several processes of a job, or a worker by itself."""

    def test_process_of_a_job_refuses(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MASTER_PORT", "0")
        with pytest.raises(PfstudyError, match=r"^the processes of one job .* tune first: "):
            job._run_as_rank(compose("tune.trials=2", *QUIET))
        assert not list(tmp_path.iterdir())

    def test_worker_refuses_and_says_so_in_the_ledger(self, make_run: Callable[..., Any]) -> None:
        run = make_run("tune.trials=2", *QUIET)
        store.prepare(run)
        with pytest.raises(PfstudyError, match="none of its 2 trials is done"):
            train_run(Task(run.directory, "mine", "disabled"), lambda kind, details: None)
        status = ledger.read_status(run.directory)
        assert status.state == "failed"
        assert "none of its 2 trials is done" in status.written["reason"]


def test_what_was_chosen_is_not_tried_again(make_run: Callable[..., Any]) -> None:
    run = make_run("tune.trials=2")
    assert [trial.directory.parent.parent.name for trial in list_trials(run.variant)] == [
        TUNING,
        TUNING,
    ]
    files.write_json(run.directory.parent / TUNED, {"lr": 0.1, "weight_decay": 0.0})
    assert list_trials(run.variant) == []


def test_an_impossible_accuracy_of_a_trial_chooses_nothing(make_run: Callable[..., Any]) -> None:
    record = make_record()
    record["metrics"]["val_top1_percent"] = 150
    trial = make_run("tune.trials=2")
    files.write_json(trial.directory / ledger.RECORD, record)
    with pytest.raises(PfstudyError, match="val_top1_percent is 150, but must be"):
        tuning._accuracy(trial)


def test_what_is_not_tuned_has_no_trials(make_run: Callable[..., Any]) -> None:
    assert list_trials(make_run().variant) == []


def test_runs_are_not_mistaken_for_trials(tmp_path: Path) -> None:
    config = compose(f"runs_dir={tmp_path / TUNING}")
    with pytest.raises(PfstudyError, match="is the name of a directory of tuning trials"):
        check_tuning(config)
    files.write_json(tmp_path / TUNING / store.STUDIES / f"mine-{TUNING}.json", {})
    check_tuning(config)  # of trials that are resumed
