"""Runs for the tests of the worker: made, stopped at a step that is chosen, and compared."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from configs import compose
from pfstudy import files, ledger, store
from pfstudy.data import identify
from pfstudy.module import Classifier
from pfstudy.schema.config import Config, config_tree, parse_config
from pfstudy.tasks import Task
from pfstudy.variant import make_variant
from pfstudy.worker.run import train_run

ALWAYS = ("trainer.accelerator=cpu", "logger=none")

TINY = (
    "data=synthetic",
    "data.num_train=16",
    "data.num_validation=8",
    "data.num_test=8",
    "recipe.epochs=2",
    "recipe.batch_size=8",
    "recipe.lr=0.01",
)
"""Two epochs of two steps."""

SMALL = (
    "data=synthetic",
    "data.num_train=100",
    "data.num_validation=40",
    "data.num_test=65",
    "recipe.epochs=3",
    "recipe.batch_size=16",
    "recipe.lr=0.05",
)
"""Three epochs of six steps and a batch of validation."""

STEPS_PER_EPOCH = 6

_PLAIN = (
    "recipe.",
    "trainer.",
    "seed=",
    "data.path=",
    *(f"data.num_{what}" for what in ("t", "v", "w")),
)


class Reports(list[tuple[str, Mapping[str, Any]]]):
    """What a run reports, in order."""

    def __call__(self, kind: str, details: Mapping[str, Any]) -> None:
        self.append((kind, details))

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [details for said, details in self if said == kind]


def make_config(*overrides: str) -> Config:
    """Compose a config, a second's work, once for all that differ in plain values alone."""
    plain = [one for one in overrides if one.startswith(_PLAIN)]
    rest = [one for one in overrides if one not in plain]
    for key in (one.partition("=")[0] for one in plain if one.startswith("data.")):
        rest.append(f"{key}={'x' if key == 'data.path' else 1}")  # some datasets need them
    tree = config_tree(compose(*ALWAYS, *rest))
    for override in plain:
        key, _, value = override.partition("=")
        *parents, last = key.split(".")
        reduce(getitem, parents, tree)[last] = yaml.safe_load(value)
    return parse_config(tree)


def make_task(root: Path, *overrides: str, **fields: Any) -> Task:
    """Make the directory of a run below ``root``, which nobody has trained."""
    config = replace(make_config(*overrides), runs_dir=str(root))
    run = store.make_run(make_variant(config, identify(config.data)), config.seed)
    store.prepare(run)
    return Task(run.directory, "mine", "disabled", environment={"host": "here"}, **fields)


def train(task: Task) -> Reports:
    """Train a run to its end."""
    reports = Reports()
    try:
        assert train_run(task, reports) == "done"
    except KeyboardInterrupt:  # which would end the tests
        pytest.fail("it has stopped")
    return reports


@dataclass(frozen=True)
class Moment:
    """A moment of an attempt at a run.

    Attributes:
        step: ``training``, ``validation`` or ``test``.
        number: The how-manyth batch of its kind in this attempt, from 1.
    """

    step: str
    number: int

    def __str__(self) -> str:
        return f"{self.step} {self.number}"


@contextmanager
def at(moment: Moment, act: Callable[[], object]) -> Iterator[None]:
    """Do something in the middle of a batch."""
    name = f"{moment.step}_step"
    really = getattr(Classifier, name)
    counted = 0

    def counting(self: Classifier, *arguments: Any) -> Any:
        nonlocal counted
        counted += 1
        if counted == moment.number:
            act()
        return really(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, name, counting)
        yield
        assert counted >= moment.number, f"there was no {moment}"


def signalled(moment: Moment, number: int = signal.SIGTERM) -> AbstractContextManager[None]:
    """Have this process get a signal in the middle of a batch."""
    return at(moment, lambda: os.kill(os.getpid(), number))


def train_and_stop(task: Task, moment: Moment) -> Reports:
    """Train a run until a SIGTERM at some moment, behind which it stops."""
    reports = Reports()
    with signalled(moment), pytest.raises(KeyboardInterrupt):
        train_run(task, reports)
    written = ledger.read_status(task.directory).written
    assert (written["state"], written["reason"]) == ("interrupted", "asked to stop")
    assert (task.directory / store.RESUME).exists()
    assert not (task.directory / ledger.RECORD).exists()
    return reports


@dataclass(frozen=True)
class Outcome:
    """What a run has left, but for times and how often it was begun.

    Attributes:
        weights: By name.
        predictions: Labels and logits.
        rows: Of metrics.csv.
        record: The record.
    """

    weights: Mapping[str, torch.Tensor]
    predictions: Mapping[str, np.ndarray]
    rows: list[dict[str, str]]
    record: dict[str, Any]


def read_outcome(directory: Path) -> Outcome:
    """Read what a run has left."""
    record = files.read_json(directory / ledger.RECORD)
    for key in ("seconds", "images_per_second", "test_seconds", "attempts"):
        assert record["training"].pop(key) > 0
    del record["environment"]
    with np.load(directory / "predictions.npz") as archive:
        predictions = dict(archive)
    rows = read_rows(directory)
    for row in rows:
        assert float(row.pop("seconds")) > 0
    return Outcome(load_file(directory / store.WEIGHTS), predictions, rows, record)


def read_rows(directory: Path) -> list[dict[str, str]]:
    """Read metrics.csv."""
    with (directory / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_equal(found: Outcome, expected: Outcome) -> None:
    """Check that two runs have left the same, to the bit."""
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in expected.weights.items():
        assert torch.equal(found.weights[name], weight), name
    assert found.predictions.keys() == expected.predictions.keys()
    for name, values in expected.predictions.items():
        np.testing.assert_array_equal(found.predictions[name], values)
    assert found.rows == expected.rows
    assert found.record == expected.record


def accuracy_of(outcome: Outcome) -> float:
    """Share of the predictions that are right, in percent."""
    logits, labels = outcome.predictions["logits"], outcome.predictions["labels"]
    return float(100 * np.mean(logits.argmax(axis=1) == labels))
