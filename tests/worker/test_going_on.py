"""A run that is stopped and gone on with ends as if nothing had happened, to the bit."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from nursery import PATIENCE_S, Nursery
from runs import (
    SMALL,
    STEPS_PER_EPOCH,
    Moment,
    Outcome,
    assert_equal,
    make_task,
    read_outcome,
    read_rows,
    signalled,
    train,
    train_and_stop,
)

from pfstudy import files, ledger, store
from pfstudy.tasks import Task

MAXPOOL = (*SMALL, "block.spatial=maxpool")
KINDS: Mapping[str, tuple[str, ...]] = {
    "convolutions": MAXPOOL,
    "drop path": (
        *SMALL,
        "model=vit_digits",
        "recipe=digits_vit",
        "+model.args.drop_path_rate=0.3",
    ),
    "half precision": (*MAXPOOL, "trainer.precision=bf16-mixed"),
    "accumulation": (*MAXPOOL,),
    "files": (),
}
"""What a network, and what feeds it, draws at random, rounds or keeps from step to step."""

STOPS = (
    Moment("training", 2),
    Moment("training", 3),
    Moment("training", STEPS_PER_EPOCH - 5),  # the last step of the first epoch
    Moment("validation", 1),
    Moment("training", 1),
)


MakeTask = Callable[[str, Path], Task]


@pytest.fixture(scope="module")
def image_files(folder: Path) -> tuple[str, ...]:
    """A run on image files: what KINDS lacks, as it must know where they are."""
    return (
        "data=imagefolder",
        f"data.path={folder}",
        "data.num_classes=3",
        "data.num_workers=1",
        "recipe.epochs=3",
        "recipe.batch_size=4",
        "recipe.lr=0.05",
    )


@pytest.fixture(scope="module")
def make(image_files: tuple[str, ...]) -> MakeTask:
    """Make a run of some kind below a directory."""

    def make_one(kind: str, root: Path) -> Task:
        overrides = image_files if kind == "files" else KINDS[kind]
        return make_task(root, *overrides, accumulation=2 if kind == "accumulation" else 1)

    return make_one


@pytest.fixture(scope="module")
def uninterrupted(
    make: MakeTask, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Outcome]:
    """What a run of some kind leaves that nobody has stopped; each is trained once."""
    outcomes: dict[str, Outcome] = {}

    def train_once(kind: str) -> Outcome:
        if kind not in outcomes:
            task = make(kind, tmp_path_factory.mktemp("uninterrupted"))
            train(task)
            outcomes[kind] = read_outcome(task.directory)
        return outcomes[kind]

    return train_once


class TestStopped:
    """By SIGTERM, behind whose step a checkpoint is written."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_again_and_again(
        self, make: MakeTask, uninterrupted: Callable[[str], Outcome], kind: str, tmp_path: Path
    ) -> None:
        task = make(kind, tmp_path)
        for moment in STOPS:
            train_and_stop(task, moment)
        train(task)
        assert_equal(read_outcome(task.directory), uninterrupted(kind))
        record = files.read_json(task.directory / ledger.RECORD)
        assert record["training"]["attempts"] == len(STOPS) + 1
        assert [row["epoch"] for row in read_rows(task.directory)] == ["1", "2", "3"]

    @pytest.mark.parametrize(
        ("moment", "next_epoch"),
        [
            pytest.param(Moment("training", 1), 1, id="first step"),
            pytest.param(Moment("training", STEPS_PER_EPOCH - 1), 1, id="last step but one"),
            pytest.param(Moment("training", STEPS_PER_EPOCH), 2, id="last step of an epoch"),
            pytest.param(Moment("validation", 1), 2, id="validation"),
            pytest.param(Moment("training", STEPS_PER_EPOCH + 1), 2, id="first step of an epoch"),
            pytest.param(Moment("training", 3 * STEPS_PER_EPOCH - 1), 3, id="last but one of all"),
        ],
    )
    def test_wherever_it_was(
        self,
        make: MakeTask,
        uninterrupted: Callable[[str], Outcome],
        moment: Moment,
        next_epoch: int,
        tmp_path: Path,
    ) -> None:
        task = make("convolutions", tmp_path)
        reports = train_and_stop(task, moment)
        assert [row["epoch"] for row in reports.of("epoch")] == list(range(1, next_epoch))
        again = train(task)
        assert [row["epoch"] for row in again.of("epoch")] == list(range(next_epoch, 4))
        assert_equal(read_outcome(task.directory), uninterrupted("convolutions"))

    def test_in_the_midst_of_a_validation(self, tmp_path: Path) -> None:
        """Whose end is waited for."""
        long = (*MAXPOOL, "data.num_validation=260")
        expected, task = (make_task(tmp_path / name, *long) for name in ("one", "other"))
        train(expected)
        train_and_stop(task, Moment("validation", 3))  # the first of two batches, second epoch
        assert [row["epoch"] for row in train(task).of("epoch")] == [3]
        assert_equal(read_outcome(task.directory), read_outcome(expected.directory))

    @pytest.mark.parametrize(
        "moment",
        [Moment("training", 3 * STEPS_PER_EPOCH), Moment("validation", 3), Moment("test", 1)],
        ids=str,
    )
    def test_when_all_is_trained_it_ends(
        self,
        make: MakeTask,
        uninterrupted: Callable[[str], Outcome],
        moment: Moment,
        tmp_path: Path,
    ) -> None:
        task = make("convolutions", tmp_path)
        with signalled(moment):
            train(task)
        assert_equal(read_outcome(task.directory), uninterrupted("convolutions"))

    def test_from_outside_at_any_time(self, nursery: Nursery, tmp_path: Path) -> None:
        long = (*MAXPOOL, "recipe.epochs=20")
        expected, task = (make_task(tmp_path / name, *long) for name in ("one", "other"))
        train(expected)
        for num_epochs in (2, 6):
            child = nursery.start(tmp_path / "log", task.directory)
            wait_for_epochs(task.directory, num_epochs)
            child.signal(signal.SIGTERM)
            assert child.wait() == 130
            assert ledger.state_of(task.directory) == "interrupted"
            assert child.output.endswith("pfstudy: interrupted; the same command goes on.\n")
        train(task)
        assert_equal(read_outcome(task.directory), read_outcome(expected.directory))

    def test_with_the_processes_that_read_its_images(
        self, nursery: Nursery, image_files: tuple[str, ...], tmp_path: Path
    ) -> None:
        """A cluster asks the whole group of a run, which needs them until it has stopped."""
        long = (*image_files, "recipe.epochs=20")
        expected, task = (make_task(tmp_path / name, *long) for name in ("one", "other"))
        train(expected)
        child = nursery.start(tmp_path / "log", task.directory)
        wait_for_epochs(task.directory, 2)
        child.signal_group(signal.SIGTERM)
        assert child.wait() == 130, child.output
        assert (task.directory / store.RESUME).exists()
        train(task)
        assert_equal(read_outcome(task.directory), read_outcome(expected.directory))


def wait_for_epochs(directory: Path, number: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not (directory / "metrics.csv").exists() or len(read_rows(directory)) < number:
        assert time.monotonic() < deadline
        time.sleep(0.02)


class TestKilled:
    """By SIGKILL, behind a checkpoint that was written since it was time to."""

    @pytest.mark.parametrize(
        ("moment", "next_epoch"),
        [
            pytest.param(Moment("training", STEPS_PER_EPOCH + 4), 2, id="between steps"),
            pytest.param(Moment("validation", 2), 2, id="validation"),
            pytest.param(Moment("test", 1), None, id="test"),
        ],
    )
    def test_goes_on_from_it(
        self,
        uninterrupted: Callable[[str], Outcome],
        nursery: Nursery,
        moment: Moment,
        next_epoch: int | None,
        tmp_path: Path,
    ) -> None:
        task = make_task(tmp_path, *MAXPOOL, "trainer.checkpoint_minutes=1e-9")
        signal_at = (moment, signal.SIGKILL)
        child = nursery.start(tmp_path / "log", task.directory, signal_at=signal_at)
        assert child.wait() == -signal.SIGKILL
        assert ledger.state_of(task.directory) == "interrupted"
        assert (task.directory / store.RESUME).exists()
        reports = train(task)
        epochs = [row["epoch"] for row in reports.of("epoch")]
        assert epochs == ([] if next_epoch is None else list(range(next_epoch, 4)))
        assert_equal(read_outcome(task.directory), uninterrupted("convolutions"))

    def test_without_a_checkpoint_it_begins_anew(
        self, uninterrupted: Callable[[str], Outcome], nursery: Nursery, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *MAXPOOL)
        signal_at = (Moment("training", STEPS_PER_EPOCH + 4), signal.SIGKILL)
        child = nursery.start(tmp_path / "log", task.directory, signal_at=signal_at)
        assert child.wait() == -signal.SIGKILL
        assert [row["epoch"] for row in read_rows(task.directory)] == ["1"]
        assert [row["epoch"] for row in train(task).of("epoch")] == [1, 2, 3]
        assert_equal(read_outcome(task.directory), uninterrupted("convolutions"))

    def test_what_came_after_the_checkpoint_comes_again(
        self,
        make: MakeTask,
        uninterrupted: Callable[[str], Outcome],
        nursery: Nursery,
        tmp_path: Path,
    ) -> None:
        task = make("convolutions", tmp_path)
        train_and_stop(task, Moment("validation", 1))
        signal_at = (Moment("training", STEPS_PER_EPOCH + 1), signal.SIGKILL)
        child = nursery.start(tmp_path / "log", task.directory, signal_at=signal_at)
        assert child.wait() == -signal.SIGKILL
        assert [row["epoch"] for row in read_rows(task.directory)] == ["1", "2"]
        assert [row["epoch"] for row in train(task).of("epoch")] == [2, 3]
        assert_equal(read_outcome(task.directory), uninterrupted("convolutions"))
