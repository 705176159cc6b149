"""Goes on with runs that are not done, without the command that began them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pfstudy import files, ledger, store
from pfstudy.data import identify
from pfstudy.errors import PfstudyError, first_line
from pfstudy.schema.config import Config, parse_config
from pfstudy.variant import Variant, flatten, make_variant

_FREE = ("launcher", "logger", "speed", "trainer")
"""Groups that may be set anew when a sweep goes on; but for the precision, they are no part of a
run's identity."""

_CHANGES: Mapping[str, Callable[[str], bool]] = {
    "the dataset": lambda key: key == "data.fingerprint",
    "the checkpoint that it starts from": lambda key: key == "init",
    "the source of an operation": lambda key: key.startswith("sites.") and key.endswith(".source"),
}
"""What may change behind a config, by its keys in the canonical form."""


@dataclass(frozen=True)
class Unfinished:
    """What is left of a study.

    Attributes:
        study: Its name.
        configs: One for every run that is not done.
        missing: Members without a config, which cannot be gone on with.
    """

    study: str
    configs: tuple[Config, ...]
    missing: tuple[str, ...]


def list_unfinished(
    directory: Path, study: str | None = None, overrides: Sequence[str] = ()
) -> list[Unfinished]:
    """List what is left, study by study.

    Args:
        directory: Of the run directories, or one run or variant of them.
        study: The study to go on with; ``None`` for all.
        overrides: ``KEY=VALUE`` of the groups that are no part of a run's identity.

    Raises:
        PfstudyError: There is no such directory or study, an override is not allowed, or a run
            would not be the same any more.
    """
    root, chosen = _root_of(directory)
    names = (
        [study] if study else sorted(path.stem for path in (root / store.STUDIES).glob("*.json"))
    )
    if not names:
        raise PfstudyError(f"there is no study in {directory}; give a directory that has runs.")
    found = []
    taken: set[str] = set()
    for name in names:
        members = [
            member
            for member in store.read_study(root, name)
            if member not in taken
            and (chosen is None or Path(member).is_relative_to(chosen))
            and ledger.state_of(root / member) != "done"
        ]
        taken.update(members)
        if members:
            found.append(_unfinished(root, name, members, overrides))
    return found


def _unfinished(
    root: Path, study: str, members: Sequence[str], overrides: Sequence[str]
) -> Unfinished:
    written = {member: root / member / store.CONFIG for member in members}
    missing = tuple(member for member, path in written.items() if not path.exists())
    paths = sorted(
        (path for path in written.values() if path.exists()), key=lambda path: path.stat().st_mtime
    )
    if not paths:
        return Unfinished(study, (), missing)
    trees = [files.read_json(path) for path in paths]
    newest = parse_config(set_values(trees[-1]["config"], overrides))
    configs = []
    content = cache(identify)
    for path, tree in zip(paths, trees, strict=True):
        config = parse_config(tree["config"])
        _check_same(path.parent, tree["identity"], make_variant(config, content(config.data)))
        configs.append(
            replace(
                config,
                seed=tree["identity"]["seed"],
                seeds=None,
                runs_dir=str(root),
                study=replace(newest.study, name=study, constraints=(), looks=()),
                launcher=newest.launcher,
                logger=newest.logger,
                speed=newest.speed,
                trainer=replace(newest.trainer, precision=config.trainer.precision),
            )
        )
    return Unfinished(study, tuple(configs), missing)


def _check_same(directory: Path, identity: Mapping[str, Any], variant: Variant) -> None:
    """Check that a config still says what it said when it was written.

    Raises:
        PfstudyError: It would be a run of another identity, in another directory.
    """
    if variant.with_hash(identity["hash"]) is not None:
        return
    before, now = flatten(identity["canonical"]), flatten(variant.canonical)
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    known = (what for what, is_it in _CHANGES.items() if any(map(is_it, changed)))
    what = " and ".join(known) or ", ".join(changed)
    raise PfstudyError(
        f"{directory}: {what} changed since its config was written; bring back what it was, or "
        "give the command again, which trains a new run."
    )


def _root_of(directory: Path) -> tuple[Path, Path | None]:
    """The directory of the run directories, and the part of it that is meant."""
    if not directory.is_dir():
        raise PfstudyError(
            f"there is no directory {directory}; give the one that runs were made in."
        )
    if (directory / store.STUDIES).is_dir():
        return directory, None
    for root in directory.resolve().parents[:2]:
        if (root / store.STUDIES).is_dir():
            return Path(os.path.relpath(root)), directory.resolve().relative_to(root)
    raise PfstudyError(f"there is no study in {directory}; give a directory that has runs.")


def set_values(
    tree: dict[str, Any], overrides: Sequence[str], when: str = "when runs go on"
) -> dict[str, Any]:
    """Set values of a config tree as the command line does, where that is allowed."""
    tree = json.loads(json.dumps(tree))
    for override in overrides:
        key, equals, value = override.partition("=")
        group, _, name = key.partition(".")
        if not equals or group not in _FREE or not name or key == "trainer.precision":
            allowed = ", ".join(f"{group}.KEY=VALUE" for group in _FREE)
            raise PfstudyError(
                f"{override!r} cannot be set {when}; only {allowed} can, and not the precision."
            )
        try:
            tree[group][name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise PfstudyError(f"{override!r} cannot be read: {first_line(error)}.") from None
    return tree
