"""Fits and tests the network of a run, from the start or from its checkpoint."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch

from pfstudy import store
from pfstudy.complexity import cost
from pfstudy.data.order import UNREAD, Share
from pfstudy.errors import PfstudyError
from pfstudy.ledger import Claim
from pfstudy.network.surgery import image_shape
from pfstudy.ops import Projected
from pfstudy.tasks import Task
from pfstudy.tracking import Tracker
from pfstudy.tuning import is_trial
from pfstudy.variant import Variant
from pfstudy.worker.checkpoints import Checkpoints, Conditions, find_checkpoint
from pfstudy.worker.progress import Progress, Report
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.results import in_order, make_record, save_predictions, save_weights
from pfstudy.worker.stopping import StopRequest
from pfstudy.worker.trainer import (
    choose_device,
    derive_seeds,
    make_module,
    make_trainer,
    open_loaders,
    seed_everything,
)


@dataclass(frozen=True)
class Attempt:
    """What one process needs for its part of an attempt at a run.

    Attributes:
        task: Where the run is.
        variant: What is trained.
        seed: With which seed.
        ranks: The processes of the run.
        claim: Of the first of them; the others have none.
        number: Which attempt it is.
        request: Whether to stop.
        report: Told of progress.
    """

    task: Task
    variant: Variant
    seed: int
    ranks: Ranks
    claim: Claim | None
    number: int
    request: StopRequest
    report: Report


def fit_and_test(attempt: Attempt, tracker: Tracker) -> dict[str, Any]:
    """Train and test a network, and save its weights and predictions.

    A tuning trial is not tested and predicts nothing.

    Returns:
        The record, on the first process; the others' is empty.

    Raises:
        PfstudyError: Training diverged, or the checkpoint does not fit what is here.
        Stopped: Training was asked to stop.
    """
    config, ranks, directory = attempt.variant.config, attempt.ranks, attempt.task.directory
    conditions, resume = _conditions(attempt)
    torch.set_num_threads(conditions.num_threads)
    device = choose_device(config, ranks.local_rank)
    if device.type == "cpu" and any(id != "cpu" for id in attempt.task.devices):
        raise PfstudyError("its GPU is gone; see whether nvidia-smi still lists it.")
    seeds = derive_seeds(attempt.seed)
    share = Share(ranks.rank, ranks.num_ranks, conditions.num_parts)
    loaders = open_loaders(config, attempt.seed, share, device)
    num_steps = len(loaders.train) // conditions.num_parts
    module = make_module(config, seeds["init"], num_steps, conditions.num_parts, device)
    progress = Progress(
        directory,
        config.recipe.epochs,
        keep_best="best" in config.trainer.keep,
        ranks=ranks,
        claim=attempt.claim,
        tracker=tracker,
        report=attempt.report,
        loaders=loaders,
    )
    checkpoints = Checkpoints(
        directory / store.RESUME,
        60 * config.trainer.checkpoint_minutes,
        conditions,
        ranks,
        attempt.request,
        attempt.claim,
    )
    trainer = make_trainer(config, device, ranks, conditions, [progress, checkpoints])
    seed_everything(seeds["augmentation"] + ranks.rank)
    with loaders, attempt.request.deferred():
        path = directory / store.RESUME if resume else None
        trainer.fit(module, loaders.train, loaders.validation, ckpt_path=path, weights_only=True)
        started = time.perf_counter()
        tested = None
        if not is_trial(directory):
            trainer.test(module, loaders.test, verbose=False)
            tested = [
                ranks.gather(torch.cat(each).cpu()) for each in (module.logits, module.labels)
            ]
        test_seconds = time.perf_counter() - started
    if not ranks.is_first:
        return {}
    if tested and all(bool((each == UNREAD).all()) for each in tested[1]):
        raise PfstudyError("none of the test images could be read; see the first lines of its log.")
    if attempt.claim is not None:
        attempt.claim.check()
    if tested:
        save_predictions(directory, *map(in_order, tested))
    network = module.evaluated_network
    save_weights(network, directory / store.WEIGHTS)
    num_projected = sum(isinstance(part, Projected) for part in network.modules())
    counted = {
        **asdict(cost(network, image_shape(config.data))),
        "num_projected_sites": num_projected,
    }
    num_images = config.recipe.epochs * num_steps * config.recipe.batch_size
    return make_record(
        attempt.task,
        attempt.variant,
        attempt.seed,
        seeds=seeds,
        metrics={**progress.validated, **(module.evaluated if tested else {})},
        counted=counted,
        training={
            "seconds": progress.seconds,
            "images_per_second": num_images / progress.train_seconds,
            "test_seconds": test_seconds if tested else 0.0,
            "world_size": ranks.num_ranks,
            "num_threads": conditions.num_threads,
            "accumulation": conditions.num_parts,
            "lr": config.recipe.scaled_lr,
            "channels_last": config.trainer.channels_last,
            "compile": config.trainer.compile,
            "attempts": attempt.number,
            "skipped_images": len(progress.skipped),
        },
        device=device,
    )


def _conditions(attempt: Attempt) -> tuple[Conditions, bool]:
    """Under which conditions to train, and whether from the checkpoint.

    Threads stay as they were. With another accumulation the steps would not be the same ones, so
    training begins anew.
    """
    trainer, task, ranks = attempt.variant.config.trainer, attempt.task, attempt.ranks
    asked = Conditions(trainer.num_threads, ranks.num_ranks, task.accumulation)
    path = task.directory / store.RESUME
    written: Conditions | None = ranks.from_first(
        find_checkpoint(path, lambda text: attempt.report("note", {"text": text}))
        if ranks.is_first
        else None
    )
    if written is None or written.num_parts != asked.num_parts:
        return asked, False
    if written.num_ranks != asked.num_ranks:
        raise PfstudyError(
            f"its checkpoint was written by {written.num_ranks} devices, but now it has "
            f"{asked.num_ranks}; give it as many with trainer.devices, or delete {path} to begin "
            "anew."
        )
    return written, True
