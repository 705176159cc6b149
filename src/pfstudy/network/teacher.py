"""Networks that others learn from: those of finished runs, or timm's with their weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from pfstudy import files, store
from pfstudy.canonical import OF_TIMM, compact
from pfstudy.data import recognise
from pfstudy.errors import PfstudyError, first_line
from pfstudy.network.restore import load_run
from pfstudy.schema.config import Data

_SAME = (
    *("fingerprint", "channels", "num_classes", "split_seed", "num_validation", "num_test"),
    *("mean", "std"),
)


def load_teacher(teacher: str, data: Data, side: int | None = None) -> nn.Module:
    """Load a teacher, in evaluation mode and without gradients.

    Args:
        teacher: A run directory, or ``timm:NAME``.
        data: What its pupil is trained on.
        side: Height and width of the images in training, if not those of the data.

    Returns:
        A network ``(N, C, H, W) -> (N, data.num_classes)`` of images normalised as the pupil's.

    Raises:
        PfstudyError: There is no such network, or it has other classes or takes other images.
    """
    network = _of_timm(teacher, data) if teacher.startswith(OF_TIMM) else _of_run(teacher, data)
    network.requires_grad_(False)
    try:
        with torch.inference_mode():
            side = side or data.image_size
            shape = network(torch.zeros(1, data.channels, side, side)).shape
    except (RuntimeError, ValueError, AssertionError) as error:
        raise PfstudyError(
            f"recipe.teacher={teacher} does not take the images of data={data.name}: "
            f"{first_line(error)}"
        ) from None
    if shape != (1, data.num_classes):
        raise PfstudyError(
            f"recipe.teacher={teacher} knows {shape[-1]} classes, but data={data.name} has "
            f"{data.num_classes}."
        )
    return network


class _Normalised(nn.Module):
    """A network that was trained on images normalised otherwise.

    Args:
        network: The network.
        data: Says how images come.
        mean: Mean of each channel that the network expects to be subtracted, from 0 to 1.
        std: Standard deviation of each that it expects to be divided by.
    """

    def __init__(self, network: nn.Module, data: Data, mean: Any, std: Any) -> None:
        super().__init__()
        self.network = network
        self.scale: torch.Tensor
        self.shift: torch.Tensor
        ours = torch.tensor(data.mean).view(-1, 1, 1), torch.tensor(data.std).view(-1, 1, 1)
        theirs = torch.tensor(mean).view(-1, 1, 1), torch.tensor(std).view(-1, 1, 1)
        self.register_buffer("scale", ours[1] / theirs[1])
        self.register_buffer("shift", (ours[0] - theirs[0]) / theirs[1])

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(torch.addcmul(self.shift, x_NCHW, self.scale))
        return logits


def _of_run(teacher: str, data: Data) -> nn.Module:
    network = load_run(teacher)
    identity = files.read_json(Path(teacher) / store.CONFIG)["identity"]
    theirs = identity["canonical"]["data"]
    ours = compact({**asdict(data), "fingerprint": recognise(data, identity).fingerprint})
    differing = [key for key in _SAME if theirs.get(key) != ours.get(key)]
    if differing:
        raise PfstudyError(
            f"recipe.teacher={teacher} was trained on other data than data={data.name}, or another "
            f"split ({', '.join(differing)}); teach with a run on the same."
        )
    return network


def _of_timm(teacher: str, data: Data) -> nn.Module:
    name = teacher.removeprefix(OF_TIMM)
    if not timm.is_model(name):
        raise PfstudyError(f"recipe.teacher={teacher}: timm {timm.__version__} has no {name!r}.")
    try:
        network: nn.Module = timm.create_model(name, pretrained=True).eval()
    except Exception as error:  # of timm, of the hub
        raise PfstudyError(
            f"recipe.teacher={teacher}: timm cannot load its weights: {first_line(error)}"
        ) from None
    expected: Any = network.pretrained_cfg
    if data.mean is None or data.std is None:
        raise PfstudyError(
            f"recipe.teacher={teacher} needs images with data.mean and data.std; teach with a run."
        )
    if (tuple(expected["mean"]), tuple(expected["std"])) == (data.mean, data.std):
        return network
    return _Normalised(network, data, expected["mean"], expected["std"]).eval()
