"""What a finished run leaves: weights, predictions, the record."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from pfstudy import store
from pfstudy.counting import COUNTING, MACS_CONVENTION
from pfstudy.files import replacing
from pfstudy.record import IS_TRIAL
from pfstudy.tasks import Task
from pfstudy.tuning import is_trial, read_tuned
from pfstudy.variant import SCHEMA_VERSION, Variant
from pfstudy.worker.trainer import device_name

_MOST_LOGITS = 10_000_000
_NUM_TOP = 5


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the weights of a network so that the file is always a whole one.

    Raises:
        DiskError: They cannot be written.
    """
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    with replacing(path) as draft:
        path.parent.mkdir(exist_ok=True)
        try:
            save_file(state, draft)
        except SafetensorError as error:  # its own for what the disk refuses
            number = re.search(r"os error (\d+)", str(error))
            reason = os.strerror(int(number[1])) if number else str(error)
            raise OSError(0, reason) from None


def save_predictions(directory: Path, logits_NK: torch.Tensor, labels_N: torch.Tensor) -> None:
    """Keep label and logits, or the top-5 classes, of every test image in the order of the split.

    Raises:
        DiskError: They cannot be written.
    """
    path = directory / store.PREDICTIONS
    labels = labels_N.cpu().numpy()
    with replacing(path) as draft, draft.open("wb") as file:
        if logits_NK.numel() <= _MOST_LOGITS:
            np.savez(file, labels=labels, logits=logits_NK.cpu().numpy())
        else:
            top = logits_NK.topk(min(_NUM_TOP, logits_NK.shape[1])).indices
            np.savez(file, labels=labels, top5=top.cpu().numpy().astype(np.int32))


def in_order(parts: list[torch.Tensor]) -> torch.Tensor:
    """Put together what ranks have of every ``num_ranks``-th image.

    Args:
        parts: ``(N / num_ranks, ...)`` of every rank; the first ones may have one more.

    Returns:
        ``(N, ...)`` in the order of the images.
    """
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    for rank, part in enumerate(parts):
        whole[rank :: len(parts)] = part
    return whole


def make_record(
    task: Task,
    variant: Variant,
    seed: int,
    *,
    seeds: Mapping[str, int],
    metrics: Mapping[str, float],
    counted: Mapping[str, int],
    training: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Any]:
    """Put together the record of a run.

    Args:
        task: Where it was trained.
        variant: What was.
        seed: With which seed.
        seeds: The seeds derived from it, by purpose.
        metrics: Figures on validation and, but for tuning trials, on test.
        counted: Parameters, MACs and so on.
        training: How it was trained.
        device: On what.
    """
    config = variant.config
    tuned = read_tuned(task.directory.parent) if config.tune.trials else None
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": variant.describe_identity(),
        "variant": {
            "model": config.model.name,
            "label": variant.label,
            "is_baseline": variant.is_baseline,
            "original": "/".join(dict.fromkeys(p.original for p in config.model.sites)),
            "operations": variant.operations,
        },
        "seed": seed,
        "seeds": dict(seeds),
        "data": config.data.name,
        "recipe": config.recipe.name,
        "metrics": dict(metrics),
        **({"tuning": tuned} if tuned else {}),
        **({IS_TRIAL: True} if is_trial(task.directory) else {}),
        "cost": {**counted, "counting": COUNTING, "macs_convention": MACS_CONVENTION},
        "training": {
            **training,
            "epochs": config.recipe.epochs,
            "effective_batch_size": config.recipe.batch_size,
            "precision": config.trainer.precision,
        },
        "environment": {**task.environment, "device": device_name(device)},
    }


def remove_checkpoints(directory: Path, keep: tuple[str, ...]) -> None:
    """Remove what a finished run need not keep, also what a killed attempt has half written."""
    for kept_in in (directory, (directory / store.RESUME).parent):
        for draft in kept_in.glob(".*.draft*"):
            draft.unlink(missing_ok=True)
    for name in (store.RESUME, store.RESUME_BEFORE):
        (directory / name).unlink(missing_ok=True)
    has_best = (directory / store.BEST_WEIGHTS).exists()
    if "last" not in keep and (has_best or not keep):
        (directory / store.WEIGHTS).unlink(missing_ok=True)
    if "best" not in keep:
        (directory / store.BEST_WEIGHTS).unlink(missing_ok=True)
