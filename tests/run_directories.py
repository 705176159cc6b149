"""Run directories as runs leave them, made by hand."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import variant_of
from pfstudy import files, ledger, store

ENVIRONMENT = {
    "host": "here",
    "versions": {"torch": "2.8.0", "pfstudy": "0.1.0"},
    "git": {"commit": "0123abcd", "dirty": False},
    "device": "cpu",
    "cpu_model": "Some CPU",
}
TRAINING = {
    "seconds": 1.5,
    "images_per_second": 1000.0,
    "test_seconds": 0.1,
    "epochs": 15,
    "effective_batch_size": 64,
    "precision": "32-true",
    "world_size": 1,
    "num_threads": 1,
}


def write_run(
    root: Path, *overrides: str, seed: int = 0, state: ledger.State = "pending", **written: Any
) -> Path:
    """Make the directory of a run in a state, with what ``state.json`` says besides.

    Args:
        root: Directory of the run directories.
        overrides: What the variant is.
        seed: The seed.
        state: The state; one that is running is so in this process.
        written: Progress, reason, kind, ...

    Returns:
        The run directory.
    """
    variant = variant_of(*overrides)
    directory = root / f"{variant.slug}-{variant.hash}" / f"seed{seed}"
    store.prepare(store.Run(variant, seed, directory))
    if state == "pending":
        return directory
    claimed = ledger.claim(directory)
    assert claimed is not None
    claimed.write(**written)
    if state == "done":
        write_record(directory)
    if state != "running":
        claimed.end(state)
    return directory


def write_record(
    directory: Path,
    accuracy: float = 95.25,
    *,
    training: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> None:
    """Write the record of a run."""
    written = files.read_json(directory / store.CONFIG)
    identity = written["identity"]
    record = {
        "schema_version": 1,
        "identity": identity,
        "variant": {
            "model": written["config"]["model"]["name"],
            "label": identity["hash"],
            "is_baseline": identity["hash"] == identity["baseline"],
            "original": "conv",
        },
        "seed": identity["seed"],
        "data": written["config"]["data"]["name"],
        "recipe": written["config"]["recipe"]["name"],
        "metrics": {"test_top1_percent": accuracy},
        "cost": {"params": 1, "macs": 1, "num_projected_sites": 0},
        "training": TRAINING | (training or {}),
        "environment": ENVIRONMENT | (environment or {}),
    }
    files.write_json(directory / ledger.RECORD, record)


def old_run(root: Path, *overrides: str, seed: int = 0, **changes: int) -> Path:
    """A finished run whose record says nothing of the version of its counting."""
    from pfstudy.complexity import variant_cost

    run = write_run(root, *overrides, seed=seed, state="done")
    record = files.read_json(run / ledger.RECORD)
    counted = asdict(variant_cost(variant_of(*overrides)))
    outdated = {"activations": 1, "memory_traffic_bytes": 1}
    record["cost"] |= {**counted, **outdated, **changes}
    files.write_json(run / ledger.RECORD, record)
    return run


def edit_owner(directory: Path, attempt: int = 1, **changes: Any) -> None:
    """Change who has claimed an attempt."""
    path = directory / ledger.ATTEMPTS / f"{attempt}.json"
    path.write_text(json.dumps(files.read_json(path) | changes))


def let_owner_vanish(directory: Path, attempt: int = 1) -> None:
    """Make the process that has claimed an attempt one that is gone."""
    edit_owner(directory, attempt, pid_started=1)


def let_age(directory: Path, seconds: float) -> None:
    """Set the last heartbeat back."""
    for path in (directory / ledger.STATE, *(directory / ledger.ATTEMPTS).iterdir()):
        then = path.stat().st_mtime - seconds
        os.utime(path, (then, then))


def write_weights(directory: Path, *names: str, num_bytes: int = 1000) -> None:
    """Write checkpoints, which nobody could load."""
    (directory / "checkpoints").mkdir(exist_ok=True)
    for name in names:
        (directory / "checkpoints" / name).write_bytes(b"x" * num_bytes)
