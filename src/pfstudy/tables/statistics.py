"""What statistics say of rows: differences with verdicts, the front, who is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from pfstudy import store
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.stats.comparison import (
    CONFIDENCE,
    Estimate,
    Population,
    decide,
    estimate,
    withhold,
)
from pfstudy.stats.effects import Family
from pfstudy.stats.front import (
    SURE,
    Uncertain,
    at_equal_cost,
    draw_accuracies,
    draw_costs,
    front_probability,
    intervals_at_equal_cost,
)
from pfstudy.store import Looks
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.timing import COMPARABLE, find_fastest, latency_errors

POPULATIONS: dict[Population, str] = {
    "both": "new trainings of these variants and new test images like these",
    "seeds": "new trainings of these variants, judged on these test images",
    "images": "these trained networks and new test images like these; of new trainings they say "
    "nothing",
}
"""What intervals and verdicts are about."""

ByVariant = Mapping[str, Sequence[Mapping[str, Any]]]
"""The records of every variant, by its identity."""


@dataclass(frozen=True)
class Criteria:
    """How variants are judged.

    Attributes:
        baseline: Label of the variant to compare with; ``None`` for the unsubstituted backbone.
        population: What statements are about; ``None`` for what is known best: ``both``, or else
            ``seeds``, or with one seed ``images``.
        margin: A loss in points that does not matter; 0 for none.
        looks: At which numbers of seeds the study is judged, and has been.
    """

    baseline: str | None = None
    population: Population | None = None
    margin: float = 0.0
    looks: Looks = field(default_factory=Looks)

    @property
    def confidence(self) -> float:
        """Of the intervals: the level is divided among the looks that were declared.

        Bonferroni's correction; levels of normal statistics (Pocock 1977) are a little larger, but
        do not hold with a few seeds.
        """
        return 1 - (1 - CONFIDENCE) / max(len(self.looks.declared), 1)


@dataclass(frozen=True)
class JudgedFamily:
    """Variants of one backbone, data and recipe, compared with one of them.

    Attributes:
        control: Identity of what they are compared with.
        has_control: Whether that is the baseline; or else it only is the first of them.
        hashes: Identities of the others, in the order of the estimate.
        estimate: The differences.
        has_lost: Whether runs of each have failed, the control's first.
    """

    control: str
    has_control: bool
    hashes: tuple[str, ...]
    estimate: Estimate
    has_lost: tuple[bool, ...]

    @property
    def number(self) -> int:
        """Variants that are compared at once."""
        return len(self.hashes)


class Correct:
    """Reads which test images runs have right, each once."""

    def __init__(self) -> None:
        self._read: dict[str | None, np.ndarray | None] = {}

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """Read which test images a run has right: ``(N,)``; ``None`` if that was not kept."""
        directory = record.get("directory")
        if directory not in self._read:
            self._read[directory] = read_correct(record)
        return self._read[directory]


def judge(
    frame: pd.DataFrame,
    by_variant: ByVariant,
    criteria: Criteria,
    num_failed: Mapping[str, int],
    correct: Correct,
) -> list[JudgedFamily]:
    """Compare every variant with the baseline of its family: same backbone, data, recipe.

    Sets ``is_control``, ``num_failed_seeds``, ``difference_points``, ``difference_low``,
    ``difference_high``, ``p_value``, ``population`` and ``verdict``.

    Args:
        frame: A row for every variant.
        by_variant: Their records.
        criteria: How they are judged.
        num_failed: Number of runs of a variant that failed, by its identity.
        correct: Reads which test images runs have right.

    Raises:
        PfstudyError: No variant has the label of the baseline, or nothing is known of the
            population that was asked for.
    """
    named = criteria.baseline
    chosen = frame["is_baseline"] if named is None else frame["label"] == named
    if named is not None and not chosen.any():
        raise unknown_name("baseline", named, frame["label"])
    frame["num_failed_seeds"] = [num_failed.get(name, 0) for name in frame["hash"]]
    families = []
    for _, family in frame.groupby("family", sort=False):
        controls = family.loc[chosen[family.index], "hash"]
        control = family["hash"].iloc[0] if controls.empty else controls.iloc[0]
        made = _estimate(control, family, by_variant, criteria.population, correct)
        hashes = tuple(name for name in family["hash"] if name != control)
        lost = tuple(name in num_failed for name in (control, *hashes))
        families.append(JudgedFamily(control, not controls.empty, hashes, made, lost))
    _refuse_population(families, criteria.population)
    _write(frame, families, criteria)
    return families


def _write(frame: pd.DataFrame, families: Sequence[JudgedFamily], criteria: Criteria) -> None:
    keys = ("difference_points", "difference_low", "difference_high", "p_value")
    found: dict[str, tuple[Any, ...]] = {}
    controls = set()
    for family in families:
        if not family.has_control:
            continue
        controls.add(family.control)
        found[family.control] = (0.0, None, None, None, None, None)
        if not family.hashes:
            continue
        made, number = family.estimate, family.number
        low_V, high_V = made.ends(number, criteria.confidence)
        columns = (made.differences_V, low_V, high_V, made.p_values(number))
        lists = [values.tolist() for values in columns]
        for name, lost, *values in zip(family.hashes, family.has_lost[1:], *lists, strict=True):
            verdict = decide(values[1], values[2], criteria.margin)
            verdict = withhold(verdict, lost=lost, baseline_lost=family.has_lost[0])
            of = None if verdict is None else made.population
            found[name] = (*values, of, verdict)
    nothing = (None,) * (len(keys) + 2)
    written = [found.get(name, nothing) for name in frame["hash"]]
    frame["is_control"] = frame["hash"].isin(controls)
    for index, key in enumerate((*keys, "population", "verdict")):
        kind = float if index < len(keys) else object
        frame[key] = pd.Series([each[index] for each in written], frame.index, kind)


def _estimate(
    control: str,
    family: pd.DataFrame,
    by_variant: ByVariant,
    asked: Population | None,
    correct: Correct,
) -> Estimate:
    """Estimate differences to a variant, for the population asked for or the best known one."""
    others = [name for name in family["hash"] if name != control]
    resolution = float(np.nan_to_num(family["resolution_points"].max()))
    of_control = _by_seed(by_variant[control])
    runs_GS: list[list[Mapping[str, Any] | None]] = [list(of_control.values())]
    runs_GS += [_align(of_control, _by_seed(by_variant[name])) for name in others]
    accuracies_GS = np.array(
        [[math.nan if r is None else r["metrics"][ACCURACY] for r in runs] for runs in runs_GS]
    )
    is_single = bool((np.isfinite(accuracies_GS[1:] - accuracies_GS[:1]).sum(axis=1) < 2).all())
    population = asked or ("images" if is_single else "both")
    if population == "seeds":
        return estimate(accuracies_GS, None, population, resolution)
    right = [[None if r is None else correct(r) for r in runs] for runs in runs_GS]
    if asked is None and not is_single and not _are_known(right, accuracies_GS):
        return estimate(accuracies_GS, None, "seeds", resolution)
    return estimate(accuracies_GS, right, population, resolution)


def _are_known(right: Sequence[Sequence[np.ndarray | None]], accuracies_GS: np.ndarray) -> bool:
    """Whether it is known of every run which test images it has right, and all are on the same."""
    has = zip(right, np.isfinite(accuracies_GS).tolist(), strict=True)
    sizes = {
        -1 if each is None else len(each)
        for runs, has_S in has
        for each, is_there in zip(runs, has_S, strict=True)
        if is_there
    }
    return len(sizes) == 1 and -1 not in sizes


def _by_seed(records: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {record["seed"]: record for record in sorted(records, key=itemgetter("seed"))}


def _align(
    of_control: Mapping[int, Mapping[str, Any]], own: Mapping[int, Mapping[str, Any]]
) -> list[Mapping[str, Any] | None]:
    """Runs in the order of the control's seeds; one after the other where no seed is shared.

    Runs that share nothing are paired at random then, which takes nothing from the statement.
    """
    if own.keys() & of_control.keys():
        return [own.get(seed) for seed in of_control]
    runs = list(own.values())[: len(of_control)]
    return [*runs, *[None] * (len(of_control) - len(runs))]


def _refuse_population(families: Sequence[JudgedFamily], asked: Population | None) -> None:
    """Refuse a population of which nothing is known.

    Raises:
        PfstudyError: So it is.
    """
    compared = [family for family in families if family.has_control and family.hashes]
    if asked is None or not compared:
        return
    if any((family.estimate.df > 0).any() for family in compared):
        return
    most = max(int(family.estimate.num_seeds_V.max()) for family in compared)
    if most < 2 and asked != "images":
        raise PfstudyError(
            f"--population {asked} is about {POPULATIONS[asked]}, but there is one seed, and "
            "nothing tells how trainings vary; train more with seeds=3, or use --population "
            "images."
        )
    raise PfstudyError(
        f"--population {asked} is about {POPULATIONS[asked]}, but it is not known which test "
        "images the runs have right (predictions.npz, which W&B does not have); use --population "
        "seeds with several seeds."
    )


def effects_family(frame: pd.DataFrame, family: JudgedFamily) -> Family:
    """A judged family, for additive models."""
    rows = frame.set_index("hash")
    names = [family.control, *family.hashes]
    return Family(
        rows.loc[names, "operations"].tolist(),
        float(rows[ACCURACY][family.control]),
        family.estimate,
        family.has_lost,
    )


def find_front(
    frame: pd.DataFrame, families: Sequence[JudgedFamily], by_variant: ByVariant, correct: Correct
) -> str | None:
    """Find who is on the front of accuracy over latency, or else over MACs, of one dataset.

    Sets ``front_probability``, ``front``, ``equal_latency_points`` and the ends of its 95 %
    interval: the accuracy above the line through the unsubstituted backbones of the same recipe at
    the same latency. Where nothing tells how sure accuracies are, there is no front. A variant
    that has lost runs is not surely on it.

    Returns:
        Key of the cost; ``None`` if there is nobody to compare with.
    """
    columns = ("front_probability", "equal_latency_points", "equal_latency_low")
    for key in (*columns, "equal_latency_high"):
        frame[key] = math.nan
    cost = "latency_ms" if frame["latency_ms"].notna().sum() > 1 else "macs"
    has_front = False
    for _, shown in frame[frame[cost].notna()].groupby("test_set"):
        accuracies_DV = _draw_accuracies(shown, families, by_variant, correct)
        if accuracies_DV is None:
            continue
        numbers = pd.factorize(shown["backbone"])[0]
        nothing = np.zeros(len(shown))
        own, common = latency_errors(shown) if cost == "latency_ms" else (nothing, nothing)
        key = COMPARABLE if cost == "latency_ms" else cost
        costs_DV = draw_costs(shown[key].to_numpy(float), own, common, numbers)
        if len(shown) > 1:
            has_front = True
            found = front_probability(costs_DV, accuracies_DV)
            frame.loc[shown.index, "front_probability"] = found
        if cost == "latency_ms":
            _find_equal_latency(frame, shown, costs_DV, accuracies_DV)
    frame["front"] = [
        None if math.isnan(p) else _on_front(p, lost)
        for p, lost in zip(frame["front_probability"], frame["num_failed_seeds"] > 0, strict=True)
    ]
    return cost if has_front else None


def _on_front(probability: float, lost: bool) -> str:
    if probability >= SURE:
        return "perhaps" if lost else "yes"
    return "perhaps" if probability >= 1 - SURE else "no"


def _find_equal_latency(
    frame: pd.DataFrame, shown: pd.DataFrame, costs_DV: np.ndarray, accuracies_DV: np.ndarray
) -> None:
    positions = pd.Series(range(len(shown)), shown.index)
    for _, alike in shown.groupby("all_but_network"):
        is_base = alike["is_baseline"].to_numpy(bool)
        if alike.loc[is_base, "model"].nunique() < 2:
            continue
        at = positions[alike.index].to_numpy()
        points = (alike[COMPARABLE].to_numpy(float), alike[ACCURACY].to_numpy(float), is_base)
        above = at_equal_cost(*points)
        drawn = (costs_DV[:, at], accuracies_DV[:, at], is_base)
        low, high = intervals_at_equal_cost(*drawn, CONFIDENCE)
        has = np.isfinite(above) & ~is_base
        frame.loc[alike.index, "equal_latency_points"] = above
        frame.loc[alike.index[has], "equal_latency_low"] = low[has]
        frame.loc[alike.index[has], "equal_latency_high"] = high[has]


def _draw_accuracies(
    shown: pd.DataFrame,
    families: Sequence[JudgedFamily],
    by_variant: ByVariant,
    correct: Correct,
) -> np.ndarray | None:
    """Draw accuracies of variants on the same test images; ``None`` if nothing tells their errors.

    Returns:
        ``(draws, V)`` in the order of the rows.
    """
    known = shown.set_index("hash")
    uncertain, names = [], []
    for family in families:
        members = [name for name in (family.control, *family.hashes) if name in known.index]
        if not members:
            continue
        made = _uncertain(family, known, by_variant, correct)
        if made is None:
            return None
        uncertain.append(made)
        names += [family.control, *family.hashes]
    drawn_DV = draw_accuracies(uncertain)
    column = {name: index for index, name in enumerate(names)}
    return drawn_DV[:, [column[name] for name in shown["hash"]]]


def _uncertain(
    family: JudgedFamily, known: pd.DataFrame, by_variant: ByVariant, correct: Correct
) -> Uncertain | None:
    names = (family.control, *family.hashes)
    accuracies_G = np.array(
        [math.fsum(_accuracies(by_variant[name])) / len(by_variant[name]) for name in names]
    )
    made = family.estimate
    has_errors = bool(family.hashes) and bool((made.df > 0).all())
    seeds = _accuracies(by_variant[family.control])
    common = float(np.std(seeds, ddof=1)) / len(seeds) ** 0.5 if len(seeds) > 1 else 0.0
    images_GN = None
    if made.population != "seeds":
        images_GN = _shares(names, by_variant, correct)
    if has_errors:
        own = float(np.mean(made.seed_errors_V**2)) / 2
        common = math.sqrt(max(common**2 - own, 0.0))  # what differences do not have
        return Uncertain(accuracies_G, made, images_GN, None, common)
    if not family.hashes and (images_GN is not None or common):
        return Uncertain(accuracies_G, made, images_GN, None, common)
    steps = known["resolution_points"].reindex(names).to_numpy(float)
    shares = accuracies_G / 100
    # a standard error is 100 sqrt(p (1 - p) / N), and the step between accuracies 100 / N
    errors_G = np.sqrt(100 * shares * (1 - shares) * steps)
    if np.isnan(errors_G).any():
        return None
    return Uncertain(accuracies_G, made, None, errors_G)


def _shares(names: Sequence[str], by_variant: ByVariant, correct: Correct) -> np.ndarray | None:
    """Share of the seeds that have an image right: ``(V, N)``; ``None`` if it is not known."""
    found: list[np.ndarray] = []
    for name in names:
        right = [correct(record) for record in by_variant[name]]
        known = [each for each in right if each is not None]
        if len(known) < len(right) or len({len(each) for each in known}) > 1:
            return None
        found.append(np.asarray(np.mean(known, axis=0, dtype=np.float32)))
    return np.array(found) if len({len(each) for each in found}) == 1 else None


def find_best(
    frame: pd.DataFrame,
    families: Sequence[JudgedFamily],
    by_variant: ByVariant,
    criteria: Criteria,
    correct: Correct,
) -> None:
    """Find who is better than all others, and really so.

    Sets ``is_most_accurate``: every other variant is worse where all of them are compared with
    this one, and none of its runs has failed; and ``is_fastest``. Of one test set, or it is nobody.
    """
    most_accurate = np.zeros(len(frame), bool)
    if len(frame) > 1 and frame["test_set"].nunique() == 1:
        best = int(frame[ACCURACY].to_numpy(float).argmax())
        name = frame["hash"].iloc[best]
        same = [f for f in families if f.control == name and len(families) == 1]
        made = (
            same[0].estimate
            if same
            else _estimate(name, frame, by_variant, criteria.population, correct)
        )
        _, high_V = made.ends(len(frame) - 1, criteria.confidence)
        lost = bool(frame["num_failed_seeds"].iloc[best])
        most_accurate[best] = bool((high_V < 0).all()) and not lost
    frame["is_most_accurate"], frame["is_fastest"] = most_accurate, find_fastest(frame)


def _accuracies(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    return [record["metrics"][ACCURACY] for record in seeds]


def resolution_of(record: Mapping[str, Any], correct: Correct) -> float:
    """Step between accuracies in points, 100 over the number of test images; NaN if not known."""
    number = record["identity"]["canonical"].get("data", {}).get("num_test")
    if not number:  # all images of a folder
        found = correct(record)
        number = 0 if found is None else len(found)
    return 100 / number if number else math.nan


def read_correct(record: Mapping[str, Any]) -> np.ndarray | None:
    """Read which test images a run has right: ``(N,)``; ``None`` if that was not kept."""
    directory = record.get("directory")
    path = None if directory is None else Path(directory) / store.PREDICTIONS
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            labels = kept["labels"]
            first = kept["top5"][:, 0] if "top5" in kept else kept["logits"].argmax(axis=1)
            correct: np.ndarray = (first == labels)[labels >= 0]  # of those that could be read
            return correct
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        raise PfstudyError(f"{path} is damaged; move it away, and no test is made of it.") from None
