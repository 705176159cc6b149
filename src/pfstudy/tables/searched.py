"""What a search offers: its preferences, or effects in the accuracy of a supernet's paths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.searches import read_asked, read_search, search_directory
from pfstudy.space import Space
from pfstudy.speed.blocktable import what_stands
from pfstudy.stats.additive import find_estimable
from pfstudy.stats.predictor import fit_predictor
from pfstudy.tables.offers import Measured, Offers, Option, effects_of
from pfstudy.words import counted

_Options = dict[str, tuple[Option, ...]]


def offers_of_search(root: Path, name: str) -> Offers:
    """Take what a search has found for what operations are worth.

    Args:
        root: Directory of the run directories.
        name: Name of the search.

    Raises:
        PfstudyError: There is no such search, or its evaluations cannot tell operations apart.
    """
    record = read_search(root, name)
    asked = read_asked(search_directory(root, name))
    space = asked.space
    fingerprint = str(asked.identity["canonical"]["data"]["fingerprint"])
    common = Offers(
        config=replace(space.config, search=None),
        fingerprint=fingerprint,
        options=_options(space),
        points={},
        worth="preference",
        predictor=None,
        measured=(),
        num_seeds=1,
        origin=f"the search {name} ({record['preset']})",
    )
    if record.get("log_probabilities"):
        return _preferences(common, space, record["log_probabilities"])
    return _effects(common, space, record["evaluations"], name)


def _options(space: Space) -> _Options:
    """What may stand at every site; where nothing was searched, what stands there."""
    indices = range(len(space.operations))
    keys = [what_stands(variant) for variant in space.uniform]
    settings = [
        {site.address: site for site in space.settings((index,) * len(space.sites))}
        for index in indices
    ]
    return {
        address: tuple(
            Option(space.uniform[index].operations[address], keys[index][address], setting[address])
            for index, setting in enumerate(settings if address in space.sites else settings[:1])
        )
        for address in (site.address for site in space.config.sites)
    }


def _preferences(
    common: Offers, space: Space, preferred: Mapping[str, Mapping[str, float]]
) -> Offers:
    points: dict[tuple[str, str], float] = {}
    for address, listed in common.options.items():
        if address not in space.sites:
            points[address, listed[0].label] = 0.0
            continue
        for name, option in zip(space.operations, listed, strict=True):
            place, value = (address, option.label), float(preferred[address][name])
            points[place] = max(value, points.get(place, value))
    groups = None
    if len(space.groups) < len(space.sites):
        group_of = dict(zip(space.sites, space.group_of, strict=True))
        own = len(space.groups)
        groups = tuple(group_of.get(a, own + n) for n, a in enumerate(common.options))
    options = common.options if groups else _distinct(common.options)
    return replace(common, options=options, points=points, groups=groups)


def _effects(
    common: Offers, space: Space, evaluations: list[Mapping[str, Any]], name: str
) -> Offers:
    """Fit an additive model to the evaluated paths; what it cannot tell apart is not offered."""
    by_name = {
        address: dict(zip(space.operations, common.options[address], strict=True))
        for address in space.sites
    }
    paths = [
        {address: by_name[address][operation] for address, operation in each["operations"].items()}
        for each in evaluations
    ]
    networks = [{address: option.label for address, option in path.items()} for path in paths]
    offered = {label for network in networks for label in network.values()}
    reference = ORIGINAL
    if ORIGINAL not in offered:
        listed = (option.label for option in common.options[space.sites[0]])
        reference = next(label for label in listed if label in offered)
    kept = find_estimable(networks, reference, "block")
    predictor = fit_predictor(
        [networks[index] for index in kept],
        [float(evaluations[index]["val_top1_percent"]) for index in kept],
        [1] * len(kept),
        reference,
    )
    if predictor is None:
        raise PfstudyError(
            f"the {counted(len(evaluations), 'path')} that the search {name} evaluated cannot tell "
            "what an operation does at a site; search with a larger search.num_evaluations."
        )
    known = effects_of(predictor) | {(address, reference): 0.0 for address in space.sites}
    fixed = {a: o for a, o in common.options.items() if a not in space.sites}
    known |= {(address, options[0].label): 0.0 for address, options in fixed.items()}
    options = {
        address: tuple(option for option in options if (address, option.label) in known)
        for address, options in _distinct(common.options).items()
    }
    stands = {address: options[0] for address, options in fixed.items()}
    order = list(common.options)
    measured = []
    for index in kept:
        whole = {address: (stands | paths[index])[address] for address in order}
        measured.append(
            Measured(
                {address: option.label for address, option in whole.items()},
                {address: option.key for address, option in whole.items()},
                float(evaluations[index]["val_top1_percent"]),
            )
        )
    return replace(
        common,
        options=options,
        points=known,
        worth="one_shot",
        predictor=predictor,
        measured=tuple(measured),
        origin=f"{counted(len(kept), 'path')} of {common.origin}",
    )


def _distinct(options: Mapping[str, tuple[Option, ...]]) -> _Options:
    """Each option once, as operations may be the same at a site."""
    return {
        address: tuple({option.label: option for option in reversed(listed)}.values())[::-1]
        for address, listed in options.items()
    }
