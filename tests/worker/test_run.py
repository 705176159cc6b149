"""A run in one process: what it leaves, what becomes of it where something goes wrong."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nursery import Nursery
from runs import (
    SMALL,
    STEPS_PER_EPOCH,
    TINY,
    Moment,
    Reports,
    at,
    make_config,
    make_task,
    read_rows,
    train,
    train_and_stop,
)

from pfstudy import files, ledger, store
from pfstudy.data.tensors import load_splits
from pfstudy.errors import DiskError, DivergedError, PfstudyError
from pfstudy.ledger import Claim
from pfstudy.network.restore import load_run
from pfstudy.tasks import Task
from pfstudy.worker import __main__ as program
from pfstudy.worker import results
from pfstudy.worker.run import kind_of, read_run, train_run
from pfstudy.worker.trainer import derive_seeds

Prepare = Callable[..., Task]


@pytest.fixture
def prepare(tmp_path: Path) -> Prepare:
    """Make the directory of a tiny run."""
    return lambda *overrides: make_task(tmp_path / "runs", *TINY, *overrides)


class TestTrainRun:
    def test_leaves_record_and_reports_each_epoch(self, prepare: Prepare) -> None:
        task = prepare("block.spatial=maxpool", "seed=5")
        reports = train(task)
        assert [(row["epoch"], row["num_epochs"]) for row in reports.of("epoch")] == [
            (1, 2),
            (2, 2),
        ]
        assert {kind for kind, _ in reports} <= {"epoch", "step"}
        record = files.read_json(task.directory / ledger.RECORD)
        assert record["seed"] == 5
        assert record["seeds"] == derive_seeds(5)
        assert record["environment"] == {"host": "here", "device": "cpu"}
        assert record["training"]["world_size"] == record["training"]["accumulation"] == 1
        assert ledger.state_of(task.directory) == "done"
        assert {path.name for path in task.directory.iterdir()} == {
            "attempts", "checkpoints", "config.json", "config.yaml", "metrics.csv",
            "predictions.npz", "record.json", "state.json",
        }  # fmt: skip

    def test_second_call_changes_nothing(self, prepare: Prepare) -> None:
        task = prepare()
        train(task)
        before = {p: p.stat().st_mtime_ns for p in task.directory.rglob("*") if p.is_file()}
        assert train(task) == []
        after = {p: p.stat().st_mtime_ns for p in task.directory.rglob("*") if p.is_file()}
        assert after == before

    def test_run_that_another_process_trains_is_left_alone(self, prepare: Prepare) -> None:
        task = prepare()
        claimed = ledger.claim(task.directory)
        assert claimed is not None
        before = (task.directory / ledger.STATE).read_text()
        assert train_run(task, Reports()) == "elsewhere"
        assert (task.directory / ledger.STATE).read_text() == before
        claimed.end("interrupted")
        assert train_run(task, Reports()) == "done"

    def test_attempts_are_counted_and_metrics_start_anew(self, prepare: Prepare) -> None:
        task = prepare()
        for _ in range(4):
            claimed = ledger.claim(task.directory)
            assert claimed is not None
            claimed.end("interrupted")
        (task.directory / "metrics.csv").write_text("epoch\n1\n2\n3\n")
        train(task)
        assert ledger.read_status(task.directory).attempt == 5
        assert [row["epoch"] for row in read_rows(task.directory)] == ["1", "2"]

    def test_progress_is_told_also_between_epochs(
        self, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pfstudy.worker.progress._REPORT_EVERY_S", -1)
        told = train(prepare()).of("step")
        done = [details["epochs_done"] for details in told]
        assert done[:3] == [0.5, 1, 1]  # two steps, and a batch of validation
        assert done == sorted(done)
        assert done[-1] == 2
        assert {details["num_epochs"] for details in told} == {2}

    def test_seeds_change_weights_and_order(self, prepare: Prepare) -> None:
        logits = []
        for seed in (0, 1):
            task = prepare(f"seed={seed}")
            train(task)
            with np.load(task.directory / "predictions.npz") as predictions:
                logits.append(predictions["logits"])
        assert not np.allclose(*logits)

    def test_many_logits_are_kept_as_top5(
        self, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = prepare()
        train(task)
        with np.load(task.directory / "predictions.npz") as predictions:
            expected = np.argsort(-predictions["logits"], axis=1)[:, :5]
        (task.directory / ledger.RECORD).unlink()
        monkeypatch.setattr(results, "_MOST_LOGITS", 10)
        train(task)
        with np.load(task.directory / "predictions.npz") as predictions:
            assert set(predictions) == {"labels", "top5"}
            np.testing.assert_array_equal(predictions["top5"], expected)

    def test_record_is_written_once(
        self, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also where somebody else has written it at the very last moment."""
        task = prepare()
        really = Claim.check

        def check(claimed: Claim) -> None:
            really(claimed)
            if (task.directory / "predictions.npz").exists():
                (task.directory / ledger.RECORD).write_text('{"of": "another"}')

        monkeypatch.setattr(Claim, "check", check)
        train(task)
        assert files.read_json(task.directory / ledger.RECORD) == {"of": "another"}


class TestKeep:
    BEST_IS_NOT_LAST = (*SMALL, "recipe.lr=0.1", "recipe.epochs=4", "seed=1")

    @pytest.mark.parametrize(
        ("keep", "expected"),
        [
            pytest.param("[last]", {"last.safetensors"}, id="last"),
            pytest.param("[best]", {"best.safetensors"}, id="best"),
            pytest.param("[last,best]", {"last.safetensors", "best.safetensors"}, id="both"),
            pytest.param("[]", set(), id="none"),
        ],
    )
    def test_leaves_these_weights_alone(
        self, prepare: Prepare, keep: str, expected: set[str]
    ) -> None:
        task = prepare(f"trainer.keep={keep}")
        checkpoints = task.directory / "checkpoints"
        checkpoints.mkdir()
        for name in ("resume.ckpt", ".resume.ckpt.draft"):  # of an attempt that was killed
            (checkpoints / name).write_text("half")
        train(task)
        assert {path.name for path in checkpoints.iterdir()} == expected

    def test_best_are_those_of_the_best_epoch(self, tmp_path: Path) -> None:
        overrides = (*self.BEST_IS_NOT_LAST, "trainer.keep=[best]")
        task = make_task(tmp_path / "whole", *overrides)
        train(task)
        accuracy = [float(row["val_top1_percent"]) for row in read_rows(task.directory)]
        assert max(accuracy) > accuracy[-1]
        validation = load_splits(make_config(*overrides).data)["validation"]
        with torch.inference_mode():
            found = load_run(task.directory)(validation.images_NCHW).argmax(1)
        shared = 100 * (found == validation.labels_N).double().mean().item()
        assert shared == pytest.approx(max(accuracy), abs=1e-4)

        stopped = make_task(tmp_path / "stopped", *overrides)
        steps = STEPS_PER_EPOCH * (accuracy.index(max(accuracy)) + 1)
        train_and_stop(stopped, Moment("training", steps + 1))
        train(stopped)
        path = store.BEST_WEIGHTS
        assert (stopped.directory / path).read_bytes() == (task.directory / path).read_bytes()

    def test_run_without_weights_cannot_be_loaded(self, prepare: Prepare) -> None:
        task = prepare("trainer.keep=[]")
        train(task)
        with pytest.raises(PfstudyError) as caught:
            load_run(task.directory)
        assert str(caught.value) == (
            f"{task.directory} has kept no weights; to load it, forget the run (pfstudy forget) "
            "and train it again with trainer.keep=[last]."
        )

    def test_last_weights_are_loaded_before_the_best(self, prepare: Prepare) -> None:
        task = prepare("trainer.keep=[last,best]")
        train(task)
        (task.directory / store.BEST_WEIGHTS).write_text("no weights")
        images = load_splits(make_config(*TINY).data)["test"].images_NCHW
        with torch.inference_mode():
            logits = load_run(task.directory)(images)
        with np.load(task.directory / "predictions.npz") as predictions:
            np.testing.assert_allclose(logits, predictions["logits"], atol=1e-5)


class TestFailure:
    def test_divergence_is_recorded_with_its_reason(self, prepare: Prepare) -> None:
        task = prepare("recipe.lr=1e30", "recipe.epochs=5")
        with pytest.raises(PfstudyError, match="training loss became"):
            train_run(task, Reports())
        written = ledger.read_status(task.directory).written
        assert (written["state"], written["kind"]) == ("failed", "diverged")
        assert "lower recipe.lr" in written["reason"]
        assert not (task.directory / ledger.RECORD).exists()

    def test_batch_larger_than_the_training_split(self, prepare: Prepare) -> None:
        task = prepare("recipe.batch_size=17")
        with pytest.raises(PfstudyError, match=r"recipe\.batch_size is 17.*only 16"):
            train_run(task, Reports())
        assert ledger.read_status(task.directory).written["kind"] == "error"

    def test_batch_that_does_not_divide_into_parts(self, tmp_path: Path) -> None:
        task = make_task(tmp_path, *TINY, accumulation=3)
        with pytest.raises(PfstudyError, match="8, which 1 device and 3 parts cannot share"):
            train_run(task, Reports())
        assert ledger.read_status(task.directory).written["accumulation"] == 3

    @pytest.mark.parametrize(
        ("error", "kind", "reason"),
        [
            pytest.param(torch.OutOfMemoryError("CUDA out of memory."), "memory",
                         "CUDA out of memory.", id="memory"),
            pytest.param(RuntimeError("wrong\nshape"), "error", "wrong\nshape", id="error"),
            pytest.param(RuntimeError(), "error", "RuntimeError", id="says nothing"),
        ],
    )  # fmt: skip
    def test_any_other_error_is_too(
        self, prepare: Prepare, error: Exception, kind: str, reason: str
    ) -> None:
        task = prepare()

        def fail() -> None:
            raise error

        with at(Moment("training", 3), fail), pytest.raises(type(error)):
            train_run(task, Reports())
        written = ledger.read_status(task.directory).written
        assert (written["state"], written["kind"], written["reason"]) == ("failed", kind, reason)
        assert written["epoch"] == 1  # as far as it came
        train(task)

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            pytest.param(DivergedError("the loss"), "diverged", id="diverged"),
            pytest.param(DiskError("x cannot be written"), "disk", id="disk"),
            pytest.param(MemoryError(), "memory", id="host memory"),
            pytest.param(torch.OutOfMemoryError(), "memory", id="device memory"),
            pytest.param(RuntimeError("CUDA error: out of memory"), "memory", id="CUDA's words"),
            pytest.param(PfstudyError("wrong"), "error", id="mistake"),
            pytest.param(RuntimeError("wrong"), "error", id="any"),
        ],
    )
    def test_kinds(self, error: BaseException, kind: str) -> None:
        assert kind_of(error) == kind

    def test_real_lack_of_memory(self) -> None:
        with pytest.raises(RuntimeError) as caught:
            torch.empty(2**50)
        assert kind_of(caught.value) == "memory"

    def test_what_goes_wrong_behind_the_record_is_no_failure(
        self, prepare: Prepare, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = prepare()

        def fail(*_: Any) -> None:
            raise RuntimeError("the service is gone")

        monkeypatch.setattr("pfstudy.worker.run.Tracker.finish", fail)
        with pytest.raises(RuntimeError, match="the service is gone"):
            train_run(task, Reports())
        assert ledger.state_of(task.directory) == "done"

    def test_dataset_that_changed_since_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.npz"
        images = np.random.default_rng(0).random((40, 8, 8), dtype=np.float32)
        np.savez(file, images=images, labels=np.arange(40) % 2)
        data = ["data=npz", f"data.path={file}", "data.image_size=8", "data.channels=1"]
        data += ["data.num_classes=2", "data.num_validation=8", "data.num_test=8"]
        data += ["model.num_classes=2"]
        task = make_task(tmp_path / "runs", *data)
        read_run(task.directory)
        np.savez(file, images=images + 1, labels=np.arange(40) % 2)
        with pytest.raises(PfstudyError, match="has changed since its config was written"):
            train_run(task, Reports())
        assert make_task(tmp_path / "runs", *data).directory != task.directory


class TestTakenOver:
    """Another process took this one for dead, and has begun an attempt of its own."""

    @pytest.mark.parametrize("moment", [Moment("training", 2), Moment("test", 1)], ids=str)
    def test_ends_before_the_record(self, prepare: Prepare, moment: Moment) -> None:
        task = prepare()

        def take_over() -> None:
            path = task.directory / ledger.ATTEMPTS / "2.json"
            path.write_text(json.dumps({"host": "another", "pid": 1, "machine": "another"}))
            files.write_json(task.directory / ledger.STATE, {"state": "running", "attempt": 2})

        with (
            at(moment, take_over),
            pytest.raises(PfstudyError, match="another process took this one for dead"),
        ):
            train_run(task, Reports())
        assert not (task.directory / ledger.RECORD).exists()
        written = files.read_json(task.directory / ledger.STATE)
        assert written == {"state": "running", "attempt": 2}


class TestInterrupted:
    """By Ctrl-C, which waits for no checkpoint."""

    def test_is_no_failure(self, prepare: Prepare) -> None:
        task = prepare()

        def interrupt(kind: str, details: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train_run(task, interrupt)
        assert ledger.state_of(task.directory) == "interrupted"
        assert not (task.directory / ledger.RECORD).exists()
        train(task)
        assert ledger.read_status(task.directory).attempt == 2

    def test_on_the_command_line(self, nursery: Nursery, prepare: Prepare, tmp_path: Path) -> None:
        task = prepare()
        signal_at = (Moment("training", 3), signal.SIGINT)
        child = nursery.start(tmp_path / "log", task.directory, signal_at=signal_at)
        assert child.wait() == 130
        assert child.output.endswith("pfstudy: interrupted; the same command goes on.\n")
        assert "Traceback" not in child.output
        assert ledger.state_of(task.directory) == "interrupted"


class TestFolder:
    """A run on image files: each class has a colour of its own."""

    @pytest.fixture
    def copied(self, folder: Path, tmp_path: Path) -> Path:
        (tmp_path / "images").mkdir()
        for path in folder.rglob("*.*"):
            copy = tmp_path / "images" / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        return tmp_path / "images"

    @pytest.fixture
    def folder_task(self, copied: Path, tmp_path: Path) -> Task:
        return make_task(
            tmp_path / "runs",
            *("data=imagefolder", f"data.path={copied}", "data.num_classes=3"),
            *("data.num_workers=1", "recipe.epochs=3", "recipe.batch_size=6", "recipe.lr=0.05"),
        )

    def test_is_trained_and_recorded(self, folder_task: Task) -> None:
        train(folder_task)
        record = files.read_json(folder_task.directory / ledger.RECORD)
        assert record["data"] == "imagefolder"
        with np.load(folder_task.directory / "predictions.npz") as predictions:
            assert predictions["labels"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
            found = predictions["logits"].argmax(axis=1) == predictions["labels"]
        assert record["metrics"]["test_top1_percent"] == pytest.approx(100 * found.mean())
        assert found.mean() > 0.5

    def test_damaged_file_is_the_reason_of_the_failure(
        self, copied: Path, folder_task: Task
    ) -> None:
        damaged = copied / "train" / "bee" / "2.png"
        damaged.write_bytes(b"x" * damaged.stat().st_size)
        with pytest.raises(PfstudyError) as caught:
            train_run(folder_task, Reports())
        written = ledger.read_status(folder_task.directory).written
        assert written["state"] == "failed"
        assert str(caught.value) == written["reason"]
        assert written["reason"] == (
            f"{damaged} is no image that Pillow knows; remove or replace it."
        )

    def test_folder_that_changed_since_is_refused(self, copied: Path, folder_task: Task) -> None:
        (copied / "test" / "cat" / "4.png").unlink()
        with pytest.raises(PfstudyError, match="has changed since its config was written"):
            train_run(folder_task, Reports())


class TestReadRun:
    def test_reads_variant_and_seed_back(self, tmp_path: Path) -> None:
        overrides = ("block.stage1.spatial=avgpool", "block.kernel_size=5", "seed=2")
        task = make_task(tmp_path, *overrides)
        variant, seed = read_run(task.directory)
        written = files.read_json(task.directory / store.CONFIG)["identity"]
        assert (variant.canonical, variant.hash, seed) == (
            written["canonical"],
            written["hash"],
            2,
        )
        assert variant.label == "stage1=avgpool5x5"

    def test_directory_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"config\.json cannot be read"):
            read_run(tmp_path)


class TestDeriveSeeds:
    def test_are_frozen(self) -> None:
        assert derive_seeds(0) == {
            "init": 249437227925136,
            "order": 35388568812076,
            "augmentation": 93246005299662,
        }

    def test_do_not_coincide(self) -> None:
        seeds = [value for seed in range(100) for value in derive_seeds(seed).values()]
        assert len(set(seeds)) == 300


class TestProgram:
    def test_trains_the_directory_that_is_given(
        self, prepare: Prepare, nursery: Nursery, tmp_path: Path
    ) -> None:
        task = prepare()
        child = nursery.start(tmp_path / "log", task.directory)
        assert child.wait() == 0
        assert ledger.state_of(task.directory) == "done"
        lines = child.output.splitlines()
        assert sum(line.startswith("epoch ") for line in lines) == 2
        assert lines[-1] == "done"

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            pytest.param([], "give one run directory: python -m pfstudy.worker RUN_DIR.",
                         id="nothing"),
            pytest.param(["one", "two"], "give one run directory: python -m pfstudy.worker "
                         "RUN_DIR.", id="two directories"),
            pytest.param(["nowhere"], "nowhere/config.json cannot be read: No such file or "
                         "directory.", id="no run"),
        ],
    )  # fmt: skip
    def test_mistake_is_one_sentence(
        self,
        arguments: list[str],
        sentence: str,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(sys, "argv", ["worker", *arguments])
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            program.main()
        signal.signal(signal.SIGTERM, before)
        assert caught.value.code == 2
        assert capsys.readouterr().err == f"pfstudy: {sentence}\n"
