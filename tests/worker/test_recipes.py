"""Recipes as runs train by them: gone on with, evaluated, kept, taught, diverged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runs import (
    SMALL,
    STEPS_PER_EPOCH,
    TINY,
    Moment,
    assert_equal,
    at,
    make_config,
    make_task,
    read_outcome,
    train,
    train_and_stop,
)

from pfstudy import files, ledger, store
from pfstudy.data.tensors import load_splits
from pfstudy.errors import DivergedError, PfstudyError
from pfstudy.network.restore import load_run
from pfstudy.network.teacher import load_teacher
from pfstudy.worker.run import train_run

EVERYTHING = (
    *SMALL,
    "recipe.optimizer=adamw",
    "recipe.lr=0.002",
    "recipe.decay_all=false",
    "recipe.ema_decay=0.9",
    "recipe.clip_norm=1.0",
    "recipe.drop_path=0.2",
    "recipe.loss=binary_cross_entropy",
    "recipe.augmentation.flip=true",
    "recipe.augmentation.translate=1",
    "recipe.augmentation.cutout=3",
    "recipe.augmentation.random_erasing=0.5",
    "recipe.augmentation.mixup=0.2",
    "recipe.augmentation.cutmix=1.0",
    "recipe.augmentation.repeats=2",
    "trainer.channels_last=true",
    "trainer.checkpoint_minutes=1e-9",
)


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(Moment("training", STEPS_PER_EPOCH + 3), id="in the middle of an epoch"),
        pytest.param(Moment("validation", 1), id="validation"),
    ],
)
def test_a_stopped_run_ends_as_if_it_had_not_been(moment: Moment, tmp_path: Path) -> None:
    whole, stopped = (make_task(tmp_path / name, *EVERYTHING) for name in ("whole", "stopped"))
    train(whole)
    train_and_stop(stopped, moment)
    train(stopped)
    assert_equal(read_outcome(stopped.directory), read_outcome(whole.directory))


def test_the_moving_average_is_what_is_tested_and_kept(tmp_path: Path) -> None:
    overrides = (*TINY, "recipe.ema_decay=0.5", "trainer.keep=[last,best]")
    task = make_task(tmp_path, *overrides)
    train(task)
    test = load_splits(make_config(*overrides).data)["test"]
    with torch.inference_mode():
        found = load_run(task.directory)(test.images_NCHW).argmax(1)
    record = files.read_json(task.directory / ledger.RECORD)
    share = (found == test.labels_N).float().mean()
    assert record["metrics"]["test_top1_percent"] == pytest.approx(100 * float(share))
    assert (task.directory / store.BEST_WEIGHTS).exists()


def test_the_learning_rate_that_was_used_is_recorded(tmp_path: Path) -> None:
    task = make_task(tmp_path, *TINY, "recipe.lr_batch_size=4")
    train(task)
    assert files.read_json(task.directory / ledger.RECORD)["training"]["lr"] == 0.02


@pytest.mark.parametrize("minutes", ["1000", "1e-9"], ids=["at the end of its epoch", "at once"])
def test_a_run_that_diverges_fails_with_the_step(minutes: str, tmp_path: Path) -> None:
    task = make_task(tmp_path, *SMALL, f"trainer.checkpoint_minutes={minutes}")

    def spoil() -> None:
        torch.nn.functional.cross_entropy = lambda *_, **__: really(*_, **__) * float("nan")

    really = torch.nn.functional.cross_entropy
    try:
        with (
            at(Moment("training", STEPS_PER_EPOCH + 3), spoil),
            pytest.raises(DivergedError, match=r"in epoch 2 at step 3; lower recipe\.lr"),
        ):
            train_run(task, lambda kind, details: None)
    finally:
        torch.nn.functional.cross_entropy = really
    written = ledger.read_status(task.directory).written
    assert (written["state"], written["kind"]) == ("failed", "diverged")
    assert "step 3" in written["reason"]


class TestTeacher:
    def test_of_a_run_changes_what_is_learnt(self, tmp_path: Path) -> None:
        teacher, alone = make_task(tmp_path, *TINY, "seed=5"), make_task(tmp_path, *TINY)
        train(teacher)
        train(alone)
        taught = make_task(tmp_path, *TINY, f"recipe.teacher={teacher.directory}")
        train(taught)
        assert taught.directory != alone.directory
        losses = [
            files.read_json(task.directory / ledger.RECORD)["metrics"]["test_loss"]
            for task in (taught, alone)
        ]
        assert losses[0] != losses[1]
        content = (teacher.directory / store.WEIGHTS).read_bytes()
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "checkpoints").mkdir(parents=True)
        (elsewhere / store.WEIGHTS).write_bytes(content)
        moved = make_task(tmp_path, *TINY, f"recipe.teacher={elsewhere}")
        assert moved.directory == taught.directory  # it is its weights that count

    @pytest.mark.parametrize(
        ("change", "key"),
        [("data.num_classes=7", "num_classes"), ("data.split_seed=1", "split_seed")],
    )
    def test_must_have_seen_the_same(self, change: str, key: str, tmp_path: Path) -> None:
        task = make_task(tmp_path, *TINY)
        train(task)
        data = make_config(*TINY, change).data
        with pytest.raises(PfstudyError, match=rf"or another split \(.*{key}.*\); teach with"):
            load_teacher(str(task.directory), data)

    @pytest.mark.parametrize(
        ("teacher", "sentence"),
        [
            pytest.param("timm:resnet51", "has no 'resnet51'", id="timm"),
            pytest.param("nowhere", "holds no finished run", id="run"),
        ],
    )
    def test_must_be_there(self, teacher: str, sentence: str) -> None:
        with pytest.raises(PfstudyError, match=sentence):
            load_teacher(teacher, make_config(*TINY).data)
