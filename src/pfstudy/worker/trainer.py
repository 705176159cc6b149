"""What a run is trained with: device, data, network and Trainer."""

from __future__ import annotations

import hashlib
import os
import random
import warnings
from collections.abc import Mapping
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

from pfstudy.data.loading import Loaders, make_loaders
from pfstudy.data.order import Share
from pfstudy.errors import PfstudyError
from pfstudy.module import Classifier
from pfstudy.network.surgery import build_network, for_training
from pfstudy.network.teacher import load_teacher
from pfstudy.schema.config import Config
from pfstudy.worker.checkpoints import Conditions
from pfstudy.worker.ranks import Ranks


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


def device_name(device: torch.device) -> str:
    """What records call a device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


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
