"""Published figures of the paper's networks, to be set beside ours.

Han et al., Learning Features with Parameter-Free Layers, ICLR 2022; from the README of its code.
Times are the authors' on their GPU, relative to ResNet-50; those of "+" networks, trained for more
epochs, are of the same networks. Accuracy depends on the recipe, so it is compared only where the
settings were published and are those of the record.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Training = Literal["plain", "longer", "cutmix", "deit"]


@dataclass(frozen=True)
class Published:
    """What was published of a network and a training.

    Attributes:
        name: As the paper calls it.
        params: Parameters, by which the network is known again, with the MACs.
        macs: Multiply-accumulates.
        training: How it was trained.
        recipe: Our recipe with the published settings; ``None`` where they were not published.
        top1_percent: On ImageNet.
        top5_percent: On ImageNet.
        relative_latency: Time relative to that of ResNet-50.
    """

    name: str
    params: int
    macs: int
    training: Training
    recipe: str | None
    top1_percent: float
    top5_percent: float | None = None
    relative_latency: float | None = None


_R50 = (25_557_032, 4_089_184_256)
_R50_MAX = (14_232_232, 2_239_496_192)
_R50_HYBRID = (17_330_600, 2_586_312_704)
_VIT_S_MAX = (23_819_368, 4_743_822_336)
_PIT_S_MAX = (25_119_784, 2_813_372_640)
_MAX_TIME, _HYBRID_TIME = 6.8 / 8.7, 7.3 / 8.7

PUBLISHED = (
    Published("R50", *_R50, "plain", "r50_90ep", 76.2, 93.8, 1.0),
    Published("R50-max", *_R50_MAX, "plain", "r50_90ep", 74.3, 92.0, _MAX_TIME),
    Published("R50-hybrid", *_R50_HYBRID, "plain", "r50_90ep", 77.1, 93.1, _HYBRID_TIME),
    Published("R50-max+", *_R50_MAX, "longer", None, 75.5, 92.1, _MAX_TIME),
    Published("R50-hybrid+", *_R50_HYBRID, "longer", None, 78.0, 93.5, _HYBRID_TIME),
    Published("R50 with CutMix", *_R50, "cutmix", None, 77.6, relative_latency=1.0),
    Published("R50", *_R50, "deit", "deit_300ep", 78.8, relative_latency=1.0),
    Published("ViT-S-max", *_VIT_S_MAX, "plain", None, 74.2),
    Published("ViT-S-max with CutMix", *_VIT_S_MAX, "cutmix", None, 77.3),
    Published("ViT-S-max", *_VIT_S_MAX, "deit", "deit_300ep", 80.0),
    Published("PiT-S-max", *_PIT_S_MAX, "plain", None, 75.7),
    Published("PiT-S-max with CutMix", *_PIT_S_MAX, "cutmix", None, 78.1),
    Published("PiT-S-max", *_PIT_S_MAX, "deit", "deit_300ep", 80.8),
)

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "r50_90ep": {
        "epochs": 90,
        "batch_size": 1024,
        "lr": 0.2,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "schedule": "step",
        "warmup_epochs": 3.0,
        "optimizer": "momentum",
        "step_epochs": 30,
        "label_smoothing": 0.0,
    },
    "deit_300ep": {
        "epochs": 300,
        "batch_size": 1024,
        "lr": 1e-3,
        "momentum": 0.9,
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_epochs": 5.0,
        "label_smoothing": 0.1,
        "optimizer": "adamw",
        "decay_all": False,
        "min_lr": 1e-5,
        "warmup_lr": 1e-6,
        "drop_path": 0.1,
        "augmentation": {
            "random_augment": "rand-m9-mstd0.5-inc1",
            "random_erasing": 0.25,
            "mixup": 0.8,
            "cutmix": 1.0,
            "repeats": 3,
        },
    },
}
"""The published settings, in the canonical form that a record has of its recipe."""

KEYS = ("published", "published_top1_percent", "published_top5_percent", "published_latency")

_LONGER = "r50_long"
_SCALED = ("lr", "batch_size")


def published_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """What was published of the network of a record; ``None`` each where nothing was.

    Where it was trained in another way, or the settings were not published, ``published`` says so
    and there are no accuracies; the time does not depend on that.
    """
    cost = record["cost"]
    size = (cost["params"], cost["macs"])
    of_network = [each for each in PUBLISHED if (each.params, each.macs) == size]
    if not of_network:
        return dict.fromkeys(KEYS)
    recipe, training = _training_of(record)
    found = next((each for each in of_network if each.training == training), None)
    values: tuple[Any, ...]
    if found is None:
        values = (f"{of_network[0].name} (trained in other ways)", None, None)
    elif found.recipe is None or found.recipe != recipe:
        values = (f"{found.name} ({found.top1_percent} %, settings not published)", None, None)
    else:
        values = (found.name, found.top1_percent, found.top5_percent)
    return dict(zip(KEYS, (*values, of_network[0].relative_latency), strict=True))


def _training_of(record: Mapping[str, Any]) -> tuple[str | None, Training | None]:
    """The recipe of which a record has the published settings, and which training it is."""
    form = record["identity"]["canonical"].get("recipe", {})
    recipe = next((name for name, known in RECIPES.items() if _is_same(form, known)), None)
    if recipe is not None:
        return recipe, "plain" if recipe == "r50_90ep" else "deit"
    if record["recipe"] == _LONGER:
        return None, "longer"
    augmentation = form.get("augmentation", {})
    if augmentation.get("cutmix") and not augmentation.get("mixup"):
        return None, "cutmix"
    return None, None


def _is_same(form: Mapping[str, Any], known: Mapping[str, Any]) -> bool:
    """Whether settings are the same but for a batch size by which the learning rate is scaled."""
    if not all(isinstance(form.get(key), int | float) for key in _SCALED):
        return False
    rest = {key: value for key, value in form.items() if key not in _SCALED}
    rates = [each["lr"] / each["batch_size"] for each in (form, known)]
    return math.isclose(*rates) and rest == {k: v for k, v in known.items() if k not in _SCALED}
