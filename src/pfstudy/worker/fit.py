"""Fits and tests the network of a run, from the start or from its checkpoint."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from lightning.pytorch.plugins.environments import (  # type: ignore[attr-defined]
    LightningEnvironment,
)
from lightning.pytorch.strategies import DDPStrategy
from timm.layers import convert_sync_batchnorm
from torch import distributed

from pfstudy import store
from pfstudy.complexity import cost
from pfstudy.data.loading import Loaders, make_loaders
from pfstudy.data.order import Share
from pfstudy.errors import PfstudyError
from pfstudy.ledger import Claim
from pfstudy.module import Classifier
from pfstudy.network.surgery import build_network, for_training, image_shape
from pfstudy.network.teacher import load_teacher
from pfstudy.ops import Projected
from pfstudy.schema.config import Config
from pfstudy.tasks import Task
from pfstudy.tracking import Tracker
from pfstudy.variant import Variant
from pfstudy.worker.checkpoints import Checkpoints, Conditions, find_checkpoint
from pfstudy.worker.progress import Progress, Report
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.results import in_order, make_record, save_predictions, save_weights
from pfstudy.worker.stopping import StopRequest


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


def derive_seeds(seed: int) -> dict[str, int]:
    """Derive the seeds of initial weights, data order and augmentation from that of the run."""

    def derive(purpose: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:6], "big")

    return {purpose: derive(purpose) for purpose in ("init", "order", "augmentation")}


def choose_device(config: Config, local_rank: int = 0) -> torch.device:
    """The device that a config asks for, among those that this process sees.

    Raises:
        PfstudyError: There is none.
    """
    wanted = config.trainer.accelerator
    if wanted == "gpu" and not torch.cuda.is_available():
        raise PfstudyError("trainer.accelerator=gpu, but there is no GPU here; use auto or cpu.")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def open_loaders(config: Config, seed: int, share: Share, device: torch.device) -> Loaders:
    """Open the data of a run for one of its processes.

    Raises:
        PfstudyError: The data cannot be read, or a batch cannot be shared.
    """
    seeds, recipe = derive_seeds(seed), config.recipe
    return make_loaders(
        config.data,
        recipe.batch_size,
        max(256, recipe.batch_size),
        seeds["order"],
        seeds["augmentation"],
        device,
        share,
        recipe.augmentation,
    )


def fit_and_test(attempt: Attempt, tracker: Tracker) -> dict[str, Any]:
    """Train and test a network, and save its weights and predictions.

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
        trainer.test(module, loaders.test, verbose=False)
        test_seconds = time.perf_counter() - started
    skipped: dict[str, str] = dict(itertools.chain(*map(dict.items, ranks.gather(loaders.skipped))))
    logits = ranks.gather(torch.cat(module.logits).cpu())
    labels = ranks.gather(torch.cat(module.labels).cpu())
    if not ranks.is_first:
        return {}
    if attempt.claim is not None:
        attempt.claim.check()
    save_predictions(directory, in_order(logits), in_order(labels))
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
        metrics={**progress.validated, **module.evaluated},
        counted=counted,
        training={
            "seconds": progress.seconds,
            "images_per_second": num_images / progress.train_seconds,
            "test_seconds": test_seconds,
            "world_size": ranks.num_ranks,
            "num_threads": conditions.num_threads,
            "accumulation": conditions.num_parts,
            "lr": config.recipe.scaled_lr,
            "channels_last": config.trainer.channels_last,
            "compile": config.trainer.compile,
            "attempts": attempt.number,
            "skipped_images": len(skipped),
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


def make_module(
    config: Config, seed: int, steps_per_epoch: int, num_parts: int, device: torch.device
) -> Classifier:
    """Build the network of a run and what trains it.

    Args:
        config: What to train.
        seed: Seed of the initial weights.
        steps_per_epoch: Number of steps of the optimizer in an epoch.
        num_parts: Number of batches whose gradients make up a step.
        device: Where the teacher, if there is one, gives its answers.

    Raises:
        PfstudyError: The network or its teacher cannot be built.
    """
    network = build_network(for_training(config), seed)
    if config.recipe.sync_batch_norm and distributed.is_initialized():
        network = convert_sync_batchnorm(network)  # timm's, which knows norms with an activation
    if config.trainer.channels_last:
        network.to(memory_format=torch.channels_last)
    recipe = config.recipe
    if recipe.ema_decay is not None:  # whose network is in evaluation mode all the time
        warnings.filterwarnings("ignore", "Found .* in eval mode at the start of training")
    teacher = load_teacher(recipe.teacher, config.data).to(device) if recipe.teacher else None
    return Classifier(
        network,
        recipe,
        config.data.num_classes,
        steps_per_epoch,
        num_parts,
        teacher,
        config.trainer.compile,
    )


def seed_everything(seed: int) -> None:
    """Seed what draws at random while a network is trained: Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def make_trainer(
    config: Config,
    device: torch.device,
    ranks: Ranks,
    conditions: Conditions,
    callbacks: list[L.Callback],
    **options: Any,
) -> L.Trainer:
    """Make the Trainer of a run, without what would write, show or log anything by itself."""
    several: Mapping[str, Any] = {}
    if ranks.num_ranks > 1:
        os.environ["OMP_NUM_THREADS"] = str(conditions.num_threads)  # or Lightning takes all cores
        # every rank's own buffers while it trains; those of the first count, see `Progress`
        several = {"strategy": DDPStrategy(broadcast_buffers=False), "num_nodes": ranks.num_nodes}
    return L.Trainer(
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=ranks.num_local,
        precision=config.trainer.precision,
        max_epochs=config.recipe.epochs,
        accumulate_grad_batches=conditions.num_parts,
        gradient_clip_val=config.recipe.clip_norm,
        callbacks=callbacks,
        plugins=[_Environment(ranks)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **several,
        **options,
    )


class _Environment(LightningEnvironment):
    """Takes the processes as they are; not every cluster says which machine this one is."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def node_rank(self) -> int:
        """Number of this machine among those of the run."""
        return self.ranks.rank // self.ranks.num_local
