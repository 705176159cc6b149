"""In what the config of a variant differs from that of its baseline, for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pfstudy.schema.operations import ORIGINAL
from pfstudy.schema.sites import summary
from pfstudy.variant import flatten

_SITES = "sites"


def list_differences(
    ours: Mapping[str, Any], theirs: Mapping[str, Any] | None
) -> list[tuple[str, str, str]]:
    """List what differs: layers that have the same change are taken together.

    Args:
        ours: A record of the variant.
        theirs: A record of its baseline; ``None`` for the unsubstituted backbone with the same
            settings.

    Returns:
        What, then its value in the baseline and in the variant.
    """
    original = ours["variant"].get("original", ORIGINAL)
    form = ours["identity"]["canonical"]
    other = theirs["identity"]["canonical"] if theirs else {**form, _SITES: {}}
    stands, stood = (_sites(record, original) for record in (ours, theirs or {}))
    groups: dict[tuple[str, str], list[str]] = {}
    for place in dict.fromkeys([*stood, *stands]):
        change = (stood.get(place, original), stands.get(place, original))
        if change[0] != change[1]:
            groups.setdefault(change, []).append(place)
    all_places = list(ours["variant"].get("operations", {}))
    found = [
        ("every block" if places == all_places else _name(places), *change)
        for change, places in groups.items()
    ]
    left, right = ({k: v for k, v in flat.items() if not k.startswith(f"{_SITES}.")}
                   for flat in (flatten(other), flatten(form)))  # fmt: skip
    keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
    return found + [(key, _written(left.get(key)), _written(right.get(key))) for key in keys]


def _sites(record: Mapping[str, Any], original: str) -> dict[str, str]:
    """What stands at the substituted sites, by their addresses, or else by their layers."""
    if not record:
        return {}
    sites = record["identity"]["canonical"].get(_SITES, {})
    replaced = {
        address: operation
        for address, operation in record["variant"].get("operations", {}).items()
        if operation != ORIGINAL
    }
    # both are in the order of the backbone, unless a source has sorted one of them
    is_aligned = list(replaced.values()) == [site["operation"] for site in sites.values()]
    places = list(replaced) if is_aligned else list(sites)
    return {
        place: _site(site, layer)
        for place, (layer, site) in zip(places, sites.items(), strict=True)
    }


def _site(site: Mapping[str, Any], layer: str) -> str:
    parts = [str(site["operation"])]
    if site.get("kernel_size"):
        parts.append(f"kernel {site['kernel_size']}")
    parent = layer.rpartition(".")[0]
    drops = [drop.removeprefix(f"{parent}.") for drop in site.get("drops", ())]
    if drops:
        parts.append(f"without {' and '.join(drops)}")
    known = ("operation", "kernel_size", "drops")
    parts += [f"{key} {_written(value)}" for key, value in site.items() if key not in known]
    return ", ".join(parts)


def _name(places: list[str]) -> str:
    are_addresses = all(re.fullmatch(r"stage\d+\.block\d+", place) for place in places)
    return summary(places) if are_addresses else ", ".join(places)


def _written(value: Any) -> str:
    return "not set" if value is None else value if isinstance(value, str) else json.dumps(value)
