"""Layers with the initial weights that the backbones around them have in timm, drawn once."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
from torch import nn

_LayerT = TypeVar("_LayerT", bound=nn.Module)


def conv2d(*args: Any, like: nn.Conv2d | None = None, **kwargs: Any) -> nn.Conv2d:
    """Convolution with the initial weights of timm's convolutional networks.

    Weights are drawn from a normal distribution of variance ``2 / (k^2 C' / groups)`` (He et
    al. 2015, fan out), the bias starts at zero.

    Args:
        args: Those of `torch.nn.Conv2d`.
        like: A convolution whose weights it takes over if they have the same shape.
        kwargs: Those of `torch.nn.Conv2d`.
    """
    module = _undrawn(nn.Conv2d, *args, **kwargs)
    has_same_bias = like is not None and (like.bias is None) == (module.bias is None)
    if like is not None and has_same_bias and like.weight.shape == module.weight.shape:
        module.weight, module.bias = like.weight, like.bias
        return module
    fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
    nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if module.bias is not None:
        nn.init.zeros_(module.bias)
    return module


def linear(in_features: int, out_features: int, std: float | None = None) -> nn.Linear:
    """Linear layer whose weights are drawn as those around it, and whose bias starts at zero.

    Args:
        in_features: Channels that come in.
        out_features: Channels that go out.
        std: Standard deviation of the normal distribution that the weights are drawn from; 0.02,
            that of a ViT (Dosovitskiy et al. 2021, as in timm), unless told otherwise.
    """
    module = _undrawn(nn.Linear, in_features, out_features)
    nn.init.normal_(module.weight, std=0.02 if std is None else std)
    nn.init.zeros_(module.bias)
    return module


def _undrawn(kind: type[_LayerT], *args: Any, **kwargs: Any) -> _LayerT:
    """A layer without the initial weights that torch would draw only to be overwritten."""
    device = torch.get_default_device()
    module: _LayerT = nn.utils.skip_init(kind, *args, device=device, **kwargs)
    return module
