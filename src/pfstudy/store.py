"""Run directories: where a run leaves its files, its state and its record.

runs/SLUG-HASH/seed0/      config.json, state.json, record.json, metrics.csv, ...
runs/SLUG-HASH/cost.json   its cost, where it was counted again since its runs
runs/SLUG-HASH/speed/      measurements of the variant, which do not depend on a seed
runs/studies/NAME.json     the members of a study, and when it is and was looked at
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from pfstudy import ledger
from pfstudy.canonical import OF_TIMM
from pfstudy.canonical import WEIGHTS as WEIGHTS
from pfstudy.counting import COUNTING, RECOUNTED
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.files import locked, read_json, write_json, write_text
from pfstudy.ledger import RECORD
from pfstudy.record import check_record, check_speed, is_size, without_test
from pfstudy.schema.config import config_tree
from pfstudy.schema.imports import locate
from pfstudy.tuning import is_trial
from pfstudy.variant import SCHEMA_VERSION, Variant

CONFIG = "config.json"
COST = "cost.json"
STUDIES = "studies"
METRICS = "metrics.csv"
PREDICTIONS = "predictions.npz"
BEST_WEIGHTS = "checkpoints/best.safetensors"
RESUME = "checkpoints/resume.ckpt"
RESUME_BEFORE = "checkpoints/resume.before.ckpt"

_OUTCOMES = {"done", "failed"}

Refuse = Callable[[str, str], object]
"""Told of a directory, and in a sentence what is wrong with a file of it."""


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
    """Find the directory of a run, which may be one by older rules; writes nothing."""
    variant = adopt(variant)
    return Run(variant, seed, variant_directory(variant) / f"seed{seed}")


def variant_directory(variant: Variant) -> Path:
    """Find the directory of a variant by its identity, whatever it was called before.

    One that has no directory by the rules of today may have runs by older rules.
    """
    root = Path(variant.config.runs_dir)
    usual = root / f"{variant.slug}-{variant.hash}"
    if usual.is_dir() or not root.is_dir():
        return usual
    by_hash = _directories_by_hash(root, root.stat().st_mtime_ns)
    if variant.hash not in by_hash and (older := variant.older()) is not None:
        found = by_hash.get(older.hash, usual)
        return found if any(found.glob("seed*")) else usual  # else its runs were forgotten
    return by_hash.get(variant.hash, usual)


def adopt(variant: Variant) -> Variant:
    """Identify a variant by the older rules where its runs are: those count, and go on.

    New runs of it stay with them, so that its seeds remain one variant; records and tables say by
    which rules it is identified.
    """
    older = variant.older()
    is_older = older is not None and variant_directory(variant).name.endswith(f"-{older.hash}")
    return older if older is not None and is_older else variant


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


def find_weights(directory: Path) -> str | None:
    """Find the weights that a run has kept: the last ones, or else the best."""
    return next((name for name in (WEIGHTS, BEST_WEIGHTS) if (directory / name).exists()), None)


def prepare(run: Run) -> None:
    """Make the directory of a run that is not done, and write its config.

    Paths become absolute, so that the run can be trained from any working directory.
    """
    tree = config_tree(run.variant.config)
    tree["imports"] = [locate(name) for name in run.variant.config.imports]
    for place, key in ((tree, "runs_dir"), (tree, "init_from"), (tree["data"], "path")):
        if place[key] is not None:
            place[key] = str(Path(place[key]).absolute())
    teacher = tree["recipe"]["teacher"]
    if teacher is not None and not teacher.startswith(OF_TIMM):
        tree["recipe"]["teacher"] = str(Path(teacher).absolute())
    identity = {
        "schema_version": SCHEMA_VERSION,
        **run.variant.describe_identity(),
        "seed": run.seed,
    }
    write_json(run.directory / CONFIG, {"identity": identity, "config": tree})
    # YAML for people: tuples as plain lists.
    plain = yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False)
    write_text(run.directory / "config.yaml", plain)
    ledger.write_pending(run.directory)


def read_keep(directory: Path) -> tuple[str, ...]:
    """Read which weights a run is to keep when it is done."""
    return tuple(read_json(directory / CONFIG)["config"]["trainer"]["keep"])


def read_records(
    directories: Iterable[str | Path], refuse: Refuse | None = None
) -> Iterator[dict[str, Any]]:
    """Read the records of run directories, of those that have one.

    Those of tuning trials are read without figures of the test images.

    Args:
        directories: The run directories.
        refuse: Called for what is damaged or of a schema that this version does not know, which
            is left out then.

    Yields:
        Records, each with the measurements beside it under ``"speed"``, and its ``"directory"``.
        Where an older version counted the cost and `pfstudy recount` did since, with that.

    Raises:
        PfstudyError: Something is damaged or of an unknown schema, and there is no ``refuse``.
    """
    speeds: dict[str, list[dict[str, Any]]] = {}
    for directory in map(str, directories):
        path = f"{directory}/{RECORD}"
        try:
            record = read_json(path, missing_ok=True)
            if not record:
                continue
            if is_trial(Path(directory)):
                record = without_test(record)
            check_record(record, path)
            parent = directory.rpartition("/")[0]
            if not is_counted_so(record["cost"]):
                record["cost"] |= _read_recounted(parent, record["cost"])
        except PfstudyError as error:
            if refuse is None:
                raise
            refuse(directory, str(error))
            continue
        if parent not in speeds:
            speeds[parent] = read_speeds(parent, refuse)
        record["speed"], record["directory"] = speeds[parent], directory
        yield record


def is_counted_so(cost: Mapping[str, Any]) -> bool:
    """Whether activations and memory traffic of a cost were counted as this version does."""
    return bool(cost.get("counting") == COUNTING)


def _read_recounted(variant_dir: str, cost: Mapping[str, Any]) -> dict[str, Any]:
    """What was counted again of a variant; nothing where that is of another network, or damaged."""
    try:
        found = read_json(f"{variant_dir}/{COST}", missing_ok=True)
    except PfstudyError:  # counting again replaces it
        return {}
    is_whole = all(is_size(found.get(key)) for key in RECOUNTED)
    is_same = all(found.get(key) == cost[key] for key in ("params", "macs"))
    if not (is_counted_so(found) and is_whole and is_same):
        return {}
    return {key: found[key] for key in ("counting", *RECOUNTED)}


def read_speeds(variant_dir: str | Path, refuse: Refuse | None = None) -> list[dict[str, Any]]:
    """Read the measurements of a variant.

    Args:
        variant_dir: Its directory.
        refuse: Called for those that are damaged, which are left out then.

    Raises:
        PfstudyError: One is damaged, and there is no ``refuse``.
    """
    try:
        with os.scandir(f"{variant_dir}/speed") as entries:
            paths = sorted(entry.path for entry in entries if entry.name.endswith(".json"))
    except OSError:
        return []
    found = []
    for path in paths:
        try:
            measured = read_json(path)
            check_speed(measured, path)
        except PfstudyError as error:
            if refuse is None:
                raise
            refuse(str(variant_dir), str(error))
        else:
            found.append(measured)
    return found


@dataclass(frozen=True)
class Looks:
    """The numbers of seeds at which a study is judged, in increasing order.

    Attributes:
        declared: Those declared before the first look.
        taken: Those at which a sweep of the study has finished.
    """

    declared: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()

    @property
    def undeclared(self) -> tuple[int, ...]:
        """The looks that were taken without being declared."""
        return tuple(number for number in self.taken if number not in self.declared)


def add_to_study(
    root: Path, name: str, runs: Sequence[Run], looks: Sequence[int] = ()
) -> list[str]:
    """Add runs to a study; those that it had stay.

    Args:
        root: Directory of the run directories.
        name: Name of the study.
        runs: The runs.
        looks: Numbers of seeds at which it is judged; none keeps those declared before.

    Returns:
        The run directories of all members, relative to ``root``.

    Raises:
        PfstudyError: Other looks were declared before the first look.
    """
    path = root / STUDIES / f"{name}.json"
    new = [str(run.directory.relative_to(root)) for run in runs]
    with locked(path):
        content = read_json(path, missing_ok=True)
        before = _looks_of(content, path)
        _check_declaration(name, before, looks)
        members = list(dict.fromkeys([*content.get("members", ()), *new]))
        content |= {"schema_version": SCHEMA_VERSION, "name": name, "members": members}
        _write_study(path, content, Looks(tuple(looks) or before.declared, before.taken))
    return members


def read_looks(root: Path, name: str) -> Looks:
    """Read the looks of a study; one without a file, or with an older one, has none.

    Raises:
        PfstudyError: The study's file is damaged.
    """
    path = root / STUDIES / f"{name}.json"
    return _looks_of(read_json(path, missing_ok=True), path)


def check_looks(root: Path, name: str, looks: Sequence[int]) -> None:
    """Check that looks may be declared for a study; writes nothing.

    Raises:
        PfstudyError: A look was taken, and others were declared before it.
    """
    _check_declaration(name, read_looks(root, name), looks)


def add_look(root: Path, name: str, members: Iterable[str]) -> int | None:
    """Record that a sweep of a study has finished, which is a look at the study.

    Args:
        root: Directory of the run directories.
        name: Name of the study.
        members: Run directories of the sweep, relative to ``root``.

    Returns:
        The largest number of seeds, done or failed, that a variant of the sweep has in the study.
        ``None``, and nothing is recorded, if a run of the sweep is neither, or none is done.
    """
    states = {member: ledger.state_of(root / member) for member in members}
    if "done" not in states.values() or not _OUTCOMES.issuperset(states.values()):
        return None
    path = root / STUDIES / f"{name}.json"
    variants = {Path(member).parent for member in states}
    with locked(path):
        content = read_json(path)
        ended = Counter(
            Path(member).parent
            for member in {*content["members"], *states}
            if Path(member).parent in variants and ledger.state_of(root / member) in _OUTCOMES
        )
        number = max(ended.values())
        looks = _looks_of(content, path)
        if number not in looks.taken:
            taken = tuple(sorted((*looks.taken, number)))
            _write_study(path, content, Looks(looks.declared, taken))
    return number


def _write_study(path: Path, content: Mapping[str, Any], looks: Looks) -> None:
    lists = {"declared": list(looks.declared), "taken": list(looks.taken)}
    write_json(path, {**content, "looks": lists})


def _looks_of(content: Mapping[str, Any], path: Path) -> Looks:
    looks = content.get("looks", {})
    try:
        lists = [tuple(looks.get(key, ())) for key in ("declared", "taken")]
    except (AttributeError, TypeError):
        lists = [("",)]
    for each in lists:
        are_whole = all(type(number) is int and number > 0 for number in each)
        if not are_whole or list(each) != sorted(set(each)):
            raise PfstudyError(
                f"{path} is damaged: its looks are no lists of increasing numbers of seeds."
            )
    return Looks(*lists)


def _check_declaration(name: str, before: Looks, looks: Sequence[int]) -> None:
    if not looks or not before.taken or tuple(looks) == before.declared:
        return
    declared = f"study.looks={_listed(before.declared)}"
    keep = f"give {declared}, " if before.declared else ""
    raise PfstudyError(
        f"study.looks={_listed(looks)} comes too late: study {name} has {declared} and was looked "
        f"at with {', '.join(map(str, before.taken))} seeds; leave study.looks out, {keep}or "
        "choose another study.name."
    )


def _listed(numbers: Iterable[int]) -> str:
    return f"[{','.join(map(str, numbers))}]"


def read_study(root: Path, name: str) -> list[str]:
    """Read the members of a study.

    Raises:
        PfstudyError: There is no such study; lists those that exist.
    """
    path = root / STUDIES / f"{name}.json"
    if not path.exists():
        raise unknown_name("study", name, sorted(p.stem for p in path.parent.glob("*.json")))
    members = read_json(path).get("members")
    if not isinstance(members, list):
        raise PfstudyError(f"{path} is damaged: it has no members.")
    return [str(member) for member in members]


def studies_of(root: Path) -> dict[Path, str]:
    """The study that each run belongs to, by its directory; the first one of several."""
    found: dict[Path, str] = {}
    for path in sorted((root / STUDIES).glob("*.json")):
        for member in read_json(path)["members"]:
            found.setdefault(root / member, path.stem)
    return found
