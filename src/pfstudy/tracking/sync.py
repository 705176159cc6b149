"""What was logged offline, or lost, goes to W&B afterwards."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from pfstudy.errors import PfstudyError, first_line
from pfstudy.files import read_json
from pfstudy.schema.config import Logger
from pfstudy.tracking.reading import RECORD_KEY
from pfstudy.tracking.runs import LOST, Tracker, choose_mode
from pfstudy.variant import unflatten

_METRICS = "metrics.csv"
_SYNCED = ".synced"


@dataclass(frozen=True)
class Pending:
    """What W&B does not know of a run.

    Attributes:
        directory: The run directory.
        offline: Directories of attempts that were logged offline, and not uploaded yet.
        is_lost: Whether tracking was lost, though the run is done.
    """

    directory: Path
    offline: tuple[Path, ...] = ()
    is_lost: bool = False


@dataclass
class Synced:
    """What became of it.

    Attributes:
        uploaded: Attempts that were uploaded.
        logged: Runs that were logged anew from their files.
        failed: Why not, by directory.
    """

    uploaded: list[Path] = field(default_factory=list)
    logged: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def find_pending(directories: Iterable[Path]) -> list[Pending]:
    """Find the runs of which W&B does not know everything."""
    found = []
    for directory in directories:
        attempts = sorted((directory / "wandb").glob("offline-run-*"))
        offline = tuple(path for path in attempts if not list(path.glob(f"*{_SYNCED}")))
        is_lost = (directory / LOST).exists() and (directory / "record.json").exists()
        if offline or is_lost:
            found.append(Pending(directory, offline, is_lost))
    return found


def sync(
    pending: Sequence[Pending],
    groups: Mapping[Path, str],
    say: Callable[[str], None] = lambda text: None,
) -> Synced:
    """Upload what was logged offline, and log anew what was lost.

    Args:
        pending: As `find_pending` gives it.
        groups: The study of each run, by its directory.
        say: Told of each that is done.

    Raises:
        PfstudyError: Nobody is logged in.
    """
    if choose_mode(Logger("wandb")) != "online":
        raise PfstudyError("nobody is logged in to W&B; run `wandb login`, then pfstudy sync.")
    done = Synced()
    for number, run in enumerate(pending, 1):
        say(f"{number} of {len(pending)}: {run.directory}")
        for path in run.offline:
            reason = _upload(path)
            if reason is None:
                done.uploaded.append(path)
            else:
                done.failed[path] = reason
        if run.is_lost:
            reason = _log_anew(run.directory, groups.get(run.directory, ""))
            if reason is None:
                (run.directory / LOST).unlink()
                done.logged.append(run.directory)
            else:
                done.failed[run.directory] = reason
    return done


def _upload(path: Path) -> str | None:
    """Upload one attempt by W&B's own command; why not, if it does not work."""
    command = [sys.executable, "-m", "wandb", "sync", "--yes", str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if list(path.glob(f"*{_SYNCED}")):  # its exit code does not tell
        return None
    lines = [line for line in (ended.stderr + ended.stdout).splitlines() if line.strip()]
    return lines[-1] if lines else "wandb sync says nothing"


def _log_anew(directory: Path, group: str) -> str | None:
    """Log a run from its files; why not, if it does not work."""
    said: list[str] = []
    written, record = read_json(directory / "config.json"), read_json(directory / "record.json")
    config, identity = written["config"], written["identity"]
    logger = Logger(**{**config["logger"], "mode": "online"})
    tracker = Tracker(logger, "online", directory, said.append)
    name = f"{identity['hash']}-{identity['seed']}-0-{uuid4().hex[:6]}"
    variant = record["variant"]
    config = {**config, "seed": identity["seed"], "label": variant["label"]}
    config["operations"] = unflatten(variant["operations"])
    tracker.start(name, f"{directory.parent.name}-{directory.name}", group, config)
    for row in _rows(directory / _METRICS):
        tracker.log(row, step=int(row["epoch"]))
    cost = {key: record["cost"][key] for key in ("params", "macs")}
    tracker.summarise({**record["metrics"], **cost, RECORD_KEY: json.dumps(record)})
    tracker.finish(0)
    return first_line(PfstudyError(said[0])) if said else None


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
            if row.get("epoch")
        ]
