"""One search, from its directory: goes on where it was interrupted, and leaves its record."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any
from uuid import uuid4

import torch

from pfstudy import files, lease, ledger, searches, store
from pfstudy.data.halves import open_halves
from pfstudy.data.order import Share
from pfstudy.errors import PfstudyError
from pfstudy.ledger import Claim
from pfstudy.module import Classifier
from pfstudy.schema.config import config_tree
from pfstudy.schema.search import Differentiable, OneShot
from pfstudy.search.drawing import limits_of
from pfstudy.search.ending import PROBABILITY, Row, found_row, reason_to_end
from pfstudy.search.evaluating import evaluate_proposed
from pfstudy.search.trace import Trace
from pfstudy.searches import Asked
from pfstudy.supernet.architecture import Architecture
from pfstudy.supernet.differentiable import DifferentiableSearch
from pfstudy.supernet.network import build_supernet
from pfstudy.supernet.one_shot import OneShotTraining
from pfstudy.tasks import Task
from pfstudy.tracking import Tracker
from pfstudy.variant import SCHEMA_VERSION
from pfstudy.worker.checkpoints import Checkpoints, Conditions, find_checkpoint
from pfstudy.worker.progress import Report
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.results import remove_checkpoints, save_weights
from pfstudy.worker.run import ending_well
from pfstudy.worker.stopping import Stopped, StopRequest
from pfstudy.worker.trainer import (
    choose_device,
    derive_seeds,
    make_trainer,
    open_loaders,
    seed_everything,
)

_LEAST = 1e-30  # a probability that was rounded to 0 has a logarithm all the same


@dataclass(frozen=True)
class _Attempt:
    """What an attempt at a search works with."""

    task: Task
    asked: Asked
    claim: Claim
    tracker: Tracker
    request: StopRequest
    report: Report


def run_search(task: Task, report: Report) -> str:
    """Search in a directory; the same call again does nothing.

    Args:
        task: Where the directory is; its study is the name of the search.
        report: Told of progress (``"step"``), and of what a person should read (``"note"``).

    Returns:
        ``done``, or ``elsewhere`` if another process searches there just now.

    Raises:
        PfstudyError: The search failed; its state says why.
        KeyboardInterrupt: It was asked to stop, and has written a checkpoint.
    """
    claimed = ledger.claim(task.directory)
    if claimed is None:
        return "done" if ledger.state_of(task.directory) == "done" else "elsewhere"
    request = StopRequest()
    try:
        with ending_well(claimed):
            _search(task, claimed, request, report)
    except Stopped:
        request.hand_on()
    except SystemExit:  # as which Lightning hands Ctrl-C on
        raise KeyboardInterrupt from None
    remove_checkpoints(task.directory, ("last",))
    return "done"


def _search(task: Task, claimed: Claim, request: StopRequest, report: Report) -> None:
    def note(text: str) -> None:
        report("note", {"text": text})

    asked = searches.read_asked(task.directory)
    config = asked.space.config
    if choose_device(config).type == "cpu" and any(name != "cpu" for name in task.devices):
        raise PfstudyError("its GPU is gone; see whether nvidia-smi still lists it.")
    tracker = Tracker(config.logger, task.mode, task.directory, note)
    exit_code = 1
    try:
        tracker.start(
            run_id=f"{asked.identity['hash']}-{claimed.attempt}-{uuid4().hex[:6]}",
            name=task.study,
            group=task.study,
            config=config_tree(config),
            job_type="search",
        )
        attempt = _Attempt(task, asked, claimed, tracker, request, report)
        waiting = "waiting for a measurement of speed to end"
        with lease.training_on(task.devices, lambda: note(waiting), lambda: None):
            differentiable = isinstance(asked.space.search, Differentiable)
            found = _by_gradients(attempt) if differentiable else _by_evaluation(attempt)
        record = _make_record(attempt, found)
        claimed.check()
        files.write_json(task.directory / ledger.RECORD, record, durable=True, once=True)
        exit_code = 0
    finally:
        tracker.finish(exit_code)


def _by_gradients(attempt: _Attempt) -> dict[str, Any]:
    """Search by gradients; returns the probabilities that were found."""
    space, times = attempt.asked.space, attempt.asked.times
    config, search = space.config, space.search
    assert isinstance(search, Differentiable)
    seeds, device = derive_seeds(config.seed), choose_device(config)
    pairs, validation = open_halves(
        config.data,
        search.arch_share,
        config.recipe.batch_size,
        seeds["order"],
        seeds["augmentation"],
        device,
        config.recipe.augmentation,
    )
    supernet = build_supernet(space, seeds["init"], mixes=True)
    architecture = Architecture(
        len(space.groups),
        len(space.operations),
        space.group_of,
        None if times is None else times.operations,
        0.0 if times is None else times.rest,
    )
    recipe = replace(config.recipe, epochs=search.epochs)
    module = DifferentiableSearch(
        supernet, architecture, recipe, search, config.data.num_classes, len(pairs)
    )
    try:
        rows, seconds = _fit(attempt, module, pairs, validation, search.epochs)
    finally:
        pairs.close()
        validation.close()
    row = found_row(rows, search)
    return {
        "log_probabilities": _log_probabilities(row, attempt.asked),
        "found_in_epoch": row["epoch"],
        "num_epochs": len(rows),
        "ended_by": reason_to_end(rows, search),
        "seconds": seconds,
        "validation": {key: row[key] for key in row if key.startswith("val_")},
    }


def _by_evaluation(attempt: _Attempt) -> dict[str, Any]:
    """Train a supernet, and evaluate paths of it; returns what was evaluated."""
    asked, directory = attempt.asked, attempt.task.directory
    space, search = asked.space, asked.space.search
    assert isinstance(search, OneShot)
    limits = limits_of(space, asked.times, search.latency)
    if not (directory / store.WEIGHTS).exists():
        _train_supernet(attempt, search)
    attempt.report("phase", {"text": f"{search.num_evaluations} paths by {search.sampler}"})
    evaluations = evaluate_proposed(directory, asked, limits, attempt.report)
    listed = [
        {
            "operations": _named(asked, each.choice),
            "val_top1_percent": each.val_top1_percent,
        }
        for each in evaluations
    ]
    for number, each in enumerate(evaluations, 1):
        # W&B takes no step that it has passed
        step = search.epochs + number
        attempt.tracker.log({"one_shot_val_top1_percent": each.val_top1_percent}, step=step)
    with (directory / store.METRICS).open(newline="") as file:
        trained = list(csv.DictReader(file))
    return {
        "evaluations": listed,
        "num_epochs": len(trained),
        "ended_by": "evaluations",
        "seconds": float(trained[-1]["seconds"]) + sum(each.seconds for each in evaluations),
    }


def _train_supernet(attempt: _Attempt, search: OneShot) -> None:
    space = attempt.asked.space
    config = space.config
    seeds, device = derive_seeds(config.seed), choose_device(config)
    recipe = replace(config.recipe, epochs=search.epochs)
    supernet = build_supernet(space, seeds["init"], mixes=False)
    with open_loaders(config, config.seed, Share(), device) as loaders:
        module = OneShotTraining(
            supernet,
            recipe,
            config.data.num_classes,
            len(loaders.train),
            num_sites=len(space.sites),
            num_operations=len(space.operations),
        )
        _fit(attempt, module, loaders.train, None, search.epochs)
    save_weights(supernet, attempt.task.directory / store.WEIGHTS)


def _fit(
    attempt: _Attempt, module: Classifier, train: Any, validation: Any, num_epochs: int
) -> tuple[list[dict[str, Any]], float]:
    """Train, from the checkpoint if there is one; returns a row an epoch, and the time."""
    space, directory = attempt.asked.space, attempt.task.directory
    config, path = space.config, directory / store.RESUME
    written = find_checkpoint(path, lambda text: attempt.report("note", {"text": text}))
    conditions = written or Conditions(config.trainer.num_threads)
    torch.set_num_threads(conditions.num_threads)
    trace = Trace(directory, space, num_epochs, attempt.claim, attempt.tracker, attempt.report)
    every_s = 60 * config.trainer.checkpoint_minutes
    checkpoints = Checkpoints(path, every_s, conditions, Ranks(), attempt.request, attempt.claim)
    limited = replace(config, recipe=replace(config.recipe, epochs=num_epochs))
    device = choose_device(config)
    trainer = make_trainer(limited, device, Ranks(), conditions, [trace, checkpoints])
    seed_everything(derive_seeds(config.seed)["augmentation"])
    with attempt.request.deferred():
        resume = path if written is not None else None
        trainer.fit(module, train, validation, ckpt_path=resume, weights_only=True)
    return trace.rows, trace.seconds


def _log_probabilities(row: Row, asked: Asked) -> dict[str, dict[str, float]]:
    space = asked.space
    return {
        site: {
            name: math.log(max(_LEAST, row[f"{PROBABILITY}{site}.{name}"]))
            for name in space.operations
        }
        for site in space.sites
    }


def _named(asked: Asked, choice: tuple[int, ...]) -> dict[str, str]:
    names = asked.space.operations
    return {site: names[k] for site, k in zip(asked.space.sites, choice, strict=True)}


def _make_record(attempt: _Attempt, found: Mapping[str, Any]) -> dict[str, Any]:
    asked, task = attempt.asked, attempt.task
    space = asked.space
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": dict(asked.identity),
        "name": task.study,
        "method": space.search.method,
        "preset": space.search.preset,
        "model": space.config.model.name,
        "data": space.config.data.name,
        "sites": list(space.sites),
        "groups": list(space.groups),
        "group_of": list(space.group_of),
        "operations": list(space.operations),
        "latency": space.search.latency,
        "times": None if asked.times is None else asdict(asked.times),
        "config": config_tree(space.config),
        **found,
        "environment": dict(task.environment),
    }
