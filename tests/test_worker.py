from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from pfstudy import files, ledger, store, worker
from pfstudy.errors import PfstudyError
from pfstudy.tasks import Task

TINY = (
    "data=synthetic",
    "data.num_train=16",
    "data.num_validation=8",
    "data.num_test=8",
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "recipe.lr=0.01",
    "trainer.accelerator=cpu",
    "logger=none",
)
MakeRun = Callable[..., store.Run]


class Reports(list[tuple[str, Mapping[str, Any]]]):
    def __call__(self, kind: str, details: Mapping[str, Any]) -> None:
        self.append((kind, details))


@pytest.fixture
def prepare(make_run: MakeRun) -> Callable[..., Task]:
    """Make the directory of a tiny run."""

    def make(*overrides: str) -> Task:
        run = make_run(*TINY, *overrides)
        store.prepare(run)
        return Task(run.directory, study="mine", mode="disabled", environment={"host": "here"})

    return make


class TestTrainRun:
    def test_leaves_record_and_reports_each_epoch(self, prepare: Callable[..., Task]) -> None:
        task, reports = prepare("block.spatial=maxpool", "seed=5"), Reports()
        assert worker.train_run(task, reports) == "done"
        assert [(kind, row["epoch"], row["num_epochs"]) for kind, row in reports] == [
            ("epoch", 1, 2),
            ("epoch", 2, 2),
        ]
        record = files.read_json(task.directory / store.RECORD)
        assert record["seed"] == 5
        assert record["seeds"] == worker.derive_seeds(5)
        assert record["environment"] == {"host": "here", "device": "cpu"}
        assert ledger.state_of(task.directory) == "done"

    def test_second_call_changes_nothing(self, prepare: Callable[..., Task]) -> None:
        task = prepare()
        worker.train_run(task, Reports())
        before = {p: p.stat().st_mtime_ns for p in task.directory.rglob("*") if p.is_file()}
        reports = Reports()
        assert worker.train_run(task, reports) == "done"
        assert reports == []
        after = {p: p.stat().st_mtime_ns for p in task.directory.rglob("*") if p.is_file()}
        before.pop(task.directory / ".lock")
        after.pop(task.directory / ".lock")
        assert after == before

    def test_run_that_another_process_trains_is_left_alone(
        self, prepare: Callable[..., Task]
    ) -> None:
        task = prepare()
        with FileLock(task.directory / ".lock"):
            assert worker.train_run(task, Reports()) == "elsewhere"
        assert store.read_state(task.directory) == {"state": "pending", "attempt": 0}

    def test_attempts_are_counted_and_metrics_start_anew(
        self, prepare: Callable[..., Task]
    ) -> None:
        task = prepare()
        store.write_state(task.directory, "interrupted", attempt=4)
        (task.directory / "metrics.csv").write_text("epoch\n1\n2\n3\n")
        worker.train_run(task, Reports())
        assert store.read_state(task.directory)["attempt"] == 5
        with (task.directory / "metrics.csv").open() as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2"]

    def test_seeds_change_weights_and_order(self, prepare: Callable[..., Task]) -> None:
        logits = []
        for seed in (0, 1):
            task = prepare(f"seed={seed}")
            worker.train_run(task, Reports())
            with np.load(task.directory / "predictions.npz") as predictions:
                logits.append(predictions["logits"])
        assert not np.allclose(*logits)

    def test_many_logits_are_kept_as_top5(
        self, prepare: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = prepare()
        worker.train_run(task, Reports())
        with np.load(task.directory / "predictions.npz") as predictions:
            expected = np.argsort(-predictions["logits"], axis=1)[:, :5]
        (task.directory / store.RECORD).unlink()
        store.write_state(task.directory, "interrupted")
        monkeypatch.setattr(worker, "_MOST_LOGITS", 10)
        worker.train_run(task, Reports())
        with np.load(task.directory / "predictions.npz") as predictions:
            assert set(predictions) == {"labels", "top5"}
            np.testing.assert_array_equal(predictions["top5"], expected)


class TestFailure:
    def test_divergence_is_recorded_with_its_reason(self, prepare: Callable[..., Task]) -> None:
        task = prepare("recipe.lr=1e30", "recipe.epochs=5")
        with pytest.raises(PfstudyError, match="training loss became"):
            worker.train_run(task, Reports())
        state = store.read_state(task.directory)
        assert state["state"] == "failed"
        assert "lower recipe.lr" in state["reason"]
        assert not (task.directory / store.RECORD).exists()

    def test_batch_larger_than_the_training_split(self, prepare: Callable[..., Task]) -> None:
        task = prepare("recipe.batch_size=17")
        with pytest.raises(PfstudyError, match=r"recipe\.batch_size is 17.*only 16"):
            worker.train_run(task, Reports())
        assert ledger.state_of(task.directory) == "failed"

    def test_interruption_is_no_failure(self, prepare: Callable[..., Task]) -> None:
        task = prepare()

        def interrupt(kind: str, details: Mapping[str, Any]) -> None:
            raise KeyboardInterrupt

        with pytest.raises((KeyboardInterrupt, SystemExit)):
            worker.train_run(task, interrupt)
        assert ledger.state_of(task.directory) == "interrupted"
        assert not (task.directory / store.RECORD).exists()
        assert worker.train_run(task, Reports()) == "done"
        assert store.read_state(task.directory)["attempt"] == 2

    def test_dataset_that_changed_since_is_refused(self, make_run: MakeRun, tmp_path: Path) -> None:
        file = tmp_path / "mine.npz"
        images = np.random.default_rng(0).random((40, 8, 8), dtype=np.float32)
        np.savez(file, images=images, labels=np.arange(40) % 2)
        data = ["data=npz", f"data.path={file}", "data.image_size=8", "data.channels=1"]
        data += ["data.num_classes=2", "data.num_validation=8", "data.num_test=8"]
        run = make_run(*data, "model.num_classes=2", "logger=none")
        store.prepare(run)
        assert worker.read_run(run.directory)[0].hash == run.variant.hash
        np.savez(file, images=images + 1, labels=np.arange(40) % 2)
        with pytest.raises(PfstudyError, match="has changed since its config was written"):
            worker.train_run(Task(run.directory, study="mine", mode="disabled"), Reports())
        assert make_run(*data, "model.num_classes=2", "logger=none").directory != run.directory


class TestFolder:
    """A run on image files: each class has a grey of its own."""

    CLASSES = ("ape", "bee", "cat")

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for part, number in (("train", 12), ("val", 4), ("test", 5)):
            for label, name in enumerate(self.CLASSES):
                (tmp_path / "images" / part / name).mkdir(parents=True)
                for index in range(number):
                    image = Image.new("RGB", (10, 9), (100 * label + index, 50, 50))
                    image.save(tmp_path / "images" / part / name / f"{index}.png")
        return tmp_path / "images"

    @pytest.fixture
    def folder_task(self, make_run: MakeRun, folder: Path) -> Task:
        run = make_run(
            *("data=imagefolder", f"data.path={folder}", "data.num_classes=3"),
            *("data.num_workers=1", "recipe.epochs=3", "recipe.batch_size=6", "recipe.lr=0.05"),
            *("trainer.accelerator=cpu", "logger=none"),
        )
        store.prepare(run)
        return Task(run.directory, study="mine", mode="disabled", environment={"host": "here"})

    def test_is_trained_and_recorded(self, folder_task: Task) -> None:
        worker.train_run(folder_task, Reports())
        record = files.read_json(folder_task.directory / store.RECORD)
        assert record["data"] == "imagefolder"
        with np.load(folder_task.directory / "predictions.npz") as predictions:
            assert predictions["labels"].tolist() == [0] * 5 + [1] * 5 + [2] * 5
            found = predictions["logits"].argmax(axis=1) == predictions["labels"]
        assert record["metrics"]["test_top1_percent"] == pytest.approx(100 * found.mean())
        assert found.mean() > 0.5

    def test_damaged_file_is_the_reason_of_the_failure(
        self, folder: Path, folder_task: Task
    ) -> None:
        damaged = folder / "train" / "bee" / "3.png"
        damaged.write_bytes(b"x" * damaged.stat().st_size)
        with pytest.raises(PfstudyError) as caught:
            worker.train_run(folder_task, Reports())
        state = store.read_state(folder_task.directory)
        assert state["state"] == "failed"
        assert (
            str(caught.value)
            == state["reason"]
            == (f"{damaged} is no image that Pillow knows; remove or replace it.")
        )

    def test_folder_that_changed_since_is_refused(self, folder: Path, folder_task: Task) -> None:
        (folder / "test" / "cat" / "4.png").unlink()
        with pytest.raises(PfstudyError, match="has changed since its config was written"):
            worker.train_run(folder_task, Reports())


class TestReadRun:
    def test_reads_variant_and_seed_back(self, make_run: MakeRun) -> None:
        run = make_run("block.stage1.spatial=avgpool", "block.kernel_size=5", "seed=2")
        store.prepare(run)
        variant, seed = worker.read_run(run.directory)
        assert (variant.canonical, seed) == (run.variant.canonical, 2)
        assert variant.label == run.variant.label

    def test_directory_without_config(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"config\.json cannot be read"):
            worker.read_run(tmp_path)


class TestDeriveSeeds:
    def test_are_frozen(self) -> None:
        assert worker.derive_seeds(0) == {
            "init": 249437227925136,
            "order": 35388568812076,
            "augmentation": 93246005299662,
        }

    def test_do_not_coincide(self) -> None:
        seeds = [value for seed in range(100) for value in worker.derive_seeds(seed).values()]
        assert len(set(seeds)) == 300


def test_module_trains_the_directory_that_is_given(
    prepare: Callable[..., Task],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = prepare()
    monkeypatch.setattr(sys, "argv", ["worker", str(task.directory)])
    worker.main()
    assert ledger.state_of(task.directory) == "done"
    assert capsys.readouterr().out.count("epoch {") == 2
