"""The directories of searches: what one was asked for, what it has evaluated and found.

runs/searches/NAME/        config.json, state.json, metrics.csv, evaluations.csv, record.json
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pfstudy import files, ledger, store
from pfstudy.canonical import digest
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.config import Config, config_tree, parse_config
from pfstudy.schema.imports import locate
from pfstudy.space import Choice, Space, make_space
from pfstudy.variant import SCHEMA_VERSION

SEARCHES = "searches"
EVALUATIONS = "evaluations.csv"

By = Literal["search", "report"]
"""Who asked for an evaluation."""


@dataclass(frozen=True)
class Times:
    """What operations take, from a block table; shares of the unsubstituted backbone's time.

    Attributes:
        operations: Of every searched site, the time of each operation.
        rest: The time of everything else.
        setting: Device, host and setting.
        relative_error: Half the width of a prediction's 95 % interval; ``None`` if not known.
    """

    operations: tuple[tuple[float, ...], ...]
    rest: float
    setting: Mapping[str, Any]
    relative_error: float | None = None

    def predict(self, choice: Choice) -> float:
        """Time of a network, relative to the unsubstituted backbone."""
        return self.rest + sum(row[k] for row, k in zip(self.operations, choice, strict=True))


@dataclass(frozen=True)
class Evaluation:
    """What the shared weights of a supernet say of a network.

    Attributes:
        choice: The network.
        val_top1_percent: Its accuracy on the validation split.
        by: Who asked.
        seconds: What that took; 0 for what was known.
    """

    choice: Choice
    val_top1_percent: float
    by: By
    seconds: float = 0.0


@dataclass(frozen=True)
class Asked:
    """What a search was asked for.

    Attributes:
        space: The space, with the settings of the search.
        times: What operations take; ``None`` where time does not matter.
        identity: Hash, seed and canonical form.
    """

    space: Space
    times: Times | None
    identity: Mapping[str, Any]


def search_directory(root: Path, name: str) -> Path:
    """Name the directory of a search, below that of the runs."""
    return root / SEARCHES / name


def find_directories(root: Path) -> list[Path]:
    """Find the directories of all searches below that of the runs."""
    return sorted(path.parent for path in (root / SEARCHES).glob(f"*/{store.CONFIG}"))


def list_searches(root: Path) -> list[str]:
    """Names of the searches that have ended, in the order of the alphabet."""
    return sorted(path.parent.name for path in (root / SEARCHES).glob(f"*/{ledger.RECORD}"))


def identify(space: Space, canonical: Mapping[str, Any], times: Times | None) -> dict[str, Any]:
    """Make the identity of a search.

    Args:
        space: The space, with the settings of the search.
        canonical: The canonical form of the network that it begins with, data and recipe included.
        times: What operations take.
    """
    settings = {key: value for key, value in asdict(space.search).items() if key not in _NO_MATTER}
    form = {
        **canonical,
        "search": {key: value for key, value in settings.items() if value is not None},
        "searched": list(space.sites),
        "seed": space.config.seed,
    }
    if times is not None:  # where they are from: measured again, they differ, but ask the same
        form["times"] = dict(times.setting)
    return {"hash": digest(form), "seed": space.config.seed, "canonical": form}


_NO_MATTER = ("name", "preset")


def is_asked(directory: Path, asked: Asked) -> bool:
    """Whether a search's directory exists and belongs to the search."""
    written = files.read_json(directory / store.CONFIG, missing_ok=True).get("identity", {})
    return bool(written.get("hash") == asked.identity["hash"])


def check_asked(directory: Path, asked: Asked) -> None:
    """Check that a search's directory, where it exists, belongs to the search.

    Raises:
        PfstudyError: Another search has it.
    """
    if (directory / store.CONFIG).exists() and not is_asked(directory, asked):
        raise PfstudyError(
            f"{directory} is another search, and stays as it is; give this one another name "
            "with search.name=NAME."
        )


def write_asked(directory: Path, asked: Asked) -> None:
    """Write what a search is asked for."""
    config = asked.space.config
    tree = config_tree(config)
    for place, key in ((tree, "runs_dir"), (tree["data"], "path")):
        if place[key] is not None:
            place[key] = str(Path(place[key]).absolute())
    tree["imports"] = [locate(name) for name in config.imports]
    content = {
        "schema_version": SCHEMA_VERSION,
        "identity": asked.identity,
        "times": None if asked.times is None else asdict(asked.times),
        "config": tree,
    }
    files.write_json(directory / store.CONFIG, content)
    ledger.write_pending(directory)


def read_asked(directory: Path) -> Asked:
    """Read what a search was asked for.

    Raises:
        PfstudyError: It was written by another version, or is damaged.
    """
    path = directory / store.CONFIG
    written = files.read_json(path)
    if written.get("schema_version") != SCHEMA_VERSION:
        raise PfstudyError(f"{path} is no search that this version reads.")
    config: Config = parse_config(written["config"])
    times = written["times"]
    if times is not None:
        rows = tuple(tuple(row) for row in times["operations"])
        times = Times(rows, times["rest"], times["setting"], times["relative_error"])
    return Asked(make_space(config), times, written["identity"])


def read_search(root: Path, name: str) -> dict[str, Any]:
    """Read the record of a search that has ended.

    Raises:
        PfstudyError: There is none of that name; lists those that there are.
    """
    directory = search_directory(root, name)
    if not (directory / ledger.RECORD).exists():
        if (directory / store.CONFIG).exists():
            raise PfstudyError(
                f"the search {name} has not ended; the same command goes on with it."
            )
        raise unknown_name("search", name, list_searches(root))
    record: dict[str, Any] = files.read_json(directory / ledger.RECORD)
    if record.get("schema_version") != SCHEMA_VERSION:
        raise PfstudyError(f"{directory / ledger.RECORD} is no search that this version reads.")
    return record


def read_evaluations(directory: Path, space: Space) -> list[Evaluation]:
    """Read what was evaluated so far; a line that was half written when it was killed is none."""
    path = directory / EVALUATIONS
    if not path.exists():
        return []
    found = []
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            try:
                choice = tuple(space.operations.index(row[site]) for site in space.sites)
                by: By = "report" if row["by"] == "report" else "search"
                accuracy, seconds = float(row["val_top1_percent"]), float(row["seconds"])
                found.append(Evaluation(choice, accuracy, by, seconds))
            except (KeyError, TypeError, ValueError):
                continue
    return found


def write_evaluations(directory: Path, space: Space, evaluations: Sequence[Evaluation]) -> None:
    """Write what was evaluated so far, whole or not at all."""
    path = directory / EVALUATIONS
    with files.replacing(path) as draft, draft.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["by", "val_top1_percent", "seconds", *space.sites])
        for each in evaluations:
            names = [space.operations[index] for index in each.choice]
            writer.writerow([each.by, each.val_top1_percent, round(each.seconds, 4), *names])
