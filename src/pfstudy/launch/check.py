"""Checks the variants of a sweep against their networks and data, in a child."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from pfstudy.data.tensors import load_splits, training_batches
from pfstudy.environment import cpu_model
from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import (
    build_backbone,
    build_network,
    check_backbone,
    check_substitution,
)
from pfstudy.schema.config import Config
from pfstudy.tasks import Checked, Device
from pfstudy.variant import Substitution, Variant, layer_path


def check_variants(
    variants: Sequence[Variant], report: Callable[[str, Mapping[str, Any]], None]
) -> Checked:
    """Check that every variant can be built, its data read, and its device used.

    Each backbone is built once and each substitution tried once, on the meta device; nothing is
    computed.

    Raises:
        PfstudyError: Something does not fit; the first variant that shows it is named.
    """
    del report
    projected: dict[str, int] = {}
    inspect = cache(_inspect)
    load = cache(load_splits)
    try_out = cache(_needs_projection)
    for variant in variants:
        config = variant.config
        try:
            backbone = inspect(_Backbone(config))
            number = sum(try_out(backbone, s) for s in variant.substitutions)
            training_batches(load(config.data)["train"], config.recipe.batch_size, seed=0)
            if config.init_from:
                build_network(variant, seed=0)
        except PfstudyError as error:
            raise PfstudyError(f"{variant.label}: {error}") from None
        if number:
            projected[variant.label] = number
    config = variants[0].config
    devices = _devices("trainer.accelerator", config.trainer.accelerator)
    wanted = config.speed.device
    measured_on = devices if wanted == "auto" else _devices("speed.device", wanted)
    _check_precision(variants, devices[0])
    return Checked(devices, measured_on[0], projected)


class _Backbone:
    """A config as far as its backbone goes: equal for all variants of one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._key = repr((config.model, config.data))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backbone) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@dataclass(frozen=True, eq=False)
class _Inspected:
    """A backbone on the meta device, and what goes into its sites."""

    network: nn.Module
    shapes: Mapping[str, torch.Size]


def _inspect(backbone: _Backbone) -> _Inspected:
    config = backbone.config
    layers = [(s.address, layer_path(config.model, s.address)) for s in config.sites]
    shapes = check_backbone(config, layers)
    with torch.device("meta"):
        return _Inspected(build_backbone(config.model, config.data), shapes)


def _needs_projection(backbone: _Inspected, substitution: Substitution) -> bool:
    shape = backbone.shapes[substitution.address]
    return check_substitution(backbone.network, substitution, shape)


def _devices(key: str, wanted: str) -> tuple[Device, ...]:
    number = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "gpu" and number == 0:
        raise PfstudyError(f"{key}=gpu, but there is no GPU here; use auto or cpu.")
    gpus = [torch.cuda.get_device_properties(index) for index in range(number)]
    found = tuple(Device("gpu", f"GPU-{gpu.uuid}", gpu.name) for gpu in gpus)
    return found or (Device("cpu", "cpu", cpu_model()),)


def _check_precision(variants: Sequence[Variant], device: Device) -> None:
    precisions = {variant.config.trainer.precision for variant in variants}
    if device.kind == "cpu" and "16-mixed" in precisions:
        raise PfstudyError("trainer.precision=16-mixed needs a GPU; on the CPU use bf16-mixed.")
