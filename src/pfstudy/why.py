"""Why two runs are not the same one, and why a run is trained or skipped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pfstudy import ledger
from pfstudy.errors import PfstudyError
from pfstudy.files import read_json
from pfstudy.identity import RULES, current_form, unverified
from pfstudy.inventory import Description, describe, find_runs, is_run, shorten
from pfstudy.schema.operations import ORIGINAL
from pfstudy.schema.sites import summary
from pfstudy.store import CONFIG, RESUME
from pfstudy.tuning import is_trial
from pfstudy.variant import flatten

Action = Literal["trained", "skipped", "left"]

_SITES = "sites"
_MEASURED = ("seconds", "images_per_second", "test_seconds")
_DOUBTS = {
    "data": "It is identified by an older rule: the names and sizes of its images, not their "
    "content.",
    "source": "Its own operations are identified by an older rule, which followed fewer imports.",
}
_IN_IDENTITY = ("epochs", "effective_batch_size", "precision")
_MOST_DIFFERENCES = 4


@dataclass(frozen=True)
class Difference:
    """A value in which two runs differ.

    Attributes:
        key: Dotted key, such as ``recipe.lr``; the address of a site, ``stage2.block1``, for the
            operation there; ``seed``.
        left: The value of the first one; ``None`` where it has none.
        right: The value of the second one.
    """

    key: str
    left: Any
    right: Any


@dataclass(frozen=True)
class Comparison:
    """What two runs do not share.

    Attributes:
        left: The first one.
        right: The second one.
        relation: What they are to each other, in a few words.
        differences: What makes them differ.
        recorded: What their records say of training and environment that differs, but is no part
            of the identity; ``None`` unless both have a record.
    """

    left: Description
    right: Description
    relation: str
    differences: tuple[Difference, ...]
    recorded: tuple[Difference, ...] | None


@dataclass(frozen=True)
class Verdict:
    """What would be done with a run that is asked for now.

    Attributes:
        directory: Its directory, which need not exist.
        state: Its state by the ledger, or ``new``.
        action: It is ``trained``, ``skipped``, or ``left`` to the process that trains it.
        reason: Why, in a sentence.
        nearest: Of a new run, the run that differs least from it.
        differences: From ``nearest``, which stands on the left.
    """

    directory: Path
    state: str
    action: Action
    reason: str
    nearest: Path | None = None
    differences: tuple[Difference, ...] = ()


def compare(left: Path, right: Path) -> Comparison:
    """Find out what makes two runs, or two variants, differ.

    Args:
        left: Directory of a run, or of a variant, whose seeds then do not matter.
        right: Likewise.

    Raises:
        PfstudyError: One is no such directory, or its config cannot be read.
    """
    are_runs = is_run(left) and is_run(right)
    first, second = _representative(left), _representative(right)
    differences = list_differences(first, second)
    if are_runs and first.seed != second.seed:
        differences += (Difference("seed", first.seed, second.seed),)
    return Comparison(
        first,
        second,
        _relation(first, second, are_runs=are_runs),
        differences,
        _compare_records(first.directory, second.directory),
    )


def list_differences(left: Description, right: Description) -> tuple[Difference, ...]:
    """List the keys of two canonical forms whose values differ; seeds are none of them.

    Sites come first, by address. A site that stays as the backbone has it differs from none that
    the other backbone lacks.
    """
    if left.hash == right.hash:
        return ()
    left, right = _by_the_same_rules(left, right)
    found = tuple(_differing_sites(left, right)) + tuple(_unequal(left.settings, right.settings))
    return found or tuple(_unequal(flatten(left.canonical), flatten(right.canonical)))


def explain(directory: Path, asked: Description | None = None) -> Verdict:
    """Say what would be done with a run that exists, if it were asked for now.

    Args:
        directory: The run directory.
        asked: The run as it is asked for, where that is known.

    Raises:
        PfstudyError: Its state is damaged.
    """
    status = ledger.read_status(directory)
    doubts = "" if asked is not None and asked.rules >= RULES else _doubts(directory)
    if status.state == "done":
        return Verdict(directory, "done", "skipped", _done(directory) + doubts)
    if status.state == "running":
        return Verdict(directory, "running", "left", _running(status))
    if status.state == "pending":
        return Verdict(directory, "pending", "trained", "it has not begun yet")
    reason = f"{_ended(directory, status)}; {_beginning(directory, status)}{doubts}"
    return Verdict(directory, status.state, "trained", reason)


def foresee(run: Description, known: Sequence[Description]) -> Verdict:
    """Say what would be done with a run that is asked for now.

    Args:
        run: The run.
        known: The runs that exist, to name the nearest one if this is new.

    Raises:
        PfstudyError: Its state is damaged.
    """
    if is_run(run.directory):
        return explain(run.directory, run)
    if not known:
        return Verdict(run.directory, "new", "trained", "new: there are no other runs")
    variants = {other.hash: other for other in known}
    found = {key: list_differences(other, run) for key, other in variants.items()}
    nearest = min(
        known, key=lambda other: (len(found[other.hash]), other.seed != run.seed, other.seed)
    )
    differences = found[nearest.hash]
    if nearest.seed != run.seed:
        differences += (Difference("seed", nearest.seed, run.seed),)
    reason = f"new: differs from {nearest.directory} in {in_words(differences)}"
    return Verdict(run.directory, "new", "trained", reason, nearest.directory, differences)


def describe_all(root: Path) -> list[Description]:
    """Describe all runs in a directory of runs whose config can be read; none if there is none."""
    found = []
    for directory in find_runs(root) if root.is_dir() else []:
        try:
            found.append(describe(directory))
        except PfstudyError:
            continue
    return found


def how_it_ended(status: ledger.Status) -> str | None:
    """Say why a run failed or was interrupted; ``None`` for any other."""
    if status.state not in ("failed", "interrupted"):
        return None
    written = status.written
    if written.get("attempt", 0) == status.attempt and written.get("state") == status.state:
        return str(written.get("reason") or "for an unknown reason")
    if written.get("state") == "done":
        return "its record is gone"
    return "its process is gone"


def group_sites(differences: Sequence[Difference]) -> list[Difference]:
    """Take sites together that differ in the same way: ``stage1.block1-3, stage2.block1``."""
    groups: dict[tuple[Any, Any], list[str]] = {}
    for each in differences:
        if _is_site(each.key):
            groups.setdefault((each.left, each.right), []).append(each.key)
    grouped = [Difference(summary(keys), *values) for values, keys in groups.items()]
    return grouped + [each for each in differences if not _is_site(each.key)]


def in_words(differences: Sequence[Difference]) -> str:
    """Name differences in a sentence: ``recipe.lr: 0.1 there, 0.2 here``."""
    grouped = group_sites(differences)
    parts = [f"{d.key}: {_written(d.left)} there, {_written(d.right)} here" for d in grouped]
    if len(parts) > _MOST_DIFFERENCES:
        shown = _MOST_DIFFERENCES - 1
        parts = [*parts[:shown], f"{len(parts) - shown} more"]
    return "; ".join(parts)


def _by_the_same_rules(left: Description, right: Description) -> tuple[Description, ...]:
    """Replace digests by older rules where either of two runs says by what."""
    replaces = {**left.replaces, **right.replaces}
    return tuple(
        replace(each, canonical=current_form(each.canonical, replaces)) if replaces else each
        for each in (left, right)
    )


def _differing_sites(left: Description, right: Description) -> Iterator[Difference]:
    for address in dict.fromkeys([*left.operations, *right.operations]):
        first, second = left.operations.get(address), right.operations.get(address)
        if {first, second} <= {None, ORIGINAL}:
            continue
        if first != second:
            yield Difference(address, first, second)
        elif left.layers[address] == right.layers[address]:
            entries = [flatten(run.canonical[_SITES][run.layers[address]]) for run in (left, right)]
            yield from (replace(d, key=f"{address}.{d.key}") for d in _unequal(*entries))


def _unequal(left: Mapping[str, Any], right: Mapping[str, Any]) -> Iterator[Difference]:
    for key in dict.fromkeys([*left, *right]):
        if left.get(key) != right.get(key):
            yield Difference(key, left.get(key), right.get(key))


def _representative(directory: Path) -> Description:
    """The run of a directory; of a variant's seeds, one that is done if there is any."""
    runs = find_runs(directory)
    if not runs or any(directory not in (run, run.parent) for run in runs):
        raise PfstudyError(f"{directory} is no directory of a run or of a variant.")
    return describe(next((run for run in runs if (run / ledger.RECORD).exists()), runs[0]))


def _relation(left: Description, right: Description, *, are_runs: bool) -> str:
    if left.hash != right.hash:
        first, second = _by_the_same_rules(left, right)
        if first.canonical == second.canonical:
            return "the same variant, which one of them identifies by an older rule"
        return "two variants"
    if not are_runs:
        return "the same variant"
    if left.seed != right.seed:
        return f"the same variant, seeds {left.seed} and {right.seed}"
    same = left.directory.resolve() == right.directory.resolve()
    return "the same run" if same else "the same run, in two directories"


def _compare_records(left: Path, right: Path) -> tuple[Difference, ...] | None:
    paths = [directory / ledger.RECORD for directory in (left, right)]
    if not all(path.exists() for path in paths):
        return None
    return tuple(_unequal(*(_recorded(read_json(path)) for path in paths)))


def _recorded(record: Mapping[str, Any]) -> dict[str, Any]:
    """How and where a run was trained, without what was measured or is part of its identity."""
    training = {
        key: value
        for key, value in record.get("training", {}).items()
        if key not in (*_MEASURED, *_IN_IDENTITY)
    }
    return flatten({**record.get("environment", {}), **training})


def _done(directory: Path) -> str:
    path = directory / ledger.RECORD
    accuracy = read_json(path).get("metrics", {}).get("test_top1_percent")
    if is_trial(directory):  # older ones were tested
        accuracy = None
    known = "" if accuracy is None else f", test accuracy {accuracy:.2f} %"
    return f"done since {_time_of(path)}{known}"


def _doubts(directory: Path) -> str:
    """What of a run is identified by older rules, and what to do about that."""
    written = read_json(directory / CONFIG, missing_ok=True)
    if "canonical" not in written.get("identity", {}):
        return ""
    data = written.get("config", {}).get("data", {}).get("name")
    doubts = unverified({"identity": written["identity"], "data": data})
    if not doubts:
        return ""
    sentences = [text for what, text in _DOUBTS.items() if what in doubts]
    cure = f"To train it on what is there now: pfstudy forget {directory.parent}"
    return f". {' '.join(sentences)} {cure}"


def _running(status: ledger.Status) -> str:
    written = status.written if status.written.get("attempt") == status.attempt else {}
    place = f"process {written.get('pid', '?')} on {written.get('host', 'another host')}"
    return f"{place} trains it" + (f", {_epochs(written)}" if "epoch" in written else "")


def _ended(directory: Path, status: ledger.Status) -> str:
    log, kind = directory / "run.log", status.written.get("kind", "error")
    verb = "failed" if status.state == "failed" else "was interrupted"
    if status.state == "failed" and kind != "error":
        verb += f" ({kind})"
    where = f" (log: {log})" if status.state == "failed" and log.exists() else ""
    attempt = f"attempt {status.attempt}" if status.attempt else "it"
    return f"{attempt} {verb}: {how_it_ended(status)}{where}"


def _beginning(directory: Path, status: ledger.Status) -> str:
    """Say from where a run that was begun before goes on."""
    checkpoint = directory / RESUME
    if not checkpoint.exists():
        return "it begins anew"
    known = f", {_epochs(status.written)}" if "epoch" in status.written else ""
    return f"it goes on from its checkpoint of {_time_of(checkpoint)}{known}"


def _epochs(written: Mapping[str, Any]) -> str:
    return f"{written['epoch']} of {written.get('num_epochs', '?')} epochs had ended"


def _written(value: Any) -> str:
    return "not set" if value is None else shorten(value)


def _time_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime).strftime("%Y-%m-%d %H:%M")


def _is_site(key: str) -> bool:
    return re.fullmatch(r"stage\d+\.block\d+", key) is not None
