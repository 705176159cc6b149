"""Checks the variants of a sweep against their networks and data, in a child."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

import torch

from pfstudy.complexity import variant_cost
from pfstudy.data.loading import (
    check_augmentation,
    check_batch_size,
    count_training_images,
    describe_pixels,
)
from pfstudy.data.order import Share, check_share
from pfstudy.environment import cpu_model, nvidia_driver
from pfstudy.errors import PfstudyError, first_line
from pfstudy.losses import check_objective
from pfstudy.network.behaviour import Backbone
from pfstudy.network.inspection import check_backbone
from pfstudy.network.pretrained import describe_initial_weights
from pfstudy.network.substitutions import check_substitutions
from pfstudy.network.surgery import backbone_key, build_backbone, build_network, for_training
from pfstudy.network.teacher import load_teacher
from pfstudy.optimization import check_optimization
from pfstudy.schema.config import Config
from pfstudy.schema.designs import Constraint, parse_constraints
from pfstudy.schema.imports import import_modules
from pfstudy.schema.search import Differentiable
from pfstudy.space import Space
from pfstudy.tasks import Checked, Device, gpu_id
from pfstudy.variant import Variant


def check_variants(
    variants: Sequence[Variant], report: Callable[[str, Mapping[str, Any]], None]
) -> Checked:
    """Check that every variant can be built, its data read, and its device used.

    Each backbone is built once and each substitution tried once, on the meta device; computed is
    what each backbone says of two images.

    Raises:
        PfstudyError: Something does not fit; the first variant that shows it is named.
    """
    del report
    import_modules(name for variant in variants for name in variant.config.imports)
    projected: dict[str, int] = {}
    backbones: dict[str, Backbone] = {}
    loaded: set[str] = set()
    notes: dict[str, None] = {}
    note_pixels = cache(describe_pixels)
    trainable: set[str] = set()
    count_images = cache(count_training_images)
    constraints = parse_constraints(variants[0].config.study.constraints)
    dropped = _drop(variants, [c for c in constraints if c.metric == "sites"])
    left = [variant for variant in variants if variant.hash not in dropped]
    devices = _devices("trainer.accelerator", variants[0].config.trainer.accelerator)
    wanted_devices = variants[0].config.trainer.devices
    num_ranks = len(devices) if wanted_devices == "auto" else wanted_devices
    for variant in left:
        config, key = variant.config, backbone_key(variant.config)
        number = _check_network(variant, backbones)
        try:
            initial = describe_initial_weights(config)  # downloads nothing, as a teacher may
            training = repr((config.model, config.data, config.recipe, config.trainer))
            if training not in trainable:
                _check_training(config, num_ranks, devices[0])
                trainable.add(training)
            check_batch_size(config.recipe.batch_size, count_images(config.data), num_ranks)
            notes |= dict.fromkeys((*note_pixels(config.data), *initial))
            if config.pretrained and key not in loaded:
                build_backbone(config.model, config.data, pretrained=True)
                loaded.add(key)
            if config.init_from:
                build_network(config, seed=0)
        except PfstudyError as error:
            raise PfstudyError(f"{variant.label}: {error}") from None
        if number:
            projected[variant.label] = number
    dropped |= _drop(left, [c for c in constraints if c.metric != "sites"])
    config = variants[0].config
    wanted = config.speed.device
    measured_on = devices if wanted == "auto" else _devices("speed.device", wanted)
    _check_precision(variants, devices[0])
    return Checked(devices, measured_on[0], projected, dropped, tuple(notes))


def check_networks(
    variants: Sequence[Variant],
    names: Sequence[str],
    report: Callable[[str, Mapping[str, Any]], None],
) -> dict[str, Device]:
    """Check that networks can be built and devices are there, for measuring speed alone.

    Args:
        variants: The networks.
        names: ``auto``, ``cpu`` or ``gpu``.
        report: Not used.

    Returns:
        The devices by their names.

    Raises:
        PfstudyError: A network cannot be built, or there is no such device.
    """
    del report
    import_modules(name for variant in variants for name in variant.config.imports)
    asked = {variant.config.speed.device for variant in variants}
    keys = {name: "speed.device" if name in asked else "trainer.accelerator" for name in names}
    devices = {name: _devices(key, name)[0] for name, key in keys.items()}
    backbones: dict[str, Backbone] = {}
    for variant in variants:
        _check_network(variant, backbones)
    return devices


def check_search(space: Space, report: Callable[[str, Mapping[str, Any]], None]) -> Device:
    """Check that every operation of a search can stand at every site, and its data be read.

    Args:
        space: What is searched.
        report: Told what to know about images and initial weights (``"note"``).

    Returns:
        The device to search on.

    Raises:
        PfstudyError: Something does not fit.
    """
    config, search = space.config, space.search
    device = _devices("trainer.accelerator", config.trainer.accelerator)[0]
    import_modules(config.imports)
    backbones: dict[str, Backbone] = {}
    for variant in space.uniform:
        _check_network(variant, backbones)
    for note in (*describe_pixels(config.data), *describe_initial_weights(config)):
        report("note", {"text": note})
    _check_training(config, 1, device)
    number = count_training_images(config.data)
    if isinstance(search, Differentiable):
        number -= round(search.arch_share * number)
    check_batch_size(config.recipe.batch_size, number)
    return device


def _check_training(config: Config, num_ranks: int, device: Device) -> None:
    """Check what a config says of training, on so many devices like one.

    Raises:
        PfstudyError: It cannot be trained so.
    """
    recipe, num_parts = config.recipe, config.trainer.accumulation
    check_share(recipe.batch_size, Share(num_ranks=num_ranks, num_parts=num_parts))
    check_augmentation(config.data, recipe.augmentation)
    check_optimization(recipe)
    check_objective(recipe, recipe.batch_size // (num_ranks * num_parts))
    if recipe.sync_batch_norm and num_ranks > 1 and device.kind == "cpu":
        raise PfstudyError(
            "recipe.sync_batch_norm=true needs GPUs, as torch synchronises no batch norm of the "
            "CPU; leave it out, or take trainer.devices=1."
        )
    if recipe.drop_path:
        build_backbone(for_training(config).model, config.data)
    side = recipe.augmentation.train_image_size
    if side is not None and side != config.data.image_size:
        _check_side(config, side)
    if recipe.teacher:
        load_teacher(recipe.teacher, config.data, recipe.augmentation.train_image_size)


def _check_side(config: Config, side: int) -> None:
    """Check that the backbone takes images of another size, too."""
    try:
        with torch.device("meta"):
            network = build_backbone(config.model, config.data)
            network(torch.zeros(2, config.data.channels, side, side))
    except (RuntimeError, ValueError, AssertionError) as error:
        raise PfstudyError(
            f"recipe.augmentation.train_image_size is {side}, but model {config.model.name} takes "
            f"images of {config.data.image_size} alone: {first_line(error)}"
        ) from None


def _check_network(variant: Variant, backbones: dict[str, Backbone]) -> int:
    """Check that a network can be built.

    Args:
        variant: The network.
        backbones: Those that have been checked; this one's becomes one of them.

    Returns:
        Number of sites where a 1x1 convolution follows the operation.
    """
    key = backbone_key(variant.config)
    if key not in backbones:
        backbones[key] = check_backbone(variant.config)
    try:
        return check_substitutions(backbones[key], variant.substitutions)
    except PfstudyError as error:
        raise PfstudyError(f"{variant.label}: {error}") from None


def _drop(variants: Sequence[Variant], constraints: Sequence[Constraint]) -> dict[str, str]:
    """Find the variants, apart from baselines, that do not satisfy some constraints."""
    needs_cost = any(constraint.metric != "sites" for constraint in constraints)
    counted: dict[str, dict[str, float]] = {}

    def figures(variant: Variant) -> dict[str, float]:
        key = variant.architecture_hash
        if key not in counted:
            counted[key] = asdict(variant_cost(variant)) if needs_cost else {}
            counted[key]["sites"] = len(variant.substitutions)
        return counted[key]

    dropped = {}
    for variant in variants:
        if variant.is_baseline:
            continue
        for constraint in constraints:
            if not constraint.holds(figures(variant), figures(variant.baseline())):
                dropped[variant.hash] = constraint.text
                break
    return dropped


def _devices(key: str, wanted: str) -> tuple[Device, ...]:
    number = torch.cuda.device_count() if wanted != "cpu" else 0
    if wanted == "gpu" and number == 0:
        raise PfstudyError(f"{key}=gpu, but there is no GPU here; use auto or cpu.")
    gpus = [torch.cuda.get_device_properties(index) for index in range(number)]
    found = tuple(
        Device("gpu", gpu_id(gpu.uuid, index), gpu.name, nvidia_driver())
        for index, gpu in enumerate(gpus)
    )
    return found or (Device("cpu", "cpu", cpu_model()),)


def _check_precision(variants: Sequence[Variant], device: Device) -> None:
    precisions = {variant.config.trainer.precision for variant in variants}
    if device.kind == "cpu" and "16-mixed" in precisions:
        raise PfstudyError("trainer.precision=16-mixed needs a GPU; on the CPU use bf16-mixed.")
