"""Records as runs leave them, made by hand."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pfstudy.files import write_json

Record = dict[str, Any]

SETTING = {
    "device": "Some CPU",
    "host": "here",
    "batch_size": 1,
    "layout": "contiguous",
    "dtype": "float32",
    "backend": "eager",
    "num_threads": 1,
}
TRAINING = {
    "epochs": 15,
    "effective_batch_size": 64,
    "world_size": 1,
    "num_threads": 1,
    "precision": "32-true",
}
ENVIRONMENT = {
    "host": "here",
    "cpu_model": "Some CPU",
    "device": "cpu",
    "git": {"commit": "1a2b3c4d5e6f", "dirty": False},
    "versions": {"pfstudy": "0.1.0", "torch": "2.7.0", "lightning": "2.5.0", "timm": "1.0.15"},
}


def make_record(
    label: str = "original",
    accuracy: float = 97.0,
    *,
    family: str = "base",
    model: str = "resnet_digits",
    lr: float = 0.1,
    seed: int = 0,
    speed: tuple[float, float] | None = None,
    num_projected_sites: int = 0,
    params: int = 1_000_000,
    macs: int = 2_000_000_000,
    **setting: Any,
) -> Record:
    """Make a record of a run of the default family, lr 0.1."""
    is_baseline = label == "original"
    canonical: Record = {
        "schema": 1,
        "backbone": {"timm": model, "args": {"layers": [len(model)]}},
        "recipe": {"lr": lr, "epochs": 15, "batch_size": 64},
        "data": {"fingerprint": "0123456789abcdef", "num_test": 500},
        "precision": "32-true",
    }
    if not is_baseline:
        canonical["sites"] = {"layer1.0.conv2": {"operation": label}}
    measured = {}
    if speed is not None:
        measured = {"latency_ms": speed[0], "relative_latency": speed[1]}
        measured["baseline_latency_ms"] = speed[0] / speed[1]
    return {
        "schema_version": 1,
        "identity": {
            "hash": family if is_baseline else f"{family}-{label}",
            "baseline": family,
            "canonical": canonical,
        },
        "variant": {
            "model": model,
            "label": label,
            "is_baseline": is_baseline,
            "original": "conv",
        },
        "seed": seed,
        "data": "digits",
        "recipe": "digits",
        "training": dict(TRAINING),
        "environment": copy.deepcopy(ENVIRONMENT),
        "metrics": {"test_top1_percent": accuracy},
        "cost": {
            "params": params,
            "macs": macs,
            "num_projected_sites": num_projected_sites,
        },
        "speed": [{**SETTING, **setting, **measured}] if measured else [],
    }


def leave_records(directory: str | Path, *records: Record) -> list[str]:
    """Leave records and measurements as runs do, and return the run directories."""
    members = []
    for record in records:
        variant = Path(directory, f"slug-{record['identity']['hash']}")
        run = variant / f"seed{record['seed']}"
        written = {key: value for key, value in record.items() if key != "speed"}
        write_json(run / "record.json", written)
        for number, measured in enumerate(record["speed"]):
            write_json(variant / "speed" / f"{number}.json", measured)
        members.append(str(run.relative_to(directory)))
    return members


def leave_predictions(run: str | Path, right: np.ndarray) -> None:
    """Leave which of two classes a run said of test images, ``right`` of which were."""
    logits = np.column_stack([right, ~right]).astype(np.float32)
    np.savez(Path(run) / "predictions.npz", labels=np.zeros(len(right), int), logits=logits)


def leave_study(
    directory: str | Path, rights: Mapping[str, np.ndarray], **settings: Any
) -> list[str]:
    """Leave a study of which test images each variant has right, ``(S, N)``, ``original`` first.

    Each variant replaces the layer of a place of its own, so that effects are differences.
    """
    places = [f"stage1.block{number}" for number in range(1, len(rights))]
    members = []
    for index, (label, right_SN) in enumerate(rights.items()):
        stands = {place: label if n == index - 1 else "original" for n, place in enumerate(places)}
        for seed, right_N in enumerate(right_SN):
            record = make_record(label, 100 * float(right_N.mean()), seed=seed, **settings)
            record["variant"]["operations"] = stands
            record["identity"]["canonical"]["data"]["num_test"] = len(right_N)
            (member,) = leave_records(directory, record)
            leave_predictions(Path(directory, member), right_N)
            members.append(member)
    return members


def draw_study(
    seed: int = 0, *, num_seeds: int = 3, num_images: int = 400, **losses: float
) -> dict[str, np.ndarray]:
    """Draw which images variants have right, each with a share that it loses of the original's."""
    generator = np.random.default_rng(seed)
    hard_N = generator.random(num_images) < 0.1
    found = {}
    for label, loss in {"original": 0.0, **losses}.items():
        lost_SN = (generator.random(num_images) < loss) ^ (
            generator.random((num_seeds, num_images)) < 0.01
        )
        found[label] = ~(hard_N | lost_SN)
    return found
