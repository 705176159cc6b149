"""The fast gradient sign method (Goodfellow et al. 2015, section 4)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from pfstudy.data.order import UNREAD


def gradient_sign(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    pixels_NCHW: torch.Tensor,
    labels_N: torch.Tensor,
) -> torch.Tensor:
    """Sign of the gradient of the cross entropy with respect to the pixels.

    Args:
        logits_of: Maps pixels, before they are normalised, to logits ``(N, num_classes)``.
        pixels_NCHW: Values from 0 to 1.
        labels_N: The true classes.

    Returns:
        -1, 0 or 1, ``(N, C, H, W)``.
    """
    with torch.enable_grad():
        pixels_NCHW = pixels_NCHW.detach().requires_grad_()
        loss = functional.cross_entropy(
            logits_of(pixels_NCHW), labels_N, ignore_index=UNREAD, reduction="sum"
        )
        (gradient_NCHW,) = torch.autograd.grad(loss, pixels_NCHW)
    return gradient_NCHW.sign()


def attack(pixels_NCHW: torch.Tensor, sign_NCHW: torch.Tensor, epsilon: float) -> torch.Tensor:
    r"""Add :math:`\epsilon \, \mathrm{sign}(\nabla_x L)`, and clip to the range of values.

    Args:
        pixels_NCHW: Values from 0 to 1.
        sign_NCHW: Of `gradient_sign`.
        epsilon: In 1/255 of the range of values.
    """
    return (pixels_NCHW + epsilon / 255 * sign_NCHW).clamp_(0, 1)
