"""Loading weights: safetensors or a state dict, with our names or the published ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from pfstudy.errors import PfstudyError

_WRAPPERS = ("state_dict", "model")
_PUBLISHED = (
    (r"^conv1\.0\.", "conv1."),
    (r"^conv1\.1\.", "bn1."),
    (r"\.reduction_block\.0\.", ".conv1."),
    (r"\.reduction_block\.1\.", ".bn1."),
    (r"\.conv_block\.1\.0\.", ".conv2.1."),  # a pool stands before it
    (r"\.conv_block\.1\.1\.", ".bn2."),
    (r"\.conv_block\.0\.", ".conv2."),
    (r"\.conv_block\.1\.", ".bn2."),
    (r"\.expansion_block\.0\.", ".conv3."),
    (r"\.expansion_block\.1\.", ".bn3."),
    (r"\.attn\.qkv\.", ".attn.operation.expand."),
    (r"\.attn\.proj\.", ".attn.operation.reduce."),
)
"""Names of the checkpoints published with Han et al. 2022, and what stands for them here."""


def load_checkpoint(network: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a network; every tensor must have a place, and every place a tensor.

    The names are the network's own, or those of the checkpoints that were published with
    *Learning Features with Parameter-Free Layers*. Nothing in the file is executed.

    Args:
        network: Any network of `build_network`; changed only if all fits.
        path: A safetensors file, or a state dict as `torch.save` writes it, also one under
            ``state_dict`` or ``model``, or saved from a ``DataParallel``.

    Raises:
        PfstudyError: The file is no checkpoint, or belongs to another network.
    """
    state = read_state_dict(path)
    ours = network.state_dict()
    translated = {_our_name(name, ours): tensor for name, tensor in state.items()}
    if len(translated) < len(state):
        raise PfstudyError(f"the checkpoint {path} holds some tensors twice, under two names.")
    state = translated
    missing, left_over = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    reshaped = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in ours.items()
        if name in state and state[name].shape != tensor.shape
    ]
    if missing or left_over or reshaped:
        raise PfstudyError(
            f"the checkpoint {path} belongs to another network: {_some('missing', missing)}, "
            f"{_some('left over', left_over)}, {_some('of another shape', reshaped)}."
        )
    network.load_state_dict(state)


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read names and tensors from a file, without executing anything in it.

    Raises:
        PfstudyError: The file is no checkpoint.
    """
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose advice is to execute what is in the file
        raise PfstudyError(
            f"{path} is no checkpoint of tensors alone, or it is damaged; if there is more in it, "
            "save its state dict by itself."
        ) from None
    except Exception as error:  # torch, zipfile and safetensors all have their own
        first = (str(error).splitlines() or [""])[0].split(". ")[0]
        reason = first if " " in first else type(error).__name__
        raise PfstudyError(f"{path} is no readable checkpoint: {reason}") from None
    for wrapper in _WRAPPERS:
        if isinstance(state, Mapping) and isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if not _is_state_dict(state):
        raise PfstudyError(f"{path} is no state dict: expected names and tensors.")
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)


def _is_state_dict(state: Any) -> bool:
    return (
        isinstance(state, Mapping)
        and len(state) > 0
        and all(isinstance(key, str) and torch.is_tensor(value) for key, value in state.items())
    )


def _our_name(name: str, ours: Collection[str]) -> str:
    """Translate a published name, where only the translation is one of ours."""
    if name not in ours:
        for pattern, replacement in _PUBLISHED:
            translated = re.sub(pattern, replacement, name)
            if translated != name and translated in ours:
                return translated
    return name


def _some(what: str, names: list[str]) -> str:
    if not names:
        return f"none {what}"
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
