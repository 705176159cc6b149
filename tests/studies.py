"""A study whose truth is planted: runs, their block table, and what must come out."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from configs import variant_of
from pfstudy import files, ledger, store
from pfstudy.environment import package_version
from pfstudy.speed.blocktable import (
    BlockTable,
    HeldOut,
    backbone_of,
    save_table,
    table_path,
    what_stands,
)
from pfstudy.speed.setting import setting_of
from pfstudy.variant import Variant, label_of, make_variant
from records import ENVIRONMENT, TRAINING

Network = tuple[str, ...]

SITES = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")
OPERATIONS = ("original", "maxpool", "dwconv")
EFFECTS = {
    "maxpool": (-0.43, -1.18, -2.3, 0.2),
    "dwconv": (0.72, -0.35, -0.64, 0.09),
}
"""Points of every operation at each of the four sites."""
TIMES = {
    "original": (0.30, 0.20, 0.25, 0.15),
    "maxpool": (0.18, 0.14, 0.20, 0.06),
    "dwconv": (0.22, 0.26, 0.31, 0.10),
}
"""Shares in the backbone's time; the depthwise convolution is slower at the two sites between."""
REST = 0.1
BASELINE = 90.0

ALL: list[Network] = list(itertools.product(OPERATIONS, repeat=len(SITES)))
SINGLES: list[Network] = [("original",) * 4] + [
    tuple(name if i == place else "original" for i in range(4))
    for place in range(4)
    for name in OPERATIONS[1:]
]
COMBINED: list[Network] = [
    ("maxpool", "maxpool", "original", "dwconv"),
    ("dwconv", "original", "maxpool", "maxpool"),
    ("original", "dwconv", "dwconv", "maxpool"),
    ("maxpool", "dwconv", "original", "maxpool"),
]


def accuracy_of(network: Sequence[str]) -> float:
    """What a network truly has."""
    known = enumerate(network)
    return BASELINE + sum(EFFECTS[name][i] for i, name in known if name != "original")


def time_of(network: Sequence[str]) -> float:
    """What it takes, relative to the backbone."""
    return REST + sum(TIMES[name][i] for i, name in enumerate(network))


def best_within(latency: float) -> list[Network]:
    """All networks within a budget, the best first."""
    within = [network for network in ALL if time_of(network) <= latency + 1e-9]
    return sorted(within, key=accuracy_of, reverse=True)


def overrides_of(network: Sequence[str]) -> list[str]:
    """The overrides that place the operations."""
    pairs = zip(SITES, network, strict=True)
    return [f"block.{site}.spatial={name}" for site, name in pairs if name != "original"]


def leave_run(
    root: Path,
    *overrides: str,
    val: float | None,
    test: float = 50.0,
    seed: int = 0,
    speed: Mapping[str, Any] | None = None,
) -> str:
    """Leave what a run leaves: its config and its record. Returns its directory below the root."""
    variant = variant_of(*overrides)
    run = store.Run(variant, seed, root / f"{variant.slug}-{variant.hash}" / f"seed{seed}")
    store.prepare(run)
    files.write_json(run.directory / ledger.RECORD, record_of(variant, val, test, seed))
    if speed is not None:
        files.write_json(run.directory.parent / "speed" / "0.json", speed)
    return str(run.directory.relative_to(root))


def record_of(variant: Variant, val: float | None, test: float, seed: int = 0) -> dict[str, Any]:
    """The record of a run."""
    return {
        "schema_version": 1,
        "identity": {
            "hash": variant.hash,
            "baseline": variant.baseline_hash,
            "canonical": variant.canonical,
        },
        "variant": {
            "model": variant.config.model.name,
            "label": variant.label,
            "is_baseline": variant.is_baseline,
            "original": "conv",
            "operations": variant.operations,
        },
        "seed": seed,
        "data": variant.config.data.name,
        "recipe": variant.config.recipe.name,
        "metrics": {"test_top1_percent": test} | ({} if val is None else {"val_top1_percent": val}),
        "cost": {"params": 1, "macs": 1, "num_projected_sites": 0},
        "training": TRAINING,
        "environment": ENVIRONMENT,
    }


def leave_study(
    root: Path,
    networks: Iterable[Sequence[str]] = (*SINGLES, *COMBINED),
    num_seeds: int = 1,
    noise: float = 0.0,
    name: str = "blocks",
) -> list[str]:
    """Leave the runs of networks; their test accuracy is the reverse of what is true."""
    generator = np.random.default_rng(0)
    members = [
        leave_run(
            root,
            *overrides_of(network),
            val=accuracy_of(network) + float(generator.normal(0, noise)) if noise else
            accuracy_of(network),
            test=180 - accuracy_of(network),
            seed=seed,
        )
        for network in networks
        for seed in range(num_seeds)
    ]  # fmt: skip
    study = {"schema_version": 1, "name": name, "members": members}
    files.write_json(root / store.STUDIES / f"{name}.json", study)
    return members


def make_block_table(
    baseline: Variant | None = None,
    times: Mapping[str, Sequence[float]] = TIMES,
    *,
    error: float = 0.01,
    **setting: Any,
) -> BlockTable:
    """A block table of this host, or of another setting."""
    variant = variant_of() if baseline is None else baseline
    place = {"host": platform.node(), "device": "Some CPU", "device_kind": "cpu"}
    held_out = tuple(HeldOut(f"mixed {i}", 0.8, 0.8 * (1 + error)) for i in range(4))
    return BlockTable(
        {**place, **setting_of(variant.config.speed), **setting},
        {"versions": {"torch": package_version("torch")}},
        variant.config.model.name,
        backbone_of(variant),
        2.0,
        REST,
        {site: {name: row[i] for name, row in times.items()} for i, site in enumerate(SITES)},
        held_out,
    )


def leave_table(root: Path, table: BlockTable | None = None) -> Path:
    """Leave a block table where it is found."""
    made = make_block_table() if table is None else table
    path = table_path(root, variant_of(), made.setting)
    save_table(path, made)
    return path


def label(network: Sequence[str]) -> str:
    """What a network is called."""
    return label_of(dict(zip(SITES, network, strict=True)), variant_of().config.model)


def keys_of(network: Sequence[str]) -> dict[str, str]:
    """What a block table calls what stands at its sites."""
    sites = zip(variant_of().config.sites, network, strict=True)
    changed = tuple(replace(site, operation=name) for site, name in sites)
    return what_stands(make_variant(replace(variant_of().config, sites=changed), "content"))
