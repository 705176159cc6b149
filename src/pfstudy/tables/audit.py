"""Records in, findings out: what runs that are compared with each other do not share."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.schema.sites import block_ranges
from pfstudy.speed.setting import complete_setting
from pfstudy.tables.facts import (
    KINDS,
    MODIFIED,
    NORM,
    SEEDS,
    SPEED,
    Facts,
    FactsReader,
    kind_of,
    loses_norm,
    position_of,
    where_missing,
)

_CAUSES = {  # settings of the config that a record repeats: one difference, one finding
    "training.epochs": "recipe.epochs",
    "training.effective_batch_size": "recipe.batch_size",
    "training.precision": "precision",
}
_NORM_LOST = (
    "All substituted variants lack the norm and activation of the layers that they replace, which "
    "the backbone has; study=norm_control tells how much that matters."
)
_MOST_NAMES = 4
_MOST_OF_A_KIND = 2

Groups = dict[str, dict[str, tuple[int, ...]]]  # value, variant, its seeds


@dataclass(frozen=True)
class Value:
    """A value of what differs, and who has it.

    Attributes:
        text: The value, written for people.
        seeds: The seeds of the runs that have it, by variant; none where it is the variant that
            has it, whatever the seed.
    """

    text: str
    seeds: Mapping[str, tuple[int, ...]]

    @property
    def runs(self) -> list[str]:
        """Names of the runs, or of the variants."""
        return [
            name
            for variant, seeds in self.seeds.items()
            for name in ([f"{variant} seed{seed}" for seed in seeds] or [variant])
        ]

    def runs_in_short(self) -> str:
        """Name the first of them: ``maxpool seed0, seed1, original seed0, and 3 more``."""
        names = []
        for variant, seeds in self.seeds.items():
            first, *others = [f"seed{seed}" for seed in seeds] or [""]
            names += [f"{variant} {first}".rstrip(), *others]
        return _abbreviate(names)


@dataclass(frozen=True)
class Finding:
    """Something that compared runs should share, but do not.

    Attributes:
        key: Where it stands: ``recipe.lr``, ``training.num_threads``, ``environment.git``,
            ``operation.NAME`` (the source of a user's operation), ``seeds`` or ``speed``.
        kind: What it is to people: ``recipe``, ``threads``, ``code version`` and so on.
        values: The different values, the most frequent one first.
    """

    key: str
    kind: str
    values: tuple[Value, ...]

    @property
    def name(self) -> str:
        """The key where it is one of the config's, else the kind."""
        return self.kind if self.key in KINDS else self.key


@dataclass(frozen=True)
class Audit:
    """Whether runs are fairly compared.

    Attributes:
        num_runs: Number of runs.
        num_variants: Number of variants.
        compared: The kinds of what was compared; what no record says anything of is not there.
        findings: What differs.
        remarks: Sentences about what cannot be known, though nothing differs.
    """

    num_runs: int
    num_variants: int
    compared: tuple[str, ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...]


def audit_records(records: Iterable[Mapping[str, Any]]) -> Audit:
    """Compare runs with each other.

    Args:
        records: As `pfstudy.store.read_records` yields them.

    Raises:
        PfstudyError: There are no records.
    """
    found = list(records)
    if not found:
        raise PfstudyError("there are no finished runs here; train some first: pfstudy -m ...")
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for record in found:
        by_variant.setdefault(record["identity"]["hash"], []).append(record)
    variants = dict(zip(_names(by_variant), by_variant.values(), strict=True))
    reader = FactsReader()
    facts = {variant: reader.read(seeds) for variant, seeds in variants.items()}
    settings = _compare_facts(facts)
    loses = {
        name: loses_norm(r[0]) for name, r in variants.items() if not r[0]["variant"]["is_baseline"]
    }
    others = (_compare_norms(loses), _compare_seeds(variants), _compare_speed(variants))
    findings = [*settings, *(finding for finding in others if finding is not None)]
    keys = {key for run in _distinct(facts) for key in run} | {SEEDS}
    if any(record["speed"] for record in found):
        keys.add(SPEED)
    if any(loses.values()):
        keys.add(NORM)
    compared = dict.fromkeys(map(kind_of, sorted(keys, key=position_of)))
    return Audit(
        len(found), len(variants), tuple(compared), tuple(findings), _remarks(facts, loses)
    )


def in_short(findings: Sequence[Finding]) -> str:
    """Name what differs in a few words: ``recipe.lr, code version``; nothing if nothing does."""
    by_kind: dict[str, list[str]] = {}
    for finding in findings:
        names = by_kind.setdefault(finding.kind, [])
        if finding.name not in names:
            names.append(finding.name)
    parts: list[str] = []
    for kind, names in by_kind.items():
        many = len(names) > _MOST_OF_A_KIND
        parts += [f"{kind} ({len(names)} settings)"] if many else names
    return _abbreviate(parts)


def _abbreviate(names: Sequence[str]) -> str:
    if len(names) <= _MOST_NAMES:
        return ", ".join(names)
    shown = _MOST_NAMES - 1
    return f"{', '.join(names[:shown])}, and {len(names) - shown} more"


def _names(by_variant: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """A name for every variant: its label, and only as much besides as makes it unique."""
    first = [seeds[0]["variant"] for seeds in by_variant.values()]
    several = len({variant["model"] for variant in first}) > 1
    names = [f"{v['model']} {v['label']}" if several else str(v["label"]) for v in first]
    taken = Counter(names)
    return [
        name if taken[name] == 1 else f"{name} ({identity})"
        for name, identity in zip(names, by_variant, strict=True)
    ]


def _compare_facts(facts: Mapping[str, Sequence[tuple[int, Facts]]]) -> list[Finding]:
    runs = _distinct(facts)
    keys = sorted({key for run in runs for key in run}, key=lambda key: (position_of(key), key))
    differing = [key for key in keys if len({run.get(key) for run in runs}) > 1]
    found = {key: _group(key, facts) for key in differing}
    return [
        _finding(key, groups)
        for key, groups in found.items()
        if len(groups) > 1 and not _follows(key, found)
    ]


def _distinct(facts: Mapping[str, Sequence[tuple[int, Facts]]]) -> list[Facts]:
    return list({id(run): run for seeds in facts.values() for _, run in seeds}.values())


def _group(key: str, facts: Mapping[str, Sequence[tuple[int, Facts]]]) -> Groups:
    groups: Groups = {}
    for variant, runs in facts.items():
        for seed, run in runs:
            value = run.get(key, where_missing(key))
            if value is not None:
                seeds = groups.setdefault(value, {})
                seeds[variant] = (*seeds.get(variant, ()), seed)
    return groups


def _follows(key: str, found: Mapping[str, Groups]) -> bool:
    """Whether a difference is that of a setting which stands for it."""
    cause = found.get(_CAUSES.get(key, ""))
    return cause is not None and list(cause.values()) == list(found[key].values())


def _compare_norms(loses: Mapping[str, bool]) -> Finding | None:
    """Find out whether norm and activation went with the replaced layers in some variants alone."""
    if len(set(loses.values())) < 2:
        return None
    groups: Groups = {"dropped": {}, "kept": {}}
    for variant, lost in loses.items():
        groups["dropped" if lost else "kept"][variant] = ()
    return _finding(NORM, groups)


def _compare_seeds(variants: Mapping[str, Sequence[Mapping[str, Any]]]) -> Finding | None:
    groups: Groups = {}
    for variant, records in variants.items():
        seeds = sorted(record["seed"] for record in records)
        text = f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'}: {block_ranges(seeds)}"
        groups.setdefault(text, {})[variant] = ()
    return _finding(SEEDS, groups) if len(groups) > 1 else None


def _compare_speed(variants: Mapping[str, Sequence[Mapping[str, Any]]]) -> Finding | None:
    """Find out whether there is no setting in which the speed of all variants is known."""
    settings = {
        variant: {_setting_text(measured) for measured in records[0]["speed"]}
        for variant, records in variants.items()
    }
    distinct = sorted(set.union(*settings.values()))
    if not distinct or set.intersection(*settings.values()):
        return None
    texts = dict(zip(distinct, _tell_apart([json.loads(each) for each in distinct]), strict=True))
    groups: Groups = {}
    for variant, measured in settings.items():
        for text in [texts[each] for each in sorted(measured)] or ["not measured"]:
            groups.setdefault(text, {})[variant] = ()
    return _finding(SPEED, groups)


def _setting_text(measured: Mapping[str, Any]) -> str:
    return json.dumps(complete_setting(measured))


def _tell_apart(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Write of settings only that in which they differ."""
    differ = [key for key in settings[0] if len({setting[key] for setting in settings}) > 1]
    written = (", ".join(f"{key}={setting[key]}" for key in differ) for setting in settings)
    return [text or "measured" for text in written]


def _finding(key: str, groups: Groups) -> Finding:
    values = [Value(text, seeds) for text, seeds in groups.items()]
    values.sort(key=lambda value: -len(value.runs))
    return Finding(key, kind_of(key), tuple(values))


def _remarks(
    facts: Mapping[str, Sequence[tuple[int, Facts]]], loses: Mapping[str, bool]
) -> tuple[str, ...]:
    lost = [_NORM_LOST] if loses and all(loses.values()) else []
    commits = Counter(run.get("environment.git", "") for runs in facts.values() for _, run in runs)
    uncommitted = (
        f"{commit}: {number} runs were made with changes that are not committed; whether with the "
        "same ones is not known."
        for commit, number in commits.items()
        if commit.endswith(MODIFIED) and number > 1
    )
    return (*lost, *uncommitted)
