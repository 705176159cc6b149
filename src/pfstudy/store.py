"""Run directories: where a run leaves its files, its state and its record.

runs/SLUG-HASH/seed0/      config.json, state.json, record.json, metrics.csv, ...
runs/SLUG-HASH/speed/      measurements of the variant, which do not depend on a seed
runs/studies/NAME.json     the members of a study
"""

from __future__ import annotations

import json
import os
import re
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import yaml
from filelock import FileLock

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.config import config_tree
from pfstudy.schema.imports import locate
from pfstudy.variant import SCHEMA_VERSION, Variant

State = Literal["pending", "running", "done", "failed", "interrupted"]

CONFIG = "config.json"
RECORD = "record.json"
STATE = "state.json"
STUDIES = "studies"
WEIGHTS = "checkpoints/last.safetensors"


@dataclass(frozen=True)
class Run:
    """A variant with one seed, and its directory.

    Attributes:
        variant: What is trained.
        seed: With which seed.
        directory: Where it leaves its files.
    """

    variant: Variant
    seed: int
    directory: Path


def make_run(variant: Variant, seed: int) -> Run:
    """Find the directory of a run; writes nothing."""
    return Run(variant, seed, variant_directory(variant) / f"seed{seed}")


def variant_directory(variant: Variant) -> Path:
    """Find the directory of a variant by its identity, whatever it was called before."""
    root = Path(variant.config.runs_dir)
    usual = root / f"{variant.slug}-{variant.hash}"
    if usual.is_dir() or not root.is_dir():
        return usual
    return _directories_by_hash(root, root.stat().st_mtime_ns).get(variant.hash, usual)


@lru_cache(maxsize=1)
def _directories_by_hash(root: Path, changed_ns: int) -> dict[str, Path]:
    """The variants' directories; ``changed_ns`` makes a new listing whenever one was made."""
    del changed_ns
    return {path.name.rpartition("-")[2]: path for path in root.iterdir() if path.is_dir()}


def check_writable(root: Path) -> None:
    """Check that run directories can be made below ``root``, without making any.

    Raises:
        PfstudyError: They cannot.
    """
    here = root.absolute()
    while not here.exists():
        here = here.parent
    try:
        if not here.is_dir():
            raise NotADirectoryError(20, "Not a directory")
        tempfile.TemporaryFile(dir=here).close()
    except OSError as error:
        raise PfstudyError(
            f"runs_dir={root} cannot be written to: {here} takes no files "
            f"({error.strerror}); choose another with runs_dir=DIRECTORY."
        ) from None


def check_directory(run: Run) -> None:
    """Check that a run's directory, where it exists, belongs to the run.

    Raises:
        PfstudyError: It was written by another config, or cannot be written to.
    """
    for directory in (run.directory.parent, run.directory):
        if directory.exists() and not (directory.is_dir() and os.access(directory, os.W_OK)):
            raise PfstudyError(f"{directory} is no directory that can be written to; move it away.")
    path = run.directory / CONFIG
    if not path.exists():
        return
    written = read_json(path).get("identity", {})
    if written.get("hash") != run.variant.hash or written.get("seed") != run.seed:
        raise PfstudyError(
            f"{run.directory} was written by another config ({written.get('hash')}, seed "
            f"{written.get('seed')}); move it away or choose another runs_dir."
        )


def prepare(run: Run) -> None:
    """Make the directory of a run that is not done, and write its config.

    Paths become absolute, so that the run can be trained from any working directory.
    """
    tree = config_tree(run.variant.config)
    tree["imports"] = [locate(name) for name in run.variant.config.imports]
    for place, key in ((tree, "runs_dir"), (tree, "init_from"), (tree["data"], "path")):
        if place[key] is not None:
            place[key] = str(Path(place[key]).absolute())
    identity = {
        "schema_version": SCHEMA_VERSION,
        "hash": run.variant.hash,
        "baseline": run.variant.baseline_hash,
        "seed": run.seed,
        "canonical": run.variant.canonical,
    }
    write_json(run.directory / CONFIG, {"identity": identity, "config": tree})
    # YAML for people: tuples as plain lists.
    plain = yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False)
    write_text(run.directory / "config.yaml", plain)
    if state_of(run.directory) != "pending":
        return
    write_json(run.directory / STATE, {"state": "pending", "attempt": 0})


def state_of(directory: Path) -> State:
    """State of a run; one that says it runs in a process that is gone was interrupted."""
    if (directory / RECORD).exists():
        return "done"
    if not (directory / STATE).exists():
        return "pending"
    entry = read_json(directory / STATE)
    state: State = entry.get("state", "pending")
    if state == "done":
        return "interrupted"  # its record is gone
    if state == "running" and entry.get("host") == socket.gethostname():
        return "running" if _is_alive(entry.get("pid", 0)) else "interrupted"
    return state


def read_state(directory: Path) -> dict[str, Any]:
    """The content of ``state.json``, empty if there is none."""
    path = directory / STATE
    return read_json(path) if path.exists() else {}


def write_state(directory: Path, state: State, **details: Any) -> None:
    """Write the state of the run that this process trains, or trained."""
    attempt = details.pop("attempt", None) or read_state(directory).get("attempt", 0)
    write_json(
        directory / STATE,
        {
            "state": state,
            "attempt": attempt,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "heartbeat": time.time(),
            **details,
        },
    )


def read_records(root: Path, members: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Read the records below a directory, or of those run directories of it alone.

    Yields:
        Records, each with the measurements beside it under ``"speed"``.

    Raises:
        PfstudyError: A record is damaged or of a schema that this version does not know.
    """
    if members is None:
        directories = sorted(path.parent for path in root.glob(f"*/seed*/{RECORD}"))
    else:
        directories = [root / member for member in members]
    speeds: dict[Path, list[dict[str, Any]]] = {}
    for directory in directories:
        path = directory / RECORD
        if not path.exists():
            continue
        record = read_json(path)
        version = record.get("schema_version")
        if version != SCHEMA_VERSION:
            raise PfstudyError(
                f"{path} has schema version {version}, but this pfstudy reads {SCHEMA_VERSION}."
            )
        parent = directory.parent
        if parent not in speeds:
            speeds[parent] = read_speeds(parent)
        yield {**record, "speed": speeds[parent]}


def read_speeds(variant_dir: Path) -> list[dict[str, Any]]:
    """Read the measurements of a variant."""
    return [read_json(path) for path in sorted((variant_dir / "speed").glob("*.json"))]


def add_to_study(root: Path, name: str, runs: Sequence[Run]) -> list[str]:
    """Add runs to a study; those that it had stay.

    Returns:
        The run directories of all members, relative to ``root``.
    """
    path = root / STUDIES / f"{name}.json"
    new = [str(run.directory.relative_to(root)) for run in runs]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.with_name(".lock")).acquire()
    except OSError as error:
        raise PfstudyError(f"{path} cannot be written: {error.strerror}.") from None
    with lock:
        members = list(read_json(path)["members"]) if path.exists() else []
        members = list(dict.fromkeys([*members, *new]))
        write_json(path, {"schema_version": SCHEMA_VERSION, "name": name, "members": members})
    return members


def read_study(root: Path, name: str) -> list[str]:
    """Read the members of a study.

    Raises:
        PfstudyError: There is no such study; lists those that exist.
    """
    path = root / STUDIES / f"{name}.json"
    if not path.exists():
        raise unknown_name("study", name, sorted(p.stem for p in path.parent.glob("*.json")))
    return [str(member) for member in read_json(path)["members"]]


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        PfstudyError: It cannot be read or is damaged.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise PfstudyError(f"{path} is damaged: {error}.") from None
    if not isinstance(content, dict):
        raise PfstudyError(f"{path} is damaged: expected an object.")
    return content


def write_json(path: Path, content: Mapping[str, Any], *, durable: bool = False) -> None:
    """Write a JSON file as `write_text` does."""
    write_text(path, json.dumps(content, indent=1) + "\n", durable=durable)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part.

    Args:
        path: The file.
        text: Its content.
        durable: Whether it must be on the disk on return, and survive a power cut.

    Raises:
        PfstudyError: It cannot be written.
    """
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w") as file:
                file.write(text)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PfstudyError(f"{path} cannot be written: {error.strerror}.") from None


def file_name(text: str) -> str:
    """Make a name that any file system takes."""
    return re.sub(r"[^A-Za-z0-9=._+]+", "-", text).strip("-.").lower()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
