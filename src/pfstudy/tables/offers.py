"""What may be chosen at every site, and what it is worth: effects, or a search's opinion."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pfstudy import files, store
from pfstudy.canonical import digest
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config, SiteSetting, parse_config
from pfstudy.schema.operations import ORIGINAL
from pfstudy.sources import WANDB, Gathered, gather
from pfstudy.speed.blocktable import what_stands
from pfstudy.stats.additive import find_estimable
from pfstudy.stats.comparison import deviation_of, estimate
from pfstudy.stats.predictor import Predictor, fit_predictor
from pfstudy.variant import Variant, make_variant
from pfstudy.words import counted

VALIDATION = "val_top1_percent"
"""Key of the figure that something may be chosen by."""

Worth = Literal["accuracy", "one_shot", "preference"]
"""What the value of a network is: of trained networks, of a supernet's paths, or no accuracy."""

_CURE = (
    "train one place at a time with random combinations, which test whether effects add up: "
    "pfstudy -m 'site=glob(stage?.block*)' swap=maxpool,avgpool "
    "'study.design=[one_at_a_time,random]' study.num_samples=10"
)


@dataclass(frozen=True)
class Option:
    """What may stand at a site.

    Attributes:
        label: The operation, with its kernel and norm where they are unusual.
        key: What it is called in block tables.
        setting: What a config says at the site.
    """

    label: str
    key: str
    setting: SiteSetting


@dataclass(frozen=True)
class Measured:
    """A network whose worth is known.

    Attributes:
        operations: The label of what stands at every site.
        keys: What block tables call it.
        value: What it is worth.
    """

    operations: Mapping[str, str]
    keys: Mapping[str, str]
    value: float


@dataclass(frozen=True)
class Offers:
    """What may be chosen.

    Attributes:
        config: What networks are trained with: backbone, data, recipe, setting of speed.
        fingerprint: What identifies the content of the data.
        options: By site, in the order of the backbone.
        points: What every option is worth, by site and label; a network is worth their sum.
        worth: What that is.
        predictor: Knows how sure it is; ``None`` where nothing is known.
        measured: What the values were learned from.
        num_seeds: With how many seeds most of that was trained.
        origin: Where it is from, in a few words.
        remarks: What a reader must know.
        groups: Of every site the number of its group, where sites of a group have the same
            operation.
    """

    config: Config
    fingerprint: str
    options: Mapping[str, tuple[Option, ...]]
    points: Mapping[tuple[str, str], float]
    worth: Worth
    predictor: Predictor | None
    measured: tuple[Measured, ...]
    num_seeds: int
    origin: str
    remarks: tuple[str, ...] = ()
    groups: tuple[int, ...] | None = None

    @cached_property
    def baseline(self) -> Variant:
        """The unsubstituted backbone, before any checkpoint is loaded."""
        bare = replace(self.config, init_from=None, pretrained=False)
        return make_variant(bare, self.fingerprint).baseline()


@dataclass(frozen=True)
class _Trained:
    """A variant of a family, with the validation accuracy of each seed."""

    variant: Variant
    accuracies: Mapping[int, float]

    @property
    def mean(self) -> float:
        return math.fsum(self.accuracies.values()) / len(self.accuracies)


def offers_of_runs(sources: Sequence[str | Path], study: str | None = None) -> Offers:
    """Learn what operations do at single sites from finished runs, on the validation split.

    Args:
        sources: Directories of runs.
        study: Whose members to take; ``None`` for all runs.

    Raises:
        PfstudyError: There are no such runs, or they cannot tell what an operation does at a site.
    """
    found = _gather(sources, study)
    by_family: dict[str, dict[str, list[Mapping[str, Any]]]] = {}
    for record in found.records:
        identity = record["identity"]
        family = by_family.setdefault(identity["baseline"], {})
        family.setdefault(identity["hash"], []).append(record)
    largest = max(by_family.values(), key=len)
    trained = [_trained(seeds) for seeds in largest.values()]
    networks = [each.variant.operations for each in trained]
    kept = find_estimable(networks, ORIGINAL, "block")
    used = [trained[index] for index in kept]
    config = trained[0].variant.config
    numbers = [len(each.accuracies) for each in used]
    predictor = fit_predictor(
        [each.variant.operations for each in used],
        [each.mean for each in used],
        numbers,
        ORIGINAL,
        *_deviation(used),
    )
    if predictor is None:
        raise PfstudyError(
            f"{counted(len(trained), 'variant')} of {config.model.name} on {config.data.name} "
            f"cannot tell what an operation does at a site; {_CURE}."
        )
    of = f"{config.model.name} on {config.data.name}, recipe {config.recipe.name}"
    origin = f"{counted(len(used), 'variant')} of {of}, {_seeds(numbers)}"
    return Offers(
        config,
        str(used[0].variant.canonical["data"]["fingerprint"]),
        _options(used),
        {(address, ORIGINAL): 0.0 for address in used[0].variant.operations}
        | effects_of(predictor),
        "accuracy",
        predictor,
        tuple(_measured(each) for each in used),
        Counter(numbers).most_common(1)[0][0],
        origin,
        tuple(_remarks(found, by_family, of, trained, kept)),
    )


def effects_of(predictor: Predictor) -> dict[tuple[str, str], float]:
    """The effects of a model, by place and operation."""
    found = predictor.fit.found_F[1:].tolist()
    return dict(zip(predictor.fit.features, found, strict=True))


def _gather(sources: Sequence[str | Path], study: str | None) -> Gathered:
    """Read finished runs that have directories here.

    Raises:
        PfstudyError: There are none.
    """
    needed = "its run directories are needed, which say what stands at every site"
    for source in map(str, sources):
        if source.startswith(WANDB):
            raise PfstudyError(f"{source} is no directory of runs; {needed}.")
    found = gather(sources, study)
    where = ", ".join(map(str, sources)) + (f" of the study {study}" if study else "")
    if not found.records:
        left = f", but {counted(len(found.incomplete), 'run')} not done" if found.incomplete else ""
        raise PfstudyError(f"there are no finished runs in {where}{left}; {_CURE}.")
    if any(not record.get("directory") for record in found.records):
        raise PfstudyError(f"{where} holds what W&B logged; {needed}.")
    return found


def _trained(seeds: Sequence[Mapping[str, Any]]) -> _Trained:
    """Read the variant of some records, as it is now, and what its seeds have.

    Raises:
        PfstudyError: A run has no validation accuracy, or its operations have changed.
    """
    path = Path(seeds[0]["directory"]) / store.CONFIG
    accuracies = {record["seed"]: record["metrics"].get(VALIDATION) for record in seeds}
    known = {seed: float(value) for seed, value in accuracies.items() if value is not None}
    if len(known) < len(seeds) or not all(map(math.isfinite, known.values())):
        raise PfstudyError(
            f"{path.parent} has no validation accuracy, and nothing is chosen by test accuracy."
        )
    written = files.read_json(path)
    canonical = seeds[0]["identity"]["canonical"]
    try:
        config, fingerprint = written["config"], canonical["data"]["fingerprint"]
    except (KeyError, TypeError):
        raise PfstudyError(f"{path} was not written by this version of pfstudy.") from None
    parsed = replace(parse_config(config), init_from=None, pretrained=False)
    variant = make_variant(parsed, fingerprint)
    sites = digest(canonical.get("sites", {}))
    forms = [each.canonical for each in (variant, variant.older()) if each]
    if all(digest(form.get("sites", {})) != sites for form in forms):
        raise PfstudyError(
            f"{path.parent}: the source of an operation has changed since it was trained; bring "
            "back what it was, or train it again."
        )
    return _Trained(replace(variant, config=parse_config(config)), known)


def _deviation(trained: Sequence[_Trained]) -> tuple[float, float]:
    """Standard deviation between seeds of a variant in points, and its degrees of freedom."""
    seeds = sorted({seed for each in trained for seed in each.accuracies})
    accuracies_GS = np.array(
        [[each.accuracies.get(seed, math.nan) for seed in seeds] for each in trained]
    )
    number = trained[0].variant.config.data.num_validation
    return deviation_of(estimate(accuracies_GS, None, "seeds", 100 / number if number else 0.0))


def _options(trained: Sequence[_Trained]) -> dict[str, tuple[Option, ...]]:
    """What stood at every site, the original first."""
    found: dict[str, dict[str, Option]] = {
        address: {
            ORIGINAL: Option(ORIGINAL, ORIGINAL, SiteSetting(address, ORIGINAL, None, "auto"))
        }
        for address in trained[0].variant.operations
    }
    for each in trained:
        keys = what_stands(each.variant)
        settings = {site.address: site for site in each.variant.config.sites}
        for address, label in each.variant.operations.items():
            option = Option(label, keys[address], settings[address])
            found[address].setdefault(label, option)
    return {address: tuple(options.values()) for address, options in found.items()}


def _measured(trained: _Trained) -> Measured:
    return Measured(trained.variant.operations, what_stands(trained.variant), trained.mean)


def _seeds(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    if least == most:
        return f"{counted(least, 'seed')} each"
    return f"{least} to {most} seeds each"


def _remarks(
    found: Gathered,
    by_family: Mapping[str, Mapping[str, Any]],
    of: str,
    trained: Sequence[_Trained],
    kept: Sequence[int],
) -> list[str]:
    remarks = []
    if len(by_family) > 1:
        number = sum(map(len, by_family.values()))
        remarks.append(
            f"There are {len(by_family)} families of backbone, data and recipe; this is the "
            f"largest, {of}: {len(trained)} of {number} variants. --study NAME chooses."
        )
    left = [each.variant.label for i, each in enumerate(trained) if i not in set(kept)]
    if left:
        shown = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        remarks.append(
            f"Left out, as they have operations that never stand without another one: {shown}."
        )
    if found.incomplete:
        remarks.append(f"{counted(len(found.incomplete), 'run')} not done, and not in it.")
    return remarks
