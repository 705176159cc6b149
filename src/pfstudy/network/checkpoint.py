"""Loading weights: safetensors or a state dict, with our names or the published ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from torch import nn

from pfstudy.errors import PfstudyError

Weights = Literal["raw", "averaged"]

_RAW = ("state_dict", "model")
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_WRAPPERS = ("module.", "_orig_mod.")
"""Prefixes of names in networks wrapped by DDP or torch.compile."""
_COUNTER = "n_averaged"
"""Number of updates that torch's ``AveragedModel`` saves next to its weights."""
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


def load_checkpoint(network: nn.Module, path: str | Path, weights: Weights = "raw") -> None:
    """Load a checkpoint into a network; every tensor must have a place, and every place a tensor.

    The names are the network's own, or those of the checkpoints that were published with
    *Learning Features with Parameter-Free Layers*. Nothing in the file is executed.

    Args:
        network: Any network of `build_network`; changed only if all fits.
        path: A safetensors file, or a state dict as `torch.save` writes it, also one under
            ``state_dict`` or ``model``, or saved from a network wrapped by ``DataParallel``, DDP,
            ``torch.compile`` or ``AveragedModel``, in any order.
        weights: Which to take from a file that has raw and averaged (EMA) weights.

    Raises:
        PfstudyError: The file is no checkpoint, or belongs to another network.
    """
    state = read_state_dict(path, weights)
    network = _unwrap(network)
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


def read_state_dict(path: str | Path, weights: Weights = "raw") -> dict[str, torch.Tensor]:
    """Read names and tensors from a file, without executing anything in it.

    Args:
        path: The file.
        weights: Which to take from a file that has raw and averaged weights. One that has a
            single set of weights gives it as ``raw``.

    Raises:
        PfstudyError: The file is no checkpoint, or has no averaged weights.
    """
    content = _read(path)
    state, key = _choose(content, weights)
    if weights == "averaged" and key not in _AVERAGED:
        raise PfstudyError(
            f"init_weights=averaged: {path} has no averaged weights ({_list(_AVERAGED)}); leave "
            "init_weights out."
        )
    if not _is_state_dict(state):
        raise PfstudyError(f"{path} is no state dict: expected names and tensors.")
    return _unwrap_names(state)


def describe_weights(path: str | Path, weights: Weights = "raw") -> str | None:
    """Say which weights are taken from a file that has averaged (EMA) weights.

    Returns:
        A sentence, or ``None`` for a file with one set of weights.

    Raises:
        PfstudyError: The file is no checkpoint.
    """
    content = _read(path)
    found = {chosen: _choose(content, chosen)[1] for chosen in ("raw", "averaged")}
    key = found[weights]
    if found["averaged"] not in _AVERAGED or key is None:
        return None
    if found["raw"] == found["averaged"]:
        return f"{path} has averaged weights only ({key}); these are taken"
    other: Weights = "raw" if weights == "averaged" else "averaged"
    return (
        f"{path} has raw and averaged weights; the {weights} ones ({key}) are taken, "
        f"init_weights={other} takes {found[other]}"
    )


def _unwrap_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Remove what DDP, torch.compile and ``AveragedModel`` add to the names of a state dict.

    Prefixes are removed while all names share one. Names of compiled submodules
    (``layer1._orig_mod.0.conv1.weight``) lose that part, too.
    """
    names = {name: name for name in state}
    if _COUNTER in names and any(name.startswith("module.") for name in names):
        del names[_COUNTER]
    while prefix := next(
        (p for p in _WRAPPERS if all(name.startswith(p) for name in names.values())), None
    ):
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    of_parts = {name: short.replace("._orig_mod.", ".") for name, short in names.items()}
    if len(set(of_parts.values())) == len(names):
        names = of_parts
    return {short: state[name] for name, short in names.items()}


def _unwrap(network: nn.Module) -> nn.Module:
    """Return the network inside DDP or torch.compile."""
    while (inner := dict(network.named_children())).keys() in ({"module"}, {"_orig_mod"}):
        network = next(iter(inner.values()))
    return network


def _read(path: str | Path) -> Any:
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:  # whose advice is to execute what is in the file
        raise PfstudyError(
            f"{path} is no checkpoint of tensors alone, or it is damaged; if there is more in it, "
            "save its state dict by itself."
        ) from None
    except Exception as error:  # torch, zipfile and safetensors all have their own
        first = (str(error).splitlines() or [""])[0].split(". ")[0]
        reason = first if " " in first else type(error).__name__
        raise PfstudyError(f"{path} is no readable checkpoint: {reason}") from None


def _choose(content: Any, weights: str) -> tuple[Any, str | None]:
    """Find a state dict in a checkpoint, and the key it is under; ``None`` if there is none."""
    order = (_AVERAGED, _RAW) if weights == "averaged" else (_RAW, _AVERAGED)
    key = None
    for keys in order:
        for wrapper in keys:
            if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
                content, key = content[wrapper], wrapper
        if key is not None:
            break
    return content, key


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


def _list(names: Collection[str]) -> str:
    return ", ".join(names)
