"""What statistics say of rows: differences with verdicts, the front, who is best."""

from __future__ import annotations

import math
from collections import Counter
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
from pfstudy.sources import Incomplete
from pfstudy.stats.comparison import (
    CONFIDENCE,
    Estimate,
    Population,
    decide,
    estimate,
    withhold,
)
from pfstudy.stats.effects import Family
from pfstudy.store import Looks
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.timing import find_fastest
from pfstudy.words import name_some

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
        other_looks: Studies among several that declare looks, which are not taken into account.
    """

    baseline: str | None = None
    population: Population | None = None
    margin: float = 0.0
    looks: Looks = field(default_factory=Looks)
    other_looks: tuple[str, ...] = ()

    @property
    def num_looks(self) -> int:
        """Among how many looks the level is divided.

        Bonferroni's correction; levels of normal statistics (Pocock 1977) are a little larger, but
        do not hold with a few seeds.
        """
        return max(len(self.looks.declared), 1)

    @property
    def confidence(self) -> float:
        """Of the intervals."""
        return 1 - (1 - CONFIDENCE) / self.num_looks


@dataclass(frozen=True)
class JudgedFamily:
    """Variants of one backbone, data and recipe, compared with one of them.

    Attributes:
        control: Identity of what they are compared with.
        has_control: Whether that is the baseline; or else it only is the first of them.
        hashes: Identities of the others, in the order of the estimate.
        estimate: The differences.
        has_lost: Whether runs of each have failed, the control's first.
        num_absent: Variants of which all runs have failed, so that they have no row.
        unknown: Runs of which it is not known which test images they have right, although it is of
            others.
        unpaired: Identities of variants whose runs are paired in order, as they share no seeds.
    """

    control: str
    has_control: bool
    hashes: tuple[str, ...]
    estimate: Estimate
    has_lost: tuple[bool, ...]
    num_absent: int = 0
    unknown: tuple[str, ...] = ()
    unpaired: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """Variants that are compared at once: what fails makes the others look no better."""
        return len(self.hashes) + self.num_absent


class Correct:
    """Reads which test images runs have right, each once."""

    def __init__(self) -> None:
        self._read: dict[str | None, np.ndarray | None] = {}
        self._labels: dict[str, np.ndarray] = {}

    def __call__(self, record: Mapping[str, Any]) -> np.ndarray | None:
        """Read which test images a run has right: ``(N,)``.

        Returns:
            ``None`` if that was not kept, or if the images are not in the order of the first run
            that was read of the same data.
        """
        directory = record.get("directory")
        if directory not in self._read:
            kept = _read_predictions(record)
            self._read[directory] = None if kept is None else self._compare(record, *kept)
        return self._read[directory]

    def _compare(
        self, record: Mapping[str, Any], labels: np.ndarray, predicted: np.ndarray
    ) -> np.ndarray | None:
        data = str(record["identity"]["canonical"].get("data"))
        if not np.array_equal(labels, self._labels.setdefault(data, labels)):
            return None
        right: np.ndarray = (predicted == labels)[labels >= 0]  # of those that could be read
        return right


def judge(
    frame: pd.DataFrame,
    by_variant: ByVariant,
    criteria: Criteria,
    failed: Sequence[Incomplete],
    correct: Correct,
) -> list[JudgedFamily]:
    """Compare every variant with the baseline of its family: same backbone, data, recipe.

    Sets ``is_control``, ``num_failed_seeds``, ``difference_points``, ``difference_low``,
    ``difference_high``, ``p_value``, ``population`` and ``verdict``.

    Args:
        frame: A row for every variant.
        by_variant: Their records.
        criteria: How they are judged.
        failed: The runs that failed.
        correct: Reads which test images runs have right.

    Raises:
        PfstudyError: No variant has the label of the baseline, or nothing is known of the
            population that was asked for.
    """
    named = criteria.baseline
    chosen = frame["is_baseline"] if named is None else frame["label"] == named
    if named is not None and not chosen.any():
        raise unknown_name("baseline", named, frame["label"])
    num_failed = Counter(run.key[0] for run in failed)
    frame["num_failed_seeds"] = [num_failed[name] for name in frame["hash"]]
    there = set(frame["hash"])
    absent = Counter(family for _, family in {(run.key[0], run.family) for run in failed
                                              if run.key[0] not in there})  # fmt: skip
    families = []
    for _, family in frame.groupby("family", sort=False):
        controls = family.loc[chosen[family.index], "hash"]
        control = family["hash"].iloc[0] if controls.empty else controls.iloc[0]
        runs = _Runs(control, family, by_variant, correct)
        made, unknown = runs.estimate(criteria.population)
        families.append(
            JudgedFamily(
                control,
                not controls.empty,
                runs.others,
                made,
                tuple(name in num_failed for name in (control, *runs.others)),
                absent[family["family"].iloc[0]],
                unknown,
                runs.unpaired,
            )
        )
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
        p_V = np.minimum(criteria.num_looks * made.p_values(number), 1)
        columns = (made.differences_V, low_V, high_V, p_V)
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


class _Runs:
    """Runs of some rows by variant and seed, in the order of the control's seeds."""

    def __init__(
        self, control: str, frame: pd.DataFrame, by_variant: ByVariant, correct: Correct
    ) -> None:
        self.others = tuple(name for name in frame["hash"] if name != control)
        self._resolution = float(np.nan_to_num(frame["resolution_points"].max()))
        of_control = _by_seed(by_variant[control])
        self._correct = correct
        self._runs_GS: list[list[Mapping[str, Any] | None]] = [list(of_control.values())]
        unpaired = []
        for name in self.others:
            own = _by_seed(by_variant[name])
            shared = own.keys() & of_control.keys()
            # one seed that is shared says nothing of the spread, and two others would
            if len(shared) >= min(2, len(own), len(of_control)):
                self._runs_GS.append([own.get(seed) for seed in of_control])
            else:
                runs = list(own.values())[: len(of_control)]
                self._runs_GS.append([*runs, *[None] * (len(of_control) - len(runs))])
                unpaired.append(name)
        self.unpaired = tuple(unpaired)

    def estimate(self, asked: Population | None) -> tuple[Estimate, tuple[str, ...]]:
        """Estimate differences, for the population asked for or the best one that is known.

        Returns:
            The estimate, and the runs of which the right images are not known although they are of
            others.
        """
        accuracies_GS = np.array(
            [
                [math.nan if r is None else r["metrics"][ACCURACY] for r in runs]
                for runs in self._runs_GS
            ]
        )
        paired_VS = accuracies_GS[1:] - accuracies_GS[:1]
        is_single = bool((np.isfinite(paired_VS).sum(axis=1) < 2).all())
        population = asked or ("images" if is_single else "both")
        if population == "seeds":
            return estimate(accuracies_GS, None, population, self._resolution), ()
        right, unknown = self._read()
        if asked is None and not is_single and (unknown or right is None):
            return estimate(accuracies_GS, None, "seeds", self._resolution), unknown
        return estimate(accuracies_GS, right, population, self._resolution), unknown

    def _read(self) -> tuple[list[list[np.ndarray | None]] | None, tuple[str, ...]]:
        """Which images all runs have right; ``None`` if that is known of none."""
        right_GS = [
            [None if r is None else self._correct(r) for r in runs] for runs in self._runs_GS
        ]
        pairs = [
            (record, right)
            for records, rights in zip(self._runs_GS, right_GS, strict=True)
            for record, right in zip(records, rights, strict=True)
            if record is not None
        ]
        sizes = Counter(len(right) for _, right in pairs if right is not None)
        if not sizes:
            return None, ()
        usual = sizes.most_common(1)[0][0]
        unknown = (
            f"{record['variant']['label']} seed{record['seed']}"
            for record, right in pairs
            if right is None or len(right) != usual
        )
        return right_GS, tuple(unknown)


def _by_seed(records: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    return {record["seed"]: record for record in sorted(records, key=itemgetter("seed"))}


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
            f"--population {asked} is about new trainings, but there is one seed, and "
            "nothing tells how trainings vary; train more with seeds=3, or use --population "
            "images."
        )
    unknown = [name for family in compared for name in family.unknown]
    of = f"of {name_some(unknown)}" if unknown else "of the runs"
    raise PfstudyError(
        f"--population {asked} is about new test images, but it is not known which ones {of} are "
        "right: predictions.npz is missing, which W&B does not have; use --population seeds with "
        "several seeds."
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
        if len(families) == 1 and families[0].control == name:  # compared with it before
            made = families[0].estimate
        else:
            made, _ = _Runs(name, frame, by_variant, correct).estimate(criteria.population)
        _, high_V = made.ends(len(frame) - 1, criteria.confidence)
        lost = bool(frame["num_failed_seeds"].iloc[best])
        most_accurate[best] = bool((high_V < 0).all()) and not lost
    frame["is_most_accurate"], frame["is_fastest"] = most_accurate, find_fastest(frame)


def resolution_of(record: Mapping[str, Any], correct: Correct) -> float:
    """Step between accuracies in points, 100 over the number of test images; NaN if not known."""
    number = record["identity"]["canonical"].get("data", {}).get("num_test")
    if not number:  # all images of a folder
        found = correct(record)
        number = 0 if found is None else len(found)
    return 100 / number if number else math.nan


def _read_predictions(record: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Read the labels of the test images and what a run says: ``(N,)`` each."""
    directory = record.get("directory")
    path = None if directory is None else Path(directory) / store.PREDICTIONS
    if path is None or not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as kept:
            first = kept["top5"][:, 0] if "top5" in kept else kept["logits"].argmax(axis=1)
            return kept["labels"], first
    except (OSError, ValueError, KeyError, IndexError, EOFError, BadZipFile):
        raise PfstudyError(
            f"{path} is damaged; move it away; without it, test images are no source of error."
        ) from None
