"""Checkpoints as files: when they are written, what makes one useless, what must stay the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from zipfile import ZipFile

import lightning as L  # noqa: N812
import numpy as np
import pytest
import torch
from runs import (
    TINY,
    Moment,
    Outcome,
    assert_equal,
    at,
    make_task,
    read_outcome,
    train,
    train_and_stop,
)

from pfstudy import files, ledger, store
from pfstudy.errors import DiskError, PfstudyError
from pfstudy.worker import checkpoints
from pfstudy.worker.checkpoints import (
    Conditions,
    find_checkpoint,
    read_conditions,
    write_checkpoint,
)

STOP = Moment("training", 3)  # the first of two steps of the second epoch


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    task = make_task(tmp_path_factory.mktemp("uninterrupted"), *TINY)
    train(task)
    return read_outcome(task.directory)


class TestWritten:
    @pytest.mark.parametrize(
        ("minutes", "number"),
        [
            pytest.param("1e-9", 4, id="after every step"),  # or where its epoch has ended
            pytest.param("1000", 0, id="not yet"),
        ],
    )
    def test_when_it_is_time(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, minutes: str, number: int
    ) -> None:
        task = make_task(tmp_path, *TINY, f"trainer.checkpoint_minutes={minutes}")
        written: list[tuple[int, int]] = []

        def write(trainer: L.Trainer, path: Path) -> None:
            write_checkpoint(trainer, path)
            assert path == task.directory / store.RESUME
            assert read_conditions(path) == Conditions(num_threads=1)
            written.append((trainer.current_epoch, trainer.global_step))

        monkeypatch.setattr(checkpoints, "write_checkpoint", write)
        train(task)
        assert written == [(0, 1), (0, 2), (1, 3), (1, 4)][:number]
        assert not (task.directory / store.RESUME).exists()

    def test_random_numbers_go_on(self, tmp_path: Path) -> None:
        """Whoever draws them: an operation may use any of the three generators."""

        def draw() -> tuple[float, float, float]:
            return random.random(), float(np.random.rand()), float(torch.rand(()))

        drawn: list[tuple[float, float, float]] = []
        expected: list[tuple[float, float, float]] = []
        task = make_task(tmp_path, *TINY)
        with at(STOP, lambda: (random.seed(3), np.random.seed(4))):
            train_and_stop(task, STOP)
        expected.append(draw())  # what would have come next
        with at(Moment("training", 1), lambda: drawn.append(draw())):
            train(task)
        assert drawn == expected

    def test_half_a_file_is_removed(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        path = tmp_path / "checkpoints" / "resume.ckpt"
        trainer = L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)

        def save(draft: Path, weights_only: bool) -> None:
            draft.write_text("half")
            raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

        monkeypatch.setattr(trainer, "save_checkpoint", save)
        with pytest.raises(DiskError) as caught:
            write_checkpoint(trainer, path)
        assert str(caught.value) == f"{path} cannot be written: No space left on device."
        assert list(path.parent.iterdir()) == []


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_a_bit(path: Path) -> None:
    """Of a weight, which no reader would stumble over."""
    with ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda member: member.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + 200] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def overwrite(path: Path) -> None:
    path.write_text("no checkpoint\n" * 100)


def replace_by_weights(path: Path) -> None:
    torch.save({"state_dict": {"conv.weight": torch.zeros(3)}}, path)


class Harm:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return Path.touch, (Path("harm"),)  # type: ignore[return-value]


def replace_by_code(path: Path) -> None:
    torch.save({"callbacks": {"Checkpoints": {"pfstudy": Harm()}}}, path)


class TestDamaged:
    @pytest.mark.parametrize(
        "damage",
        [cut, cut_in_half, flip_a_bit, empty, overwrite, replace_by_weights, replace_by_code],
        ids=lambda damage: damage.__name__,
    )
    def test_training_begins_anew(
        self,
        uninterrupted: Outcome,
        damage: Callable[[Path], None],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        task = make_task(tmp_path / "runs", *TINY)
        train_and_stop(task, STOP)
        path = task.directory / store.RESUME
        damage(path)
        reports = train(task)
        (note,) = reports.of("note")
        assert note["text"].startswith(f"{path} is damaged: ")
        assert note["text"].endswith("; training begins anew")
        assert "\n" not in note["text"]
        assert [row["epoch"] for row in reports.of("epoch")] == [1, 2]
        assert_equal(read_outcome(task.directory), uninterrupted)
        assert not (tmp_path / "harm").exists()

    def test_the_one_before_is_gone_on_from(self, uninterrupted: Outcome, tmp_path: Path) -> None:
        task = make_task(tmp_path, *TINY, "trainer.checkpoint_minutes=1e-9")
        train_and_stop(task, STOP)  # as well at the end of the first epoch
        flip_a_bit(task.directory / store.RESUME)
        reports = train(task)
        (note,) = reports.of("note")
        assert note["text"].endswith("; training goes on from the one before")
        assert [row["epoch"] for row in reports.of("epoch")] == [2]
        assert_equal(read_outcome(task.directory), uninterrupted)

    def test_where_all_are_damaged_training_begins_anew(
        self, uninterrupted: Outcome, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *TINY, "trainer.checkpoint_minutes=1e-9")
        train_and_stop(task, STOP)
        cut(task.directory / store.RESUME)
        empty(task.directory / store.RESUME_BEFORE)
        reports = train(task)
        first, second = (note["text"] for note in reports.of("note"))
        assert first.endswith("; training goes on from the one before")
        assert second.endswith("; training begins anew")
        assert_equal(read_outcome(task.directory), uninterrupted)

    def test_what_a_killed_attempt_has_half_written_is_no_matter(
        self, uninterrupted: Outcome, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *TINY)
        train_and_stop(task, STOP)
        path = task.directory / store.RESUME
        path.with_name(".resume.ckpt.draft").write_text("half")
        reports = train(task)
        assert [row["epoch"] for row in reports.of("epoch")] == [2]
        assert_equal(read_outcome(task.directory), uninterrupted)
        assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]


class TestConditions:
    def test_without_a_checkpoint_there_are_none(self, tmp_path: Path) -> None:
        assert find_checkpoint(tmp_path / "resume.ckpt", pytest.fail) is None

    def test_no_checkpoint_is_said_to_be_damaged(self, tmp_path: Path) -> None:
        (tmp_path / "resume.ckpt").write_bytes(b"")
        with pytest.raises(PfstudyError, match=r"resume\.ckpt is damaged: \S"):
            read_conditions(tmp_path / "resume.ckpt")

    @pytest.mark.parametrize("stopped", [False, True], ids=["new", "gone on with"])
    def test_threads_stay_as_they_were(
        self, uninterrupted: Outcome, tmp_path: Path, stopped: bool
    ) -> None:
        task = make_task(tmp_path, *TINY)
        if stopped:
            train_and_stop(task, STOP)
        again = make_task(tmp_path, *TINY, "trainer.num_threads=2")  # no part of its identity
        assert again.directory == task.directory
        threads: list[int] = []
        with at(Moment("training", 1), lambda: threads.append(torch.get_num_threads())):
            train(again)
        expected = 1 if stopped else 2
        assert threads == [expected]
        record = files.read_json(task.directory / ledger.RECORD)
        assert record["training"]["num_threads"] == expected
        if stopped:
            assert_equal(read_outcome(task.directory), uninterrupted)

    def test_with_another_accumulation_it_begins_anew(self, tmp_path: Path) -> None:
        task = make_task(tmp_path / "stopped", *TINY)
        train_and_stop(task, STOP)
        reports = train(replace(task, accumulation=2))
        assert [row["epoch"] for row in reports.of("epoch")] == [1, 2]
        whole = make_task(tmp_path / "whole", *TINY, accumulation=2)
        train(whole)
        assert_equal(read_outcome(task.directory), read_outcome(whole.directory))
        assert ledger.read_status(task.directory).written["accumulation"] == 2
        assert read_outcome(task.directory).record["training"]["accumulation"] == 2
