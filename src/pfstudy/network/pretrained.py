"""Initial weights: which are taken, and what timm's expect of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from pfstudy.errors import PfstudyError
from pfstudy.network.checkpoint import describe_weights
from pfstudy.network.surgery import create_for_weights
from pfstudy.schema.config import Config, Data

_TOLERANCE = 1e-3
_TOLERANCE_GREY = 1e-2
"""Of a mean over three channels, for which there is more than one convention."""
_KEYS = {"crop_pct": "crop_fraction", "interpolation": "interpolation"}
_KEY_NAMES = {"crop_fraction": "crop", "interpolation": "interpolation"}


def describe_initial_weights(config: Config) -> list[str]:
    """Say what to know about the weights that a network starts from.

    Raises:
        PfstudyError: They cannot be read, or were trained on images normalised differently.
    """
    if config.init_from:
        note = describe_weights(config.init_from, config.init_weights)
        return [note] if note else []
    return check_input(config)


def check_input(config: Config) -> list[str]:
    """Compare the images of a config with those that its pretrained weights were trained on.

    Needs no download: timm declares this for each architecture and tag. Does nothing where the
    network starts from other weights.

    Returns:
        What to know about a crop, an interpolation or a normalisation of the data's own.

    Raises:
        PfstudyError: ``data.mean`` and ``data.std`` are given, and are not those of the weights.
    """
    if not config.pretrained:
        return []
    expected = expected_input(config)
    if not expected:
        return []
    weights = f"timm's weights of {config.model.timm}{_tag(expected)}"
    mean, std = (_per_channel(expected.get(key), config.data) for key in ("mean", "std"))
    if mean is None or std is None:
        return []
    normalised = f"data.mean={_list(mean)} data.std={_list(std)}"
    if config.data.mean is None or config.data.std is None:
        return [
            f"{weights} were trained on images normalised by {normalised}; those of "
            f"data={config.data.name} are normalised by their own mean and deviation",
        ]
    differing = _differing(expected, config.data)
    others = "".join(f" data.{key}={value}" for key, value in differing.items())
    if not (_is_near(config.data.mean, mean) and _is_near(config.data.std, std)):
        if config.pretrained_normalisation == "match":
            raise PfstudyError(
                f"{weights} were trained on images normalised differently from those of "
                f"data={config.data.name}; add {normalised}{others}, or, to keep the data as they "
                "are, pretrained_normalisation=any."
            )
        return [f"{weights} were trained with {normalised}{others}, these images differ"]
    if differing:
        theirs = " and ".join(_KEY_NAMES[key] for key in differing)
        return [f"{weights} are meant to be evaluated with another {theirs}:{others}"]
    return []


def expected_input(config: Config) -> Mapping[str, Any]:
    """What timm says of the weights of a model; empty where it says nothing.

    Overrides of ``model.args`` count: ``pretrained_cfg`` and ``pretrained_cfg_overlay``.
    """
    for device in ("meta", "cpu"):  # not every network can be built without memory
        try:
            with torch.device(device):
                network = create_for_weights(config.model, config.data)
        except (TypeError, ValueError, RuntimeError, AssertionError, NotImplementedError):
            continue
        found: Any = getattr(network, "pretrained_cfg", None)
        return found if isinstance(found, Mapping) else {}
    return {}  # loading the weights says why


def _differing(expected: Mapping[str, Any], data: Data) -> dict[str, Any]:
    """The values of keys of the data, apart from its normalisation, that weights expect."""
    found = {}
    for theirs, ours in _KEYS.items():
        value = getattr(data, ours)
        if value is not None and expected.get(theirs) not in (None, value):
            found[ours] = expected[theirs]
    return found


def _per_channel(values: Any, data: Data) -> tuple[float, ...] | None:
    """Values for the channels of the data; timm adds up the weights of colours for grey images."""
    if not isinstance(values, Sequence) or len(values) not in (data.channels, 3):
        return None
    if len(values) == data.channels:
        return tuple(float(value) for value in values)
    return (round(sum(values) / 3, 3),) if data.channels == 1 else None


def _is_near(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    tolerance = _TOLERANCE_GREY if len(theirs) == 1 else _TOLERANCE
    return len(ours) == len(theirs) and all(
        abs(one - other) <= tolerance for one, other in zip(ours, theirs, strict=True)
    )


def _tag(expected: Mapping[str, Any]) -> str:
    return f".{expected['tag']}" if expected.get("tag") else ""


def _list(values: Sequence[float]) -> str:
    return f"[{','.join(f'{value:g}' for value in values)}]"
