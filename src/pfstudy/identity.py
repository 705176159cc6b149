"""Identities by older rules: found again, and brought up to date where both are known.

Identity covers the content of the data and the source of own operations by digests. When a rule
for a digest changes, a variant states in `replaces` the digest by the older rule. That one mapping
serves all: `older_form` gives the canonical form that earlier runs were identified by, and
`modernise` rewrites their records where newer runs say what has replaced a digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pfstudy.canonical import digest

RULES = 2
"""Rules by which identities are computed now.

1: images in folders by names and sizes; own operations by the first names of plain imports.
2: images in folders by content; own operations by all imports that can be followed.
"""

RULES_KEY = "rules"
REPLACES_KEY = "replaces"
FOLDERS = ("imagefolder", "imagenet")
"""Names of the datasets that are folders of images."""


@dataclass(frozen=True)
class Content:
    """What identifies the content of a dataset.

    Attributes:
        fingerprint: Digest of the content.
        older: The digest by the older rule, where that was another.
        note: What a person should know of it; may be empty.
    """

    fingerprint: str
    older: str | None = None
    note: str = ""

    def has(self, identity: Mapping[str, Any]) -> bool:
        """Whether a run was trained on it, by the rules of the run's identity."""
        fingerprint = self.fingerprint if rules_of(identity) >= RULES else self.older
        return _fingerprint(identity["canonical"]) in (fingerprint, self.fingerprint)


def older_form(canonical: Mapping[str, Any], replaces: Mapping[str, str]) -> dict[str, Any]:
    """The canonical form by the older rules.

    Args:
        canonical: The canonical form.
        replaces: Digests by the older rules, and what has replaced them.
    """
    return _substitute(canonical, {new: old for old, new in replaces.items()})


def current_form(canonical: Mapping[str, Any], replaces: Mapping[str, str]) -> dict[str, Any]:
    """The canonical form with all that has replaced older digests."""
    return _substitute(canonical, replaces)


def used_in(canonical: Mapping[str, Any], replaces: Mapping[str, str]) -> dict[str, str]:
    """The part of ``replaces`` that a canonical form needs."""
    found = set(_digests(canonical))
    return {old: new for old, new in replaces.items() if new in found and new != old}


def rules_of(identity: Mapping[str, Any]) -> int:
    """By which rules a written identity was computed."""
    rules = identity.get(RULES_KEY, 1)
    return rules if isinstance(rules, int) else 1


def unverified(record: Mapping[str, Any], known: Iterable[str] = ()) -> frozenset[str]:
    """What of a run is identified by older rules: ``data``, ``source``.

    Args:
        record: The record of a run.
        known: Digests that the current rules also give.
    """
    identity = record["identity"]
    if rules_of(identity) >= RULES:
        return frozenset()
    known, canonical, found = set(known), identity["canonical"], set()
    if record.get("data") in FOLDERS and _fingerprint(canonical) not in known:
        found.add("data")
    if set(_sources(canonical)) - known:
        found.add("source")
    return frozenset(found)


def agree(one: Mapping[str, Any], other: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether written identities have the same values of keys, each by its own rules."""
    replaces = {**one.get(REPLACES_KEY, {}), **other.get(REPLACES_KEY, {})}
    forms = [_substitute(each["canonical"], replaces) for each in (one, other)]
    return all(forms[0].get(key) == forms[1].get(key) for key in keys)


def modernise(
    records: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], dict[str, str]]:
    """Bring identities by older rules up to date, so that old and new runs compare.

    An older digest is replaced by the newer one where exactly one is known to have replaced it; of
    two datasets with the same names and sizes, it is not known which one an older run had.

    Args:
        records: Records of runs by any rules; none is changed.

    Returns:
        The records, each with what is ``"unverified"`` of it if anything is, and the hashes that
        were replaced, by the older ones.
    """
    replaced: dict[str, set[str]] = {}
    known: set[str] = set()
    for record in records:
        identity = record["identity"]
        for old, new in identity.get(REPLACES_KEY, {}).items():
            replaced.setdefault(old, set()).add(new)
        if rules_of(identity) >= RULES:
            known.update(_digests(identity["canonical"]))
    current = {old: next(iter(new)) for old, new in replaced.items() if len(new) == 1}
    taken = {_key(record) for record in records}
    modern, hashes = [], {}
    for record in records:
        doubts = unverified(record, known)
        if doubts:
            changed = _modern(record, current)
            if changed is not None and _key(changed) not in taken:
                hashes[record["identity"]["hash"]] = changed["identity"]["hash"]
                record = changed
            record = {**record, "unverified": sorted(doubts)}
        modern.append(record)
    return modern, hashes


def _modern(record: Mapping[str, Any], current: Mapping[str, str]) -> dict[str, Any] | None:
    """A record with the identity by the rules of now; ``None`` if that is the same."""
    identity = record["identity"]
    canonical = _substitute(identity["canonical"], current)
    if canonical == identity["canonical"]:
        return None
    bare = {key: value for key, value in canonical.items() if key != "sites"}
    changed = {
        "hash": digest(canonical),
        "baseline": digest(bare),
        REPLACES_KEY: used_in(canonical, current),
        "canonical": canonical,
    }
    return {**record, "identity": {**identity, **changed}}


def _substitute(canonical: Mapping[str, Any], digests: Mapping[str, str]) -> dict[str, Any]:
    form = dict(canonical)
    if isinstance(form.get("data"), Mapping) and "fingerprint" in form["data"]:
        fingerprint = form["data"]["fingerprint"]
        form["data"] = {**form["data"], "fingerprint": digests.get(fingerprint, fingerprint)}
    if form.get("sites"):
        form["sites"] = {
            layer: {**site, "source": digests.get(site["source"], site["source"])}
            if "source" in site
            else site
            for layer, site in form["sites"].items()
        }
    return form


def _digests(canonical: Mapping[str, Any]) -> list[str]:
    return [_fingerprint(canonical), *_sources(canonical)]


def _fingerprint(canonical: Mapping[str, Any]) -> str:
    data = canonical.get("data")
    return str(data.get("fingerprint", "")) if isinstance(data, Mapping) else ""


def _sources(canonical: Mapping[str, Any]) -> list[str]:
    return [site["source"] for site in canonical.get("sites", {}).values() if "source" in site]


def _key(record: Mapping[str, Any]) -> tuple[str, int]:
    return record["identity"]["hash"], record["seed"]
