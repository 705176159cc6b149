"""What lies in a directory of runs: found, read and named without composing anything."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from pfstudy.errors import PfstudyError
from pfstudy.files import read_json
from pfstudy.identity import REPLACES_KEY, rules_of
from pfstudy.ledger import STATE
from pfstudy.schema.config import Model
from pfstudy.schema.operations import OPERATIONS, ORIGINAL
from pfstudy.schema.sites import Site, list_sites
from pfstudy.store import CONFIG, Run
from pfstudy.variant import decoration, flatten, label_of, varying_settings

_MODEL = TypeAdapter(Model)
_NUM_DIGITS = 10


@dataclass(frozen=True)
class Description:
    """What is known of a run without composing anything.

    Attributes:
        directory: Its directory.
        hash: Identity of its variant.
        seed: Its seed.
        model: Name of the backbone's declaration.
        label: What differs from the backbone, in a few words.
        operations: The operation at every site, as `pfstudy.variant.Variant.operations`.
        layers: Path of the layer at every site.
        canonical: The canonical form of its variant.
        replaces: Digests by older rules, and those in the canonical form that have replaced them.
        rules: The rules by which the canonical form was made.
    """

    directory: Path
    hash: str
    seed: int
    model: str
    label: str
    operations: Mapping[str, str]
    layers: Mapping[str, str]
    canonical: Mapping[str, Any]
    replaces: Mapping[str, str] = field(default_factory=dict)
    rules: int = 1

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The canonical form apart from the sites, by dotted keys."""
        return flatten({key: value for key, value in self.canonical.items() if key != "sites"})


def is_run(directory: str | Path) -> bool:
    """Whether a directory is that of a run."""
    # of thousands, and a Path takes longer than the question
    return any(os.path.exists(f"{directory}/{mark}") for mark in (STATE, CONFIG))  # noqa: PTH110


def find_runs(directory: Path) -> list[Path]:
    """Find the run directories in a directory of runs or of a variant, or the one given.

    Raises:
        PfstudyError: There is no such directory.
    """
    return [Path(path) for path in list_candidates(directory) if is_run(path)]


def list_candidates(directory: Path) -> list[str]:
    """List what is called like run directories; the same place as `find_runs`, without a look in.

    Raises:
        PfstudyError: There is no such directory.
    """
    if not directory.is_dir():
        raise PfstudyError(
            f"there is no directory {directory}; give the one that runs were made in, or that of "
            "a run."
        )
    if is_run(directory):
        return [str(directory)]
    seeds = _seeds(directory)
    return seeds or [run for variant in _directories(directory) for run in _seeds(variant)]


def describe(directory: Path) -> Description:
    """Describe the run of a directory.

    Raises:
        PfstudyError: Its config cannot be read, or was written by another version.
    """
    path = directory / CONFIG
    try:
        stat = path.stat()
    except OSError as error:
        raise PfstudyError(f"{path} cannot be read: {error.strerror}.") from None
    return _describe(directory, (stat.st_mtime_ns, stat.st_ino))


def describe_run(run: Run) -> Description:
    """Describe a run that need not have a directory yet."""
    variant = run.variant
    return Description(
        run.directory,
        variant.hash,
        run.seed,
        variant.config.model.name,
        variant.label,
        variant.operations,
        {site.address: site.layer for site in list_sites(variant.config.model)},
        variant.canonical,
        variant.replaces,
        variant.rules,
    )


def name_runs(runs: Sequence[Description]) -> dict[Path, str]:
    """Name runs for people, by their directories: what differs between them is in the name."""
    models = [run.model for run in runs]
    varying = varying_settings([run.canonical for run in runs], models)
    names = {}
    for run in runs:
        parts = [run.model] if len(set(models)) > 1 else []
        parts += [run.label]
        parts += [f"{key.rpartition('.')[2]}={shorten(run.settings.get(key))}" for key in varying]
        names[run.directory] = " ".join([*parts, f"seed{run.seed}"])
    taken = Counter(names.values())
    hashes = {run.directory: run.hash for run in runs}
    return {
        directory: name if taken[name] == 1 else f"{name} ({hashes[directory]})"
        for directory, name in names.items()
    }


def shorten(value: Any) -> str:
    """Write a value for people: of a digest, its first digits."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:_NUM_DIGITS] if re.fullmatch("[0-9a-f]{64}", text) else text


@lru_cache(maxsize=20_000)
def _describe(directory: Path, version: tuple[int, int]) -> Description:
    del version  # a config that is written anew is read anew
    written = read_json(directory / CONFIG)
    try:
        identity, config = written["identity"], written["config"]
        canonical = identity["canonical"]
        model, sites = _parse_model(json.dumps(config["model"]))
        entries = canonical.get("sites", {})
        operations = {site.address: _operation(entries.get(site.layer), site) for site in sites}
        return Description(
            directory,
            identity["hash"],
            identity["seed"],
            model.name,
            label_of(operations, model),
            operations,
            {site.address: site.layer for site in sites},
            canonical,
            identity.get(REPLACES_KEY, {}),
            rules_of(identity),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise PfstudyError(
            f"{directory / CONFIG} was not written by this version of pfstudy ({error!r:.80})."
        ) from None


@lru_cache(maxsize=1_000)
def _parse_model(text: str) -> tuple[Model, tuple[Site, ...]]:
    model = _MODEL.validate_python(json.loads(text))
    return model, tuple(list_sites(model))


def _operation(entry: Mapping[str, Any] | None, site: Site) -> str:
    """Name what stands at a site; what a user's operation does with the norm is not known here."""
    if entry is None:
        return ORIGINAL
    name, keeps = entry["operation"], not entry.get("drops")
    usually = OPERATIONS[name].trainable if name in OPERATIONS else keeps
    kernel_size = entry.get("kernel_size")
    return str(name) + decoration(site, kernel_size, keeps_norm=keeps, usually_keeps=usually)


def _seeds(directory: str | Path) -> list[str]:
    """What is called like the run directories of a variant, by their seed."""
    found = [(path, path.rpartition("/seed")[2]) for path in _directories(directory)]
    return [p for p, seed in sorted(found, key=lambda f: len(f[1])) if seed.isdecimal()]


def _directories(directory: str | Path) -> list[str]:
    """The directories in a directory, which may vanish meanwhile."""
    with suppress(OSError), os.scandir(directory) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir())
    return []
