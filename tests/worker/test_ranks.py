"""Several processes that train one run together, over gloo."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from nursery import Nursery
from runs import (
    SMALL,
    Moment,
    Outcome,
    Reports,
    accuracy_of,
    assert_equal,
    make_config,
    make_task,
    read_outcome,
    train,
)

from pfstudy import files, ledger, store
from pfstudy.data.tensors import load_splits
from pfstudy.errors import PfstudyError
from pfstudy.network.restore import load_run
from pfstudy.tasks import Task
from pfstudy.worker.ranks import Ranks, ranks_of_environment
from pfstudy.worker.run import train_run

UNEVEN = (*SMALL, "data.num_validation=41", "data.num_test=513", "block.spatial=maxpool")
"""The first of two processes tests 257 images in two batches, the other one 256 in one."""

TRANSFORMER = (*SMALL, "model=vit_digits", "recipe.lr=0.05")
DROPPING = (*TRANSFORMER, "+model.args.drop_path_rate=0.3")


@dataclass(frozen=True)
class Ended:
    """How two processes have ended.

    Attributes:
        codes: Their exit codes.
        outputs: What they have said.
    """

    codes: tuple[int, ...]
    outputs: tuple[str, ...]


TrainTogether = Callable[..., Ended]


@pytest.fixture(scope="module")
def train_together(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> TrainTogether:
    """Train a run by two processes, until both have ended."""

    def train_by_two(
        *directories: Path,
        signals: Sequence[tuple[Moment, int] | None] = (None, None),
        num_nodes: int = 1,
    ) -> Ended:
        logs = tmp_path_factory.mktemp("logs")
        common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), "WORLD_SIZE": 2}
        children = [
            nursery.start(
                logs / str(rank),
                directories[rank % len(directories)],
                signal_at=signals[rank],
                **common,
                RANK=rank,
                LOCAL_RANK=rank // num_nodes,
                LOCAL_WORLD_SIZE=2 // num_nodes,
            )
            for rank in (0, 1)
        ]
        codes = tuple(child.wait() for child in children)
        return Ended(codes, tuple(child.output for child in children))

    return train_by_two


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Trained:
    """A run that two processes have trained.

    Attributes:
        directory: The run directory.
        ended: How they have ended.
    """

    directory: Path
    ended: Ended

    @property
    def outcome(self) -> Outcome:
        return read_outcome(self.directory)


def train_new(train_together: TrainTogether, root: Path, *overrides: str) -> Trained:
    task = make_task(root, *overrides)
    ended = train_together(task.directory)
    assert ended.codes == (0, 0), ended.outputs
    return Trained(task.directory, ended)


@pytest.fixture(scope="module")
def uneven(train_together: TrainTogether, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_new(train_together, tmp_path_factory.mktemp("uneven"), *UNEVEN)


@pytest.fixture(scope="module")
def dropping(train_together: TrainTogether, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train_new(train_together, tmp_path_factory.mktemp("dropping"), *DROPPING)


class TestTrained:
    def test_record_is_of_both(self, uneven: Trained) -> None:
        record = files.read_json(uneven.directory / ledger.RECORD)
        assert record["training"]["world_size"] == 2
        assert record["training"]["effective_batch_size"] == 16
        assert record["training"]["attempts"] == 1
        assert ledger.state_of(uneven.directory) == "done"
        assert [path.name for path in (uneven.directory / ledger.ATTEMPTS).iterdir()] == ["1.json"]

    def test_only_the_first_one_speaks(self, uneven: Trained) -> None:
        first, second = uneven.ended.outputs
        assert first.count("epoch ") == 3
        assert "epoch " not in second
        for output in uneven.ended.outputs:
            assert output.splitlines()[-1] == "done"

    def test_every_test_image_counts_once_and_in_order(self, uneven: Trained) -> None:
        labels = load_splits(make_config(*UNEVEN).data)["test"].labels_N
        outcome = uneven.outcome
        assert outcome.predictions["labels"].tolist() == labels.tolist()
        logits = torch.from_numpy(outcome.predictions["logits"])
        metrics = outcome.record["metrics"]
        assert metrics["test_top1_percent"] == pytest.approx(accuracy_of(outcome), abs=1e-4)
        found = (logits.topk(5).indices == labels[:, None]).any(1).double().mean()
        assert metrics["test_top5_percent"] == pytest.approx(100 * found.item(), abs=1e-4)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        assert metrics["test_loss"] == pytest.approx(loss.item(), rel=1e-5)

    def test_weights_are_those_that_were_evaluated(self, uneven: Trained) -> None:
        """With the statistics of the norms that the first process has seen, on both of them."""
        network, splits = load_run(uneven.directory), load_splits(make_config(*UNEVEN).data)
        with torch.inference_mode():
            test, validation = (
                network(splits[name].images_NCHW) for name in ("test", "validation")
            )
        np.testing.assert_allclose(test, uneven.outcome.predictions["logits"], atol=1e-5)
        labels = splits["validation"].labels_N
        loss = torch.nn.functional.cross_entropy(validation, labels).item()
        assert float(uneven.outcome.rows[-1]["val_loss"]) == pytest.approx(loss, rel=1e-6)

    def test_metrics_of_every_epoch(self, uneven: Trained) -> None:
        rows = uneven.outcome.rows
        assert [row["epoch"] for row in rows] == ["1", "2", "3"]
        assert float(rows[-1]["val_top1_percent"]) == pytest.approx(
            files.read_json(uneven.directory / ledger.RECORD)["metrics"]["val_top1_percent"]
        )

    def test_again_there_is_nothing_to_do(
        self, uneven: Trained, train_together: TrainTogether
    ) -> None:
        def times() -> Mapping[Path, int]:
            return {path: path.stat().st_mtime_ns for path in uneven.directory.rglob("*")}

        before = times()
        ended = train_together(uneven.directory)
        assert ended.codes == (0, 0)
        assert [output.splitlines()[-1] for output in ended.outputs] == ["done", "done"]
        assert times() == before

    def test_steps_are_those_of_one_process(
        self, train_together: TrainTogether, tmp_path: Path
    ) -> None:
        """But for rounding, without what depends on the images of one process alone."""
        alone, parts = (
            make_task(tmp_path / str(number), *TRANSFORMER, accumulation=number)
            for number in (1, 2)
        )
        train(alone)
        train(parts)
        both = train_new(train_together, tmp_path / "both", *TRANSFORMER).outcome
        expected = read_outcome(alone.directory)
        for found in (both, read_outcome(parts.directory)):
            for name, weight in expected.weights.items():
                torch.testing.assert_close(found.weights[name], weight, rtol=1e-3, atol=1e-5)
            for row, wanted in zip(found.rows, expected.rows, strict=True):
                for key, value in wanted.items():
                    assert float(row[key]) == pytest.approx(float(value), rel=1e-4)


class TestGoneOnWith:
    def test_stopped_together_or_one_of_them(
        self, dropping: Trained, train_together: TrainTogether, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *DROPPING)
        first, later = (Moment("training", 1), signal.SIGTERM), (Moment("training", 8), 15)
        for signals in ((first, first), (None, later), (first, None)):
            ended = train_together(task.directory, signals=signals)
            assert ended.codes == (130, 130), ended.outputs
            written = ledger.read_status(task.directory).written
            assert (written["state"], written["reason"]) == ("interrupted", "asked to stop")
        assert (task.directory / store.RESUME).exists()
        ended = train_together(task.directory)
        assert ended.codes == (0, 0), ended.outputs
        assert_equal(read_outcome(task.directory), dropping.outcome)
        assert files.read_json(task.directory / ledger.RECORD)["training"]["attempts"] == 4

    @pytest.mark.parametrize("victim", [0, 1])
    def test_one_of_them_killed(
        self, uneven: Trained, train_together: TrainTogether, victim: int, tmp_path: Path
    ) -> None:
        """The other one ends with an error, instead of waiting."""
        task = make_task(tmp_path, *UNEVEN, "trainer.checkpoint_minutes=1e-9")
        signals: list[tuple[Moment, int] | None] = [None, None]
        signals[victim] = (Moment("training", 9), signal.SIGKILL)
        ended = train_together(task.directory, signals=signals)
        assert ended.codes[victim] == -signal.SIGKILL
        assert ended.codes[1 - victim] == 1
        assert ledger.state_of(task.directory) == ("failed" if victim else "interrupted")
        assert not (task.directory / ledger.RECORD).exists()
        assert train_together(task.directory).codes == (0, 0)
        assert_equal(read_outcome(task.directory), uneven.outcome)

    def test_on_machines_of_their_own(
        self, uneven: Trained, train_together: TrainTogether, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *UNEVEN)
        stop = (Moment("training", 1), signal.SIGTERM)
        ended = train_together(task.directory, signals=(stop, stop), num_nodes=2)
        assert ended.codes == (130, 130), ended.outputs
        ended = train_together(task.directory, num_nodes=2)
        assert ended.codes == (0, 0), ended.outputs
        assert_equal(read_outcome(task.directory), uneven.outcome)

    def test_by_another_number_of_processes(
        self, train_together: TrainTogether, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *UNEVEN)
        stop = (Moment("training", 1), signal.SIGTERM)
        assert train_together(task.directory, signals=(stop, stop)).codes == (130, 130)
        with pytest.raises(PfstudyError) as caught:
            train_run(task, Reports())
        path = task.directory / store.RESUME
        assert str(caught.value) == (
            "its checkpoint was written by 2 devices, but now it has 1; give it as many with "
            f"trainer.devices, or delete {path} to begin anew."
        )
        assert ledger.state_of(task.directory) == "failed"
        assert path.exists()


class TestTrouble:
    def test_different_runs(self, train_together: TrainTogether, tmp_path: Path) -> None:
        tasks = [make_task(tmp_path, *SMALL, f"seed={seed}") for seed in (0, 1)]
        ended = train_together(*(task.directory for task in tasks))
        assert ended.codes == (2, 2)
        for output in ended.outputs:
            assert "the processes of this run were to train different ones (rank 0: " in output
            assert "seed 0, rank 1: " in output
        for task in tasks:
            assert not (task.directory / ledger.RECORD).exists()
        states = [ledger.state_of(task.directory) for task in tasks]
        assert states == ["failed", "pending"]

    def test_divergence_ends_both(self, train_together: TrainTogether, tmp_path: Path) -> None:
        task = make_task(tmp_path, *UNEVEN, "recipe.lr=1e30")
        ended = train_together(task.directory)
        assert ended.codes == (2, 2)
        for output in ended.outputs:
            assert "the training loss became " in output.splitlines()[-1]
        assert ledger.read_status(task.directory).written["kind"] == "diverged"

    def test_a_batch_that_they_cannot_share(
        self, train_together: TrainTogether, tmp_path: Path
    ) -> None:
        task = make_task(tmp_path, *UNEVEN, "recipe.batch_size=15")
        ended = train_together(task.directory)
        assert ended.codes == (2, 2)
        for output in ended.outputs:
            assert output.splitlines()[-1] == (
                "pfstudy: recipe.batch_size is 15, which 2 devices cannot share evenly; choose "
                "another size or number."
            )


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def _nothing_is_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)

    def test_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert ranks_of_environment() == Ranks() == Ranks(0, 1, 0, 1)
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setenv("RANK", "0")
        assert ranks_of_environment() == Ranks()

    @pytest.mark.parametrize(
        ("variables", "ranks", "num_nodes"),
        [
            pytest.param({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1",
                          "LOCAL_WORLD_SIZE": "2"}, Ranks(3, 4, 1, 2), 2, id="two machines"),
            pytest.param({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"},
                         Ranks(3, 4, 3, 4), 1, id="one machine"),
        ],
    )  # fmt: skip
    def test_of_torchrun(
        self,
        monkeypatch: pytest.MonkeyPatch,
        variables: Mapping[str, str],
        ranks: Ranks,
        num_nodes: int,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        found = ranks_of_environment()
        assert found == ranks
        assert found.num_nodes == num_nodes
        assert not found.is_first

    def test_alone_there_is_nobody_to_ask(self) -> None:
        ranks = Ranks()
        assert ranks.is_first
        assert ranks.from_first("mine") == "mine"
        assert ranks.gather("mine") == ["mine"]
        assert ranks.largest([1, 2.5]) == [1, 2.5]
        ranks.share_buffers(torch.nn.BatchNorm2d(3))


@pytest.mark.slow
def test_torchrun(uneven: Trained, environment: Mapping[str, str], tmp_path: Path) -> None:
    task: Task = make_task(tmp_path, *UNEVEN)
    torchrun = Path(sys.executable).with_name("torchrun")
    command = [torchrun, "--nproc-per-node=2", "-m", "pfstudy.worker", task.directory]
    done = subprocess.run(
        command, env={**environment, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert_equal(read_outcome(task.directory), uneven.outcome)
