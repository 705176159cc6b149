"""Canonical forms: what decides a result, as plain data, whoever wrote it and however."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.schema.recipe import Recipe

OF_TIMM = "timm:"
"""What the name of a teacher begins with that is timm's."""

WEIGHTS = "checkpoints/last.safetensors"
"""In a run directory: the weights that it was tested with."""

_HASH_LENGTH = 10


def digest(canonical: Mapping[str, Any]) -> str:
    """Digest of plain data, the same wherever and in whatever order it was written."""
    text = json.dumps(canonical, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:_HASH_LENGTH]


def file_digest(path: str, key: str) -> str:
    """Digest of a file's content.

    Raises:
        PfstudyError: The file cannot be read; names the config key that asked for it.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PfstudyError(f"{key}={path} cannot be read: {error.strerror}.") from None


def recipe_form(recipe: Recipe) -> dict[str, Any]:
    """What changes training; what is left at its default may have come later than a record."""
    form = _unusual(recipe)
    del form["name"]
    form["label_smoothing"] = recipe.label_smoothing  # was always part of it
    if recipe.lr_batch_size is not None:
        form["lr"] = recipe.scaled_lr
    if recipe.teacher is not None:
        form["teacher"] = teacher_digest(recipe.teacher)
    if not recipe.augmentation.mixes:
        form["augmentation"].pop("mixup_probability", None)
    for key in _unused(recipe):
        form.pop(key, None)
    return form


def _unused(recipe: Recipe) -> set[str]:
    """The keys that change nothing beside the others, or whose effect stands elsewhere."""
    unused = {"lr_batch_size"}
    if recipe.schedule != "step":
        unused |= {"step_epochs", "step_factor"}
    if recipe.schedule not in ("cosine", "linear"):
        unused.add("min_lr")
    if recipe.schedule == "one_cycle" or not recipe.warmup_epochs:
        unused.add("warmup_lr")
    if recipe.teacher is None:
        unused |= {"distillation", "distillation_weight"}
    if recipe.teacher is None or recipe.distillation == "hard":
        unused.add("distillation_temperature")
    return unused


def _unusual(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass that have no default, or another value."""
    form = {}
    for item in fields(settings):
        value = getattr(settings, item.name)
        if is_dataclass(value):
            form[item.name] = _unusual(value)
        elif item.default is MISSING or value != item.default:
            form[item.name] = value
    return form


def teacher_digest(teacher: str) -> str:
    """What identifies a teacher: the content of its weights, or its name in timm.

    Raises:
        PfstudyError: Its weights cannot be read.
    """
    if teacher.startswith(OF_TIMM):
        return teacher
    return file_digest(str(Path(teacher, WEIGHTS)), "recipe.teacher")


def compact(value: Any) -> Any:
    """Leave out what is ``None`` or empty, in dicts, at any depth."""
    if isinstance(value, Mapping):
        items = {str(key): compact(item) for key, item in value.items()}
        return {key: item for key, item in items.items() if item not in (None, {}, [], ())}
    if isinstance(value, list | tuple):
        return [compact(item) for item in value]
    return value
