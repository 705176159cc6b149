"""Where tables come from: run directories, what was logged offline, W&B projects; merged."""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pfstudy import inventory, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.files import read_json
from pfstudy.identity import modernise
from pfstudy.record import TEST_TOP1, check_record, check_speed, without_test
from pfstudy.speed.pooling import pool
from pfstudy.speed.setting import complete_setting
from pfstudy.tuning import is_trials

WANDB = "wandb:"

DAMAGED = "damaged"
"""State of a run whose record cannot be read."""

_FAILED = ("failed", "crashed")  # the latter is W&B's word

Key = tuple[str, int]
"""Identity of a variant, and a seed."""

_NOBODY: Key = ("", -1)


@dataclass(frozen=True)
class Incomplete:
    """A run that has no record, and is in no mean.

    Attributes:
        name: For people.
        state: ``failed``, ``running``, ``interrupted``, ``pending``, ``crashed``, ``damaged``, ...
        key: Identity and seed.
        reason: Why, where that is known.
        family: Identity of the baseline, of runs that failed, where that is known.
    """

    name: str
    state: str
    key: Key
    reason: str | None = None
    family: str | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it ended, and so is an outcome of the training."""
        return self.state in _FAILED


@dataclass(frozen=True)
class Gathered:
    """What some sources have.

    Attributes:
        records: One for every identity and seed, each with its measurements of speed, and its
            directory where it has one.
        incomplete: The runs without a record.
        num_repeated: Records that another source had already.
        num_foreign: Runs of W&B that are not pfstudy's.
        refused: Sentences about records and measurements that are damaged, and left out.
    """

    records: tuple[Mapping[str, Any], ...]
    incomplete: tuple[Incomplete, ...] = ()
    num_repeated: int = 0
    num_foreign: int = 0
    refused: tuple[str, ...] = ()


def gather(
    sources: Sequence[str | Path],
    study: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Gathered:
    """Read and merge sources; a run that several have counts once.

    Args:
        sources: Directories of runs, or of what W&B logged offline, or ``wandb:ENTITY/PROJECT``.
        study: Whose members to take; ``None`` for all runs.
        say: Told what takes long, and what is damaged and left out.

    Raises:
        PfstudyError: A source cannot be read, or there is no such study in any.
    """
    parts = [_read(str(source), study, say) for source in sources]
    modern, hashes = modernise([record for part in parts for record in part.records])
    records: dict[Key, Mapping[str, Any]] = {}
    for record in modern:
        key = (record["identity"]["hash"], record["seed"])
        records[key] = _merge(records[key], record) if key in records else record
    refused = [sentence for part in parts for sentence in part.refused]
    for sentence in refused:
        say(f"left out: {sentence}")
    left: dict[Key, Incomplete] = {}
    for run in (run for part in parts for run in part.incomplete):
        key = (hashes.get(run.key[0], run.key[0]), run.key[1])
        if key not in records:
            left[key] = replace(run, key=key)
    return Gathered(
        tuple(records.values()),
        tuple(left.values()),
        sum(len(part.records) for part in parts) - len(records),
        sum(part.num_foreign for part in parts),
        tuple(refused),
    )


@contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Millions of small objects come to stay: looking through them takes longer than reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read(source: str, study: str | None, say: Callable[[str], None]) -> Gathered:
    if source.startswith(WANDB):
        from pfstudy.tracking.reading import read_project

        project = source.removeprefix(WANDB)
        say(f"reading {source}")
        return _of_wandb(project, read_project(project, study, say), is_trials(study))
    root = Path(source)
    if not root.is_dir():
        raise PfstudyError(f"there is no directory {root}; give the one that runs were made in.")
    members = None if study is None else store.read_study(root, study)
    found = _of_runs(root, members)
    if found.records or found.incomplete or found.refused or members is not None:
        return found
    from pfstudy.tracking.reading import find_offline, read_offline

    return _of_wandb(source, read_offline(find_offline(root)))


def _merge(one: Mapping[str, Any], other: Mapping[str, Any]) -> Mapping[str, Any]:
    """Make one record of a run of two: with its directory, and all measurements of speed.

    Raises:
        PfstudyError: Their accuracies differ, so they are not of one run.
    """
    name = f"{one['variant']['label']} seed{one['seed']} ({one['identity']['hash']})"
    accuracies = [record["metrics"].get(TEST_TOP1) for record in (one, other)]
    if None in accuracies:  # a trial with the settings of a run
        return other if accuracies[0] is None else one
    if accuracies[0] != accuracies[1]:
        raise PfstudyError(
            f"two sources have different results of {name}: {accuracies[0]:.2f} and "
            f"{accuracies[1]:.2f} %; leave one of them out."
        )
    kept = one if one.get("directory") else other
    speeds = [*one["speed"], *other["speed"]]
    distinct: dict[str, Mapping[str, Any]] = {}
    for measured in speeds:
        setting = str(complete_setting(measured))
        distinct[setting] = pool(distinct[setting], measured) if setting in distinct else measured
    return {**kept, "speed": list(distinct.values())}


def _of_runs(root: Path, members: Sequence[str] | None) -> Gathered:
    if members is None:
        runs = inventory.list_candidates(root)
    else:
        runs = [str(root / member) for member in members]
    refused: dict[str, list[str]] = {}
    records = tuple(
        store.read_records(runs, lambda at, why: refused.setdefault(at, []).append(why))
    )
    done = {record["directory"] for record in records}
    left = [Path(run) for run in runs if run not in done]
    if members is None:
        left = [run for run in left if str(run) in refused or inventory.is_run(run)]
    incomplete = tuple(_incomplete(left, refused))
    return Gathered(records, incomplete, refused=tuple(itertools.chain(*refused.values())))


def _incomplete(directories: Iterable[Path], damaged: Container[str]) -> Iterator[Incomplete]:
    for directory in directories:
        status = ledger.read_status(directory, lenient=True)
        reason = status.written.get("reason")
        slug, _, name = directory.parent.name.rpartition("-")
        seed = directory.name.removeprefix("seed")
        key = (name, int(seed) if seed.isdecimal() else -1)
        state = DAMAGED if str(directory) in damaged else status.state
        found = Incomplete(f"{slug}-{directory.name}", state, key)
        if state == "failed":
            family = _family_of(directory)
            found = replace(found, reason=reason, family=family)
        yield found


def _family_of(directory: Path) -> str | None:
    """Identity of the baseline of a run without a record."""
    try:
        written = read_json(directory / store.CONFIG, missing_ok=True)
    except PfstudyError:
        return None
    identity = written.get("identity")
    family = identity.get("baseline") if isinstance(identity, dict) else None
    return family if isinstance(family, str) else None


def _possible(
    speeds: Iterable[Mapping[str, Any]], name: str, refused: list[str]
) -> Iterator[Mapping[str, Any]]:
    """The measurements that are not damaged."""
    for measured in speeds:
        try:
            check_speed(measured, f"a measurement of {name}")
        except PfstudyError as error:
            refused.append(str(error))
        else:
            yield measured


def _of_wandb(project: str, logged: Iterable[Any], are_trials: bool = False) -> Gathered:
    records, incomplete, num_foreign = [], [], 0
    refused: list[str] = []
    for run in logged:
        if run.state == DAMAGED:
            refused.append(f"the record of the W&B run {run.name} is damaged.")
            incomplete.append(Incomplete(run.name, DAMAGED, run.key or _NOBODY))
        elif run.record is not None:
            record = without_test(run.record) if are_trials else run.record
            name = f"the run {run.name} of {project}"
            try:
                check_record(record, name)
            except PfstudyError as error:
                refused.append(str(error))
                incomplete.append(Incomplete(run.name, DAMAGED, run.key or _NOBODY))
            else:
                speeds = list(_possible(record.get("speed", ()), name, refused))
                records.append({**record, "speed": speeds})
        elif run.key is not None:
            state = run.state if run.state != "finished" else "without a record"
            incomplete.append(Incomplete(run.name, state, run.key))
        else:
            num_foreign += 1
    found = (tuple(records), tuple(incomplete))
    return Gathered(*found, num_foreign=num_foreign, refused=tuple(refused))
