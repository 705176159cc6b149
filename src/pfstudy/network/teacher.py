"""Networks that others learn from: those of finished runs, or timm's with their weights."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import nn

from pfstudy.errors import PfstudyError, first_line
from pfstudy.network.restore import load_run
from pfstudy.schema.config import Data

TIMM = "timm:"


def load_teacher(teacher: str, data: Data) -> nn.Module:
    """Load a teacher, in evaluation mode and without gradients.

    Args:
        teacher: A run directory, or ``timm:NAME``.
        data: What its pupil is trained on.

    Returns:
        A network ``(N, C, H, W) -> (N, data.num_classes)`` of images normalised as the pupil's.

    Raises:
        PfstudyError: There is no such network, or it has other classes or takes other images.
    """
    network = _of_timm(teacher, data) if teacher.startswith(TIMM) else load_run(teacher)
    network.requires_grad_(False)
    try:
        with torch.inference_mode():
            shape = network(torch.zeros(1, data.channels, data.image_size, data.image_size)).shape
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


def _of_timm(teacher: str, data: Data) -> nn.Module:
    name = teacher.removeprefix(TIMM)
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
