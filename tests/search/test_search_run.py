"""Searches as their process runs them, stopped and gone on with."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from pfstudy import files, ledger, searches, store
from pfstudy.errors import DivergedError, PfstudyError
from pfstudy.module import Classifier
from pfstudy.search.evaluating import evaluate_given
from pfstudy.search.run import run_search
from pfstudy.supernet.architecture import Architecture
from pfstudy.supernet.differentiable import DifferentiableSearch
from pfstudy.supernet.one_shot import OneShotTraining
from pfstudy.tasks import Task

MakeSearch = Callable[..., Task]

DARTS = ("search.epochs=4", "search.warmup_epochs=1")
GUMBEL = ("search=gumbel", *DARTS, "search.sharing=stage", "search.order=2")
ONE_SHOT = ("search=evolution", "search.epochs=2", "search.num_evaluations=12")
EVOLUTION = (*ONE_SHOT, "search.population=4", "search.tournament=2")


def silent(kind: str, details: Any) -> None:
    del kind, details


def run(task: Task) -> dict[str, Any]:
    assert run_search(task, silent) == "done"
    record: dict[str, Any] = files.read_json(task.directory / ledger.RECORD)
    return record


def rows(task: Task) -> list[dict[str, str]]:
    with (task.directory / store.METRICS).open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def stop_after(
    number: int, kind: type[Classifier], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Send ourselves SIGTERM in a training step."""
    step, passed = kind.training_step, [0]

    def counting(self: Any, *arguments: Any) -> Any:
        passed[0] += 1
        if passed[0] == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(kind, "training_step", counting)
    return monkeypatch.undo


class TestDifferentiable:
    def test_leaves_a_record_and_rows(self, make_search: MakeSearch) -> None:
        task = make_search("one", *DARTS, "search.latency=0.5", times=True)
        record = run(task)
        assert record["ended_by"] == "epochs"
        assert list(record["log_probabilities"]) == record["sites"]
        for of_site in record["log_probabilities"].values():
            total = sum(torch.tensor(list(of_site.values())).exp().tolist())
            assert total == pytest.approx(1, abs=1e-4)
        written = rows(task)
        assert [row["epoch"] for row in written] == ["1", "2", "3", "4"]
        assert float(written[0]["entropy"]) == pytest.approx(1, abs=1e-3)  # in the warm-up
        assert float(written[3]["entropy"]) < 0.9999
        assert float(written[3]["relative_latency"]) < float(written[0]["relative_latency"])
        assert written[3]["chosen.stage1.block1"] in record["operations"]
        assert not (task.directory / store.RESUME).exists()

    def test_the_same_again_does_nothing(self, make_search: MakeSearch) -> None:
        task = make_search("one", *DARTS, "search.epochs=2")
        first = run(task)
        assert run(task) == first

    @pytest.mark.parametrize("overrides", [DARTS, GUMBEL], ids=["darts", "gumbel"])
    @pytest.mark.parametrize(
        "step",
        [
            pytest.param(2, id="warm-up", marks=pytest.mark.slow),
            pytest.param(5, id="in an epoch", marks=pytest.mark.slow),
            pytest.param(8, id="later"),
        ],
    )
    def test_stopped_and_gone_on_with_ends_the_same(
        self,
        overrides: tuple[str, ...],
        step: int,
        make_search: MakeSearch,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        whole = make_search("whole", *overrides)
        expected = run(whole)
        task = make_search("stopped", *overrides)
        undo = stop_after(step, DifferentiableSearch, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run_search(task, silent)
        undo()
        assert ledger.state_of(task.directory) == "interrupted"
        found = run(task)
        assert found["log_probabilities"] == expected["log_probabilities"]
        assert rows(task) == rows(whole)

    def test_a_damaged_checkpoint_begins_anew(
        self, make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = make_search("stopped", *DARTS)
        undo = stop_after(5, DifferentiableSearch, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run_search(task, silent)
        undo()
        (task.directory / store.RESUME).write_bytes(b"half a checkpoint")
        said: list[Any] = []
        assert run_search(task, lambda kind, details: said.append((kind, details))) == "done"
        assert any("training begins anew" in str(details) for _, details in said)

    def test_nan_fails_it_in_one_sentence(
        self, make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def broken(self: Architecture, *_: Any) -> Any:
            return torch.full_like(self.alpha_GK, float("nan")), None

        monkeypatch.setattr(
            DifferentiableSearch, "_gradient", lambda self, *_: broken(self.architecture)[0]
        )
        task = make_search("broken", *DARTS)
        with pytest.raises(DivergedError, match="became NaN or infinite in epoch 2; lower"):
            run_search(task, silent)
        status = ledger.read_status(task.directory)
        assert (status.state, status.written["kind"]) == ("failed", "diverged")

    def test_a_collapse_ends_it_with_what_was_before(self, make_search: MakeSearch) -> None:
        collapses = ("search.latency=0.01", "search.latency_weight=1000", "search.arch_lr=0.5")
        record = run(make_search("collapsed", *DARTS, *collapses, times=True))
        assert record["ended_by"] == "collapse"
        assert record["found_in_epoch"] < record["num_epochs"]

    def test_several_names_for_one_thing_are_one_candidate(self, make_search: MakeSearch) -> None:
        operations = "search.operations=[conv,avgpool_conv,maxpool]"  # one, but where it reduces
        record = run(make_search("names", *DARTS, "search.epochs=2", operations))
        assert len(record["log_probabilities"]["stage1.block1"]) == 3


class TestOneShot:
    def test_leaves_a_record(self, make_search: MakeSearch) -> None:
        task = make_search("one", *EVOLUTION, "search.latency=0.7", times=True)
        record = run(task)
        assert len(record["evaluations"]) == 12
        asked = searches.read_asked(task.directory)
        assert asked.times is not None
        for each in record["evaluations"]:
            choice = tuple(
                asked.space.operations.index(each["operations"][site]) for site in asked.space.sites
            )
            assert asked.times.predict(choice) <= 0.7 + 1e-9
        assert (task.directory / store.WEIGHTS).exists()

    @pytest.mark.slow
    def test_stopped_in_training_ends_the_same(
        self, make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        expected = run(make_search("whole", *EVOLUTION))
        task = make_search("stopped", *EVOLUTION)
        undo = stop_after(8, OneShotTraining, monkeypatch)
        with pytest.raises(KeyboardInterrupt):
            run_search(task, silent)
        undo()
        assert run(task)["evaluations"] == expected["evaluations"]

    @pytest.mark.parametrize(
        "sampler",
        [
            "evolution",
            pytest.param("random", marks=pytest.mark.slow),
            pytest.param("tpe", marks=pytest.mark.slow),
        ],
    )
    def test_stopped_among_evaluations_ends_the_same(
        self, sampler: str, make_search: MakeSearch, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        if sampler == "tpe":
            pytest.importorskip("optuna")
        overrides = (*EVOLUTION, f"search.sampler={sampler}")
        expected = run(make_search("whole", *overrides))
        task = make_search("stopped", *overrides)
        write, written = searches.write_evaluations, [0]

        def writing(*arguments: Any) -> None:
            write(*arguments)
            written[0] += 1
            if written[0] == 6:
                raise KeyboardInterrupt

        monkeypatch.setattr(searches, "write_evaluations", writing)
        with pytest.raises(KeyboardInterrupt):
            run_search(task, silent)
        monkeypatch.undo()
        assert run(task)["evaluations"] == expected["evaluations"]

    def test_given_networks_are_evaluated_once(self, make_search: MakeSearch) -> None:
        task = make_search("one", *ONE_SHOT)
        record = run(task)
        asked = searches.read_asked(task.directory)
        names = asked.space.operations
        known = tuple(
            names.index(record["evaluations"][0]["operations"][site]) for site in asked.space.sites
        )
        told: list[Any] = []
        first = evaluate_given(task.directory, [known, (0, 0, 0, 0)], lambda *d: told.append(d))
        assert first[known] == record["evaluations"][0]["val_top1_percent"]
        again = evaluate_given(task.directory, [known, (0, 0, 0, 0)], lambda *d: told.append(d))
        assert again == first
        assert len(told) <= 1

    def test_the_order_of_evaluations_does_not_matter(self, make_search: MakeSearch) -> None:
        """Statistics of batch norms are a path's own."""
        task = make_search("one", *ONE_SHOT, "search.num_evaluations=1")
        run(task)
        some = [(0, 0, 0, 0), (1, 1, 1, 1), (2, 2, 2, 2)]
        first = evaluate_given(task.directory, some, silent)
        (task.directory / searches.EVALUATIONS).unlink()
        assert evaluate_given(task.directory, some[::-1], silent) == first


def test_too_large_a_batch_fails_before_training(make_search: MakeSearch) -> None:
    with pytest.raises(PfstudyError, match=r"recipe.batch_size is 64, but a part"):
        run_search(make_search("large", *DARTS, "recipe.batch_size=64"), silent)
