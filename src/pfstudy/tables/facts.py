"""What a record says of how a run was made, as far as runs that are compared must share it.

That is everything that identity covers apart from the network itself, and what a record says of
the training and its environment. The host is not among it: the same device elsewhere trains the
same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pfstudy.variant import flatten

SEEDS = "seeds"
SPEED = "speed"
NORM = "norm_act"
MODIFIED = " (modified)"
"""Marks a commit with changes that are not committed."""

_NETWORK = ("schema", "backbone", "sites")
_SPLIT = ("data.num_test", "data.num_validation", "data.split_seed")
_TRAINING = {
    "epochs": "epochs",
    "effective_batch_size": "effective batch size",
    "accumulation": "accumulation",
    "world_size": "world size",
    "num_threads": "threads",
    "precision": "precision",
}
_VERSIONS = {
    "pfstudy": "code version",
    "torch": "library versions",
    "lightning": "library versions",
    "timm": "library versions",
}
_ENVIRONMENT = ("versions", "git", "device", "cpu_model")
TUNE = "tune"
KINDS = {
    TUNE: "tuning",
    "data.fingerprint": "data",
    "precision": "precision",
    "init": "initial weights",
    "pretrained": "initial weights",
    **{f"training.{key}": kind for key, kind in _TRAINING.items()},
    "environment.git": "code version",
    **{f"environment.versions.{name}": kind for name, kind in _VERSIONS.items()},
    "environment.device": "device",
    NORM: "norm and activation",
    SEEDS: "seeds",
    SPEED: "speed setting",
}
"""Of the keys that are no settings of the config; ``data.fingerprint`` is none to people."""

_ORDER = list(dict.fromkeys(["recipe", "tuning", "data", "split", *KINDS.values()]))

Facts = dict[str, str]
"""By key, such as ``recipe.lr`` or ``training.num_threads``: the value, written for people."""


class FactsReader:
    """Reads what runs must share; runs that share everything get the same object."""

    def __init__(self) -> None:
        self._shared: dict[str, Facts] = {}
        self._known: dict[tuple[str, str], Facts] = {}

    def read(self, seeds: Sequence[Mapping[str, Any]]) -> list[tuple[int, Facts]]:
        """Read the seed of every run of a variant, and what must be shared.

        Args:
            seeds: The records of the variant's runs.
        """
        canonical = seeds[0]["identity"]["canonical"]
        others = {key: canonical[key] for key in canonical if key not in _NETWORK}
        sources = [s["source"] for s in canonical.get("sites", {}).values() if "source" in s]
        identity = f"{seeds[0]['data']}{others}{sources}"
        return [(record["seed"], self._read(identity, record)) for record in seeds]

    def _read(self, identity: str, record: Mapping[str, Any]) -> Facts:
        training, environment = record.get("training", {}), record.get("environment", {})
        of_training = [training.get(key) for key in _TRAINING]
        of_environment = [environment.get(key) for key in _ENVIRONMENT]
        key = (identity, f"{of_training}{of_environment}")
        if key not in self._known:
            if identity not in self._shared:
                self._shared[identity] = _facts_of_identity(record)
            self._known[key] = self._shared[identity] | _facts_of_training(record)
        return self._known[key]


def _facts_of_identity(record: Mapping[str, Any]) -> Facts:
    canonical = record["identity"]["canonical"]
    rest = {key: value for key, value in canonical.items() if key not in (*_NETWORK, TUNE)}
    facts = {key: _text(value) for key, value in flatten(rest).items()}
    if TUNE in canonical:
        facts[TUNE] = ", ".join(f"{key}={value:g}" for key, value in canonical[TUNE].items())
    for key in {"data.fingerprint", "init"} & facts.keys():
        facts[key] = facts[key][:10]
    if "data.fingerprint" in facts:
        facts["data.fingerprint"] = f"{record['data']} ({facts['data.fingerprint']})"
    for site in canonical.get("sites", {}).values():
        if "source" in site:
            facts[f"operation.{site['operation']}"] = f"source {site['source'][:10]}"
    return facts


def _facts_of_training(record: Mapping[str, Any]) -> Facts:
    training = record.get("training", {})
    if training:
        training = {"accumulation": 1, **training}
    facts = {f"training.{key}": _text(training[key]) for key in _TRAINING if key in training}
    environment = record.get("environment", {})
    versions = environment.get("versions", {})
    for name in _VERSIONS:
        if name in versions:
            facts[f"environment.versions.{name}"] = f"{name} {versions[name]}"
    if "git" in environment:
        facts["environment.git"] = _commit(environment["git"])
    if "device" in environment:
        is_cpu = environment["device"] == "cpu"
        facts["environment.device"] = _text(environment["cpu_model" if is_cpu else "device"])
    return facts


def loses_norm(record: Mapping[str, Any]) -> bool:
    """Whether some site has lost the norm and activation of the replaced layer."""
    sites = record["identity"]["canonical"].get("sites", {})
    return any(site.get("drops") for site in sites.values())


def where_missing(key: str) -> str | None:
    """What stands for a missing value; nothing where its absence is no difference."""
    if key.startswith("operation."):
        return None
    return "not recorded" if key.startswith(("training.", "environment.")) else "not set"


def kind_of(key: str) -> str:
    """What a key is about, for people: ``recipe``, ``code version`` and so on."""
    if key in KINDS:
        return KINDS[key]
    if key in _SPLIT:
        return "split"
    first = key.partition(".")[0]
    return "code version" if first == "operation" else first


def position_of(key: str) -> int:
    """Place of a key's kind in a list for people."""
    kind = kind_of(key)
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _commit(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "not in a git repository"
    commit: str = git["commit"][:7]
    return commit + (MODIFIED if git["dirty"] else "")
