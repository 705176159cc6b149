"""One run, from its directory: trains it unless it is done, and leaves its record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from pfstudy import files, lease, ledger, store, tuning
from pfstudy.data import recognise
from pfstudy.errors import DiskError, DivergedError, PfstudyError, is_about_memory
from pfstudy.identity import rules_of
from pfstudy.ledger import Claim
from pfstudy.schema.config import config_tree, parse_config
from pfstudy.tasks import Task
from pfstudy.tracking import Tracker, config_to_log, record_to_log, speed_to_log
from pfstudy.variant import Variant, make_variant
from pfstudy.worker.fit import Attempt, fit_and_test
from pfstudy.worker.progress import Report
from pfstudy.worker.ranks import Ranks, joined, ranks_of_environment
from pfstudy.worker.results import remove_checkpoints
from pfstudy.worker.stopping import Stopped, StopRequest


def train_run(task: Task, report: Report) -> str:
    """Train the run of a directory; the same call again does nothing.

    Where several processes train it, each of them calls this, with the variables of its rank.

    Args:
        task: What to train.
        report: Told of every epoch (``"epoch"``), of progress between them (``"step"``), and of
            what a person should read (``"note"``).

    Returns:
        ``done``, or ``elsewhere`` if another process trains it just now.

    Raises:
        PfstudyError: The run cannot be trained; its state says why.
        KeyboardInterrupt: It was asked to stop, and has written a checkpoint.
    """
    ranks = ranks_of_environment()
    with joined(ranks):
        claimed = ledger.claim(task.directory) if ranks.is_first else None
        number = ranks.from_first(claimed.attempt if claimed else None)
        if number is None:
            state = ranks.from_first(ledger.state_of(task.directory) if ranks.is_first else None)
            return "done" if state == "done" else "elsewhere"
        request = StopRequest()
        try:
            _train_claimed(task, ranks, claimed, number, request, report)
        except Stopped:
            request.hand_on()
        except SystemExit:  # as which Lightning hands Ctrl-C on
            raise KeyboardInterrupt from None
        return "done"


def _train_claimed(
    task: Task,
    ranks: Ranks,
    claimed: Claim | None,
    number: int,
    request: StopRequest,
    report: Report,
) -> None:
    """Train the run that is claimed, and write how the attempt ended."""
    if claimed is None:
        _train_part(task, ranks, None, number, request, report)
        return
    with ending_well(claimed):
        keep = store.read_keep(task.directory)  # another sweep may write the config anew
        if task.accumulation > 1:
            claimed.write(accumulation=task.accumulation)
        _train_part(task, ranks, claimed, number, request, report)
    remove_checkpoints(task.directory, keep)


@contextmanager
def ending_well(claimed: Claim) -> Iterator[None]:
    """Show others meanwhile that the attempt goes on, and write how it ended."""
    try:
        with claimed.beating():
            yield
    except BaseException as error:
        if ledger.state_of(claimed.directory) == "done":  # what comes after the record went wrong
            raise
        if isinstance(error, KeyboardInterrupt | SystemExit | Stopped):
            _end(claimed, "interrupted", reason="asked to stop")
        else:
            reason = str(error).strip() or type(error).__name__
            _end(claimed, "failed", reason=reason, kind=kind_of(error))
        raise
    _end(claimed, "done")


def _end(claimed: Claim, state: ledger.State, **details: Any) -> None:
    with suppress(DiskError):  # the record or the error that is on its way says more
        claimed.end(state, **details)


def _train_part(
    task: Task,
    ranks: Ranks,
    claimed: Claim | None,
    number: int,
    request: StopRequest,
    report: Report,
) -> None:
    variant, seed = read_run(task.directory)
    variant = tuning.with_chosen(variant, task.directory.parent)
    _check_same(ranks, f"{variant.hash} seed {seed}")
    attempt = Attempt(task, variant, seed, ranks, claimed, number, request, report)
    if claimed is None:
        quiet = Tracker(variant.config.logger, "disabled", task.directory, lambda text: None)
        fit_and_test(replace(attempt, report=lambda kind, details: None), quiet)
    else:
        _train_tracked(attempt, claimed)


def _train_tracked(attempt: Attempt, claimed: Claim) -> None:
    """Train under a run of W&B, which ends as the attempt does, and write the record."""
    task, variant, report = attempt.task, attempt.variant, attempt.report

    def note(text: str) -> None:
        report("note", {"text": text})

    config = variant.config
    tracker = Tracker(config.logger, task.mode, task.directory, note, lambda: report("offline", {}))
    identity = {"hash": variant.hash, "seed": attempt.seed, "canonical": variant.canonical}
    exit_code = 1
    try:
        tracker.start(
            # attempts count anew when a run was moved aside
            run_id=f"{variant.hash}-{attempt.seed}-{attempt.number}-{uuid4().hex[:6]}",
            name=f"{variant.slug}-seed{attempt.seed}",
            group=task.study,
            config=config_to_log(config_tree(config), identity, variant.label, variant.operations),
            job_type=tuning.JOB_TYPE if tuning.is_trial(task.directory) else "train",
        )
        tracker.summarise(speed_to_log(task.speed))
        waiting = "waiting for a measurement of speed to end"
        with lease.training_on(task.devices, lambda: note(waiting), lambda: report("waiting", {})):
            record = fit_and_test(attempt, tracker)
        tracker.summarise(record_to_log(record, [task.speed] if task.speed else []))
        claimed.check()
        files.write_json(task.directory / ledger.RECORD, record, durable=True, once=True)
        exit_code = 0
    finally:
        tracker.finish(exit_code)


def read_run(directory: Path) -> tuple[Variant, int]:
    """Read back the variant and the seed that a run directory is for.

    Raises:
        PfstudyError: The directory holds no config, or its dataset or checkpoint has changed.
    """
    written = files.read_json(directory / store.CONFIG)
    config = parse_config(written["config"])
    identity = written["identity"]
    made = make_variant(config, recognise(config.data, identity))
    variant = made.with_hash(identity["hash"])
    if variant is None:
        raise PfstudyError(
            f"{directory}: the dataset, the checkpoint or the source of an operation has changed "
            "since its config was written; "
            "give the command again."
        )
    return replace(variant, rules=rules_of(identity)), identity["seed"]


def kind_of(error: BaseException) -> str:
    """What kind of failure an error is: ``diverged``, ``memory``, ``disk`` or ``error``."""
    if isinstance(error, DivergedError):
        return "diverged"
    if isinstance(error, DiskError):
        return "disk"
    out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
    if out_of_memory or is_about_memory(str(error)):
        return "memory"
    return "error"


def _check_same(ranks: Ranks, identity: str) -> None:
    """Check that every process trains the same.

    Raises:
        PfstudyError: They do not.
    """
    found: list[Any] = ranks.gather(identity)
    if len(set(found)) > 1:
        said: Mapping[int, str] = dict(enumerate(found))
        listed = ", ".join(f"rank {rank}: {what}" for rank, what in said.items())
        raise PfstudyError(f"the processes of this run were to train different ones ({listed}).")
