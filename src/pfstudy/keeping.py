"""What is kept of runs: weights that are deleted, runs that are moved aside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from pfstudy import ledger
from pfstudy.errors import DiskError, PfstudyError, unknown_name
from pfstudy.inventory import find_runs
from pfstudy.store import BEST_WEIGHTS, RESUME, RESUME_BEFORE, WEIGHTS

Keep = Literal["last", "best", "none"]

FORGOTTEN = "forgotten"

_CHECKPOINTS = (WEIGHTS, BEST_WEIGHTS, RESUME, RESUME_BEFORE)


@dataclass(frozen=True)
class Pruning:
    """What is deleted of finished runs.

    Attributes:
        num_bytes: Size of every file that is deleted.
        runs: The run that each of them belongs to.
        unfinished: Runs that are not done, and left alone.
        keeping_other: Runs without the weights that were to be kept, which keep those they have.
    """

    num_bytes: dict[Path, int] = field(default_factory=dict)
    runs: dict[Path, Path] = field(default_factory=dict)
    unfinished: list[Path] = field(default_factory=list)
    keeping_other: list[Path] = field(default_factory=list)


def parse_keep(text: str) -> Keep:
    """Parse which weights to keep.

    Raises:
        PfstudyError: It is none of ``last``, ``best`` and ``none``.
    """
    for choice in get_args(Keep):
        if text == choice:
            return cast(Keep, choice)
    raise unknown_name("--keep", text, get_args(Keep))


def plan_pruning(runs: Iterable[Path], keep: Keep) -> Pruning:
    """Find out what to delete of runs; deletes nothing.

    Files that lie outside of a run directory, behind a symbolic link, are no part of it.

    Args:
        runs: Run directories.
        keep: Which weights a finished run keeps.
    """
    plan = Pruning()
    for run in runs:
        if not _is_done(run):
            plan.unfinished.append(run)
            continue
        found = dict(_checkpoints(run))
        kept = {"last": WEIGHTS, "best": BEST_WEIGHTS}.get(keep)
        other = {"last": BEST_WEIGHTS, "best": WEIGHTS}.get(keep)
        if kept is not None and kept not in found:
            kept = other
            if other in found:
                plan.keeping_other.append(run)
        for name, path in found.items():
            if name != kept:
                plan.num_bytes[path] = path.lstat().st_size
                plan.runs[path] = run
    return plan


def prune(plan: Pruning) -> list[Path]:
    """Delete what is planned of the runs that are still done.

    Returns:
        The files that were deleted.

    Raises:
        DiskError: A file cannot be deleted.
    """
    deleted = []
    for path, run in plan.runs.items():
        if not _is_done(run):  # forgotten meanwhile, and begun anew
            continue
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise DiskError(f"{path} cannot be deleted: {error.strerror}.") from None
        deleted.append(path)
    return deleted


@dataclass(frozen=True)
class Move:
    """A run directory that is moved aside.

    Attributes:
        source: Where it is.
        target: Where it will be.
    """

    source: Path
    target: Path


def plan_forgetting(directory: Path) -> list[Move]:
    """Find out what is moved where to forget a run, or all seeds of a variant; moves nothing.

    Raises:
        PfstudyError: It is no such directory, a run is being trained, or is forgotten already.
    """
    runs = find_runs(_named(directory))
    if not runs or any(_named(directory) not in (run, run.parent) for run in runs):
        raise PfstudyError(f"{directory} is no directory of a run or of a variant.")
    root = runs[0].parent.parent
    if root.name == FORGOTTEN:
        raise PfstudyError(f"{directory} is forgotten already.")
    for run in runs:
        status = ledger.read_status(run)
        if status.state == "running":
            written = status.written
            raise PfstudyError(
                f"{run} is being trained (process {written.get('pid', '?')} on "
                f"{written.get('host', 'another host')}); stop it first."
            )
    return [Move(run, _free(root / FORGOTTEN / run.parent.name / run.name)) for run in runs]


def forget(moves: Iterable[Move]) -> None:
    """Move runs aside.

    Raises:
        PfstudyError: A run is being trained by now, or cannot be moved.
    """
    for move in moves:
        if ledger.state_of(move.source) == "running":
            raise PfstudyError(f"{move.source} is being trained by now; stop it first.")
        try:
            move.target.parent.mkdir(parents=True, exist_ok=True)
            move.source.rename(move.target)
        except OSError as error:
            raise DiskError(
                f"{move.source} cannot be moved to {move.target}: {error.strerror}."
            ) from None
        with suppress(OSError):  # other seeds are there, or measurements
            move.source.parent.rmdir()


def _is_done(run: Path) -> bool:
    try:
        return ledger.state_of(run) == "done"
    except PfstudyError:  # damaged; who knows
        return False


def _checkpoints(run: Path) -> Iterator[tuple[str, Path]]:
    """The checkpoints in a run directory, and what is left of half-written ones, by their names."""
    for name in _CHECKPOINTS:
        path = run / name
        if path.parent.is_symlink():
            return
        for file in (path, *path.parent.glob(f".{path.name}.draft*")):
            if file.is_file() and not file.is_symlink():
                yield str(file.relative_to(run)), file


def _named(directory: Path) -> Path:
    """The path of a directory, with names for all that ``.`` and ``..`` stand for."""
    absolute = directory.absolute()
    return absolute.resolve() if ".." in absolute.parts else absolute


def _free(target: Path) -> Path:
    number, free = 1, target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.name}.{number}")
    return free
