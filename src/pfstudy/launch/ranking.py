"""Did searches tell the truth? What they say of networks that were trained fully."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from pfstudy import searches
from pfstudy.errors import PfstudyError
from pfstudy.identity import agree
from pfstudy.launch.display import Display
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.launch.search import choose_found
from pfstudy.schema.operations import ORIGINAL
from pfstudy.schema.search import OneShot
from pfstudy.schema.sites import stages_of
from pfstudy.searches import Asked
from pfstudy.space import Choice
from pfstudy.stats.additive import find_estimable
from pfstudy.stats.predictor import fit_predictor
from pfstudy.words import counted

TRAINED = "full training"
ADDITIVE = "additive model, as design"
MACS = "MACs"

_LEAST = 4
_BEST_SHARE = 0.25

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Share:
    """How much of a stage an operation has.

    Attributes:
        by: What has found it.
        stage: The stage.
        operation: The operation.
        share: Share of the stage's searched sites.
    """

    by: str
    stage: str
    operation: str
    share: float


@dataclass(frozen=True)
class Ranking:
    """What is said of the same networks.

    Attributes:
        labels: Of the networks.
        scores: By what says it, a figure for every network, the higher the better; NaN where
            nothing is said. Full training comes first, its figure is test top-1 in percent.
        errors: Standard errors of full training; ``None`` if not known.
        num_seeds: The least and the most of the networks.
        shares: Of the operations, by stage.
        names: The searches.
    """

    labels: tuple[str, ...]
    scores: Mapping[str, np.ndarray]
    errors: np.ndarray | None
    num_seeds: tuple[int, int]
    shares: tuple[Share, ...]
    names: tuple[str, ...]


@dataclass(frozen=True)
class _Trained:
    """A network that was trained fully, perhaps several times."""

    label: str
    operations: Mapping[str, str]
    test: tuple[float, ...]
    validation: float
    macs: float


def rank_searches(
    records: Sequence[Record], root: Path, names: Sequence[str] | None = None
) -> Ranking:
    """Compare what searches say of networks with what full training says.

    Args:
        records: Of runs.
        root: Directory of the run directories, and of the searches.
        names: The searches; ``None`` for all of the backbone and data of the runs.

    Raises:
        PfstudyError: There is no such search, or too few networks were trained that they know.
    """
    chosen = searches.list_searches(root) if names is None else list(dict.fromkeys(names))
    if not chosen:
        raise PfstudyError(f"there are no searches in {root}; run pfstudy search first.")
    found = {name: searches.read_search(root, name) for name in chosen}
    asked = {name: searches.read_asked(searches.search_directory(root, name)) for name in chosen}
    family = _largest_family(records, asked)
    others = [name for name, each in asked.items() if not _fits(each, family)]
    if names is not None and others:
        raise PfstudyError(
            f"the search {others[0]} is of another backbone or other data than most runs here; "
            "choose others with --search, or runs with --study."
        )
    asked = {name: each for name, each in asked.items() if name not in others}
    known: list[tuple[_Trained, list[Choice]]] = []
    for network in _networks(family):
        told = [each.space.choice_of(network.operations) for each in asked.values()]
        choices = [choice for choice in told if choice is not None]
        if len(choices) == len(told):
            known.append((network, choices))
    if len(known) < _LEAST or not asked:
        raise PfstudyError(
            f"{counted(len(known), 'network')} trained here can be told by all of "
            f"{', '.join(asked) or ', '.join(chosen)}, but {_LEAST} are needed; train some with "
            "pfstudy search --train, or a study of the same operations with block.norm_act=keep."
        )
    networks = [network for network, _ in known]
    scores = {
        TRAINED: np.array([fmean(network.test) for network in networks]),
        ADDITIVE: _additive(family, networks),
    }
    for position, (name, each) in enumerate(asked.items()):
        mine = [choices[position] for _, choices in known]
        scores[name] = _score(root, name, each, found[name], mine)
    scores[MACS] = np.array([network.macs for network in networks])
    scores, networks = _in_common(scores, networks)
    numbers = [len(network.test) for network in networks]
    shares = _shares(asked, found, networks)
    return Ranking(
        tuple(network.label for network in networks),
        scores,
        _errors(networks),
        (min(numbers), max(numbers)),
        tuple(shares),
        tuple(asked),
    )


def _in_common(
    scores: Mapping[str, np.ndarray], networks: Sequence[_Trained]
) -> tuple[dict[str, np.ndarray], list[_Trained]]:
    """Keep the networks that everyone says something of; who knows too few says nothing."""
    telling = {name: each for name, each in scores.items() if np.isfinite(each).sum() >= _LEAST}
    said = np.all([np.isfinite(each) for each in telling.values()], axis=0)
    kept = [network for network, is_said in zip(networks, said, strict=True) if is_said]
    return {name: each[said] for name, each in telling.items()}, kept


def _largest_family(records: Sequence[Record], asked: Mapping[str, Asked]) -> list[Record]:
    """The records of one backbone, data and recipe that the searches fit, the most there are."""
    families: dict[str, list[Record]] = {}
    for record in records:
        if record["variant"].get("operations"):
            families.setdefault(record["identity"]["baseline"], []).append(record)
    fitting = [f for f in families.values() if any(_fits(each, f) for each in asked.values())]
    if not fitting:
        raise PfstudyError(
            "no runs here have the backbone and the data of a search; train what was found with "
            "pfstudy search --train."
        )
    return max(fitting, key=len)


def _fits(asked: Asked, family: Sequence[Record]) -> bool:
    return agree(asked.identity, family[0]["identity"], ("backbone", "data"))


def _networks(records: Sequence[Record]) -> list[_Trained]:
    by_variant: dict[str, list[Record]] = {}
    for record in records:
        by_variant.setdefault(record["identity"]["hash"], []).append(record)
    return [
        _Trained(
            seeds[0]["variant"]["label"],
            seeds[0]["variant"]["operations"],
            tuple(record["metrics"]["test_top1_percent"] for record in seeds),
            fmean(record["metrics"].get("val_top1_percent", math.nan) for record in seeds),
            seeds[0]["cost"]["macs"],
        )
        for seeds in by_variant.values()
    ]


def _additive(family: Sequence[Record], networks: Sequence[_Trained]) -> np.ndarray:
    """Validation accuracy of combinations, each predicted from all other variants."""
    said = np.full(len(networks), math.nan)
    everyone = [n for n in _networks(family) if math.isfinite(n.validation)]
    kept = find_estimable([network.operations for network in everyone], ORIGINAL, "block")
    everyone = [everyone[index] for index in kept]
    if not everyone:
        return said
    predictor = fit_predictor(
        [network.operations for network in everyone],
        [network.validation for network in everyone],
        [len(network.test) for network in everyone],
        ORIGINAL,
    )
    if predictor is None:
        return said
    held = predictor.fit.held_out
    by_label = {everyone[i].label: p for i, p in zip(held.indices, held.predicted, strict=True)}
    return np.array([by_label.get(network.label, math.nan) for network in networks])


def _score(
    root: Path, name: str, asked: Asked, record: Record, choices: Sequence[Choice]
) -> np.ndarray:
    """What a search says of networks."""
    space = asked.space
    if not isinstance(space.search, OneShot):
        log_p = record["log_probabilities"]
        return np.array(
            [
                sum(
                    log_p[site][space.operations[k]] for site, k in zip(space.sites, c, strict=True)
                )
                for c in choices
            ]
        )
    directory = searches.search_directory(root, name)
    known = {each.choice: each for each in searches.read_evaluations(directory, space)}
    if any(choice not in known for choice in choices):
        with Display() as display, Pool(PRELOAD) as pool:
            display.phase("report", f"{name}: {counted(len(choices), 'network')} by shared weights")
            display.bar("importing")
            pool.call(
                "pfstudy.search.evaluating:evaluate_given",
                directory,
                list(choices),
                on_report=display.follow(name, "completed", "total"),
            )
        known = {each.choice: each for each in searches.read_evaluations(directory, space)}
    return np.array([known[choice].val_top1_percent for choice in choices])


def _errors(networks: Sequence[_Trained]) -> np.ndarray | None:
    """Standard errors of mean test accuracies, from the spread between seeds of all networks."""
    squares = sum(float(np.var(n.test)) * len(n.test) for n in networks)
    degrees = sum(len(network.test) - 1 for network in networks)
    if not degrees:
        return None
    sizes = np.array([len(network.test) for network in networks])
    errors: np.ndarray = math.sqrt(squares / degrees) / np.sqrt(sizes)
    return errors


def _shares(
    asked: Mapping[str, Asked], found: Mapping[str, Record], networks: Sequence[_Trained]
) -> list[Share]:
    """Of what each search has found, and of the best quarter of the networks."""
    listed = []
    for name, each in asked.items():
        space = each.space
        choice = choose_found(each, found[name])
        stands = {s: space.operations[k] for s, k in zip(space.sites, choice, strict=True)}
        listed += _count(name, [stands])
    best = sorted(networks, key=lambda n: -fmean(n.test))
    best = best[: max(1, round(_BEST_SHARE * len(best)))]
    space = next(iter(asked.values())).space
    stands_each = []
    for network in best:
        choice_of = space.choice_of(network.operations)
        assert choice_of is not None  # only such networks are compared
        stands_each.append(
            {s: space.operations[k] for s, k in zip(space.sites, choice_of, strict=True)}
        )
    return listed + _count("best quarter, trained", stands_each)


def _count(by: str, networks: Sequence[Mapping[str, str]]) -> list[Share]:
    totals: dict[tuple[str, str], int] = {}
    sizes: dict[str, int] = {}
    for stands in networks:
        for site, operation in stands.items():
            (stage,) = stages_of([site])
            totals[stage, operation] = totals.get((stage, operation), 0) + 1
            sizes[stage] = sizes.get(stage, 0) + 1
    return [Share(by, stage, op, number / sizes[stage]) for (stage, op), number in totals.items()]
