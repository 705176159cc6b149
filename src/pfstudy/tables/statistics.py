"""What statistics say of rows: differences with verdicts, the front, who is best."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from pfstudy import store
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.stats.comparison import Comparison, compare_family
from pfstudy.stats.front import SURE, at_equal_cost, front_probability
from pfstudy.tables.columns import ACCURACY

_WIDTH_IN_ERRORS = 2 * 1.96
_COMPARED = {
    "difference": "difference_points",
    "low": "difference_low",
    "high": "difference_high",
    "p_value": "p_value",
    "test": "test",
    "verdict": "verdict",
}

ByVariant = Mapping[str, Sequence[Mapping[str, Any]]]
"""The records of every variant, by its identity."""


def compare(frame: pd.DataFrame, by_variant: ByVariant, baseline: str | None) -> None:
    """Compare every variant with the baseline of its family: same backbone, data, recipe.

    Sets ``is_control``, ``difference_points``, ``difference_low``, ``difference_high``,
    ``p_value``, ``test`` and ``verdict``.

    Raises:
        PfstudyError: No variant has the label of ``baseline``.
    """
    chosen = frame["is_baseline"] if baseline is None else frame["label"] == baseline
    if baseline is not None and not chosen.any():
        raise unknown_name("baseline", baseline, frame["label"])
    compared: dict[str, Comparison] = {}
    found_controls: set[str] = set()
    for _, family in frame.groupby("family", sort=False)["hash"]:
        controls = family[chosen[family.index]]
        if controls.empty:
            continue
        control = controls.iloc[0]
        found_controls.add(control)
        compared[control] = Comparison(0.0)
        compared |= _compare_with(control, frame.loc[family.index], by_variant)
    frame["is_control"] = frame["hash"].isin(found_controls)
    nothing = dict.fromkeys(_COMPARED)
    found = [vars(compared[h]) if h in compared else nothing for h in frame["hash"]]
    for key, column in _COMPARED.items():
        kind = object if key in ("test", "verdict") else float
        frame[column] = pd.Series([each[key] for each in found], frame.index, kind)


def find_front(frame: pd.DataFrame, by_variant: ByVariant) -> str | None:
    """Find who is on the front of accuracy over latency, or else over MACs, of one dataset.

    Sets ``front_probability``, ``front``, and ``equal_latency_points``: the accuracy above the
    line through the unsubstituted backbones of the same recipe at the same latency. Where nothing
    tells how sure accuracies are, there is no front.

    Returns:
        Key of the cost; ``None`` if there is nobody to compare with.
    """
    probability = pd.Series(np.nan, frame.index)
    above = pd.Series(np.nan, frame.index)
    cost = "latency_ms" if frame["latency_ms"].notna().sum() > 1 else "macs"
    has_front = False
    for _, shown in frame[frame[cost].notna()].groupby("test_set"):
        errors, df = _accuracy_errors(shown)
        if len(shown) < 2 or np.isnan(errors).any():
            continue
        has_front = True
        costs, accuracies = shown[cost].to_numpy(float), shown[ACCURACY].to_numpy(float)
        probability[shown.index] = front_probability(
            costs, _cost_errors(shown, cost), accuracies, errors, df
        )
    for _, shown in frame[frame["latency_ms"].notna()].groupby("all_but_network"):
        bases = shown[shown["is_baseline"]]
        if bases["model"].nunique() > 1:
            line = (bases["latency_ms"].to_numpy(float), bases[ACCURACY].to_numpy(float))
            points = zip(shown["latency_ms"], shown[ACCURACY], strict=True)
            over = [at_equal_cost(*point, *line) for point in points]
            above[shown.index] = pd.Series(over, shown.index, float)
    frame["front_probability"], frame["equal_latency_points"] = probability, above
    frame["front"] = [
        None if math.isnan(p) else "yes" if p >= SURE else "perhaps" if p >= 1 - SURE else "no"
        for p in probability.tolist()
    ]
    return cost if has_front else None


def find_best(frame: pd.DataFrame, by_variant: ByVariant) -> None:
    """Find who is better than all others, and really so.

    Sets ``is_most_accurate``: every other variant is worse by the test that compares all of them
    with this one; and ``is_fastest``: its interval lies below all others', and no figure is
    marked. Of one test set, and for speed of one backbone, or it is nobody.
    """
    most_accurate, fastest = np.zeros(len(frame), bool), np.zeros(len(frame), bool)
    if len(frame) > 1 and frame["test_set"].nunique() == 1:
        best = int(frame[ACCURACY].to_numpy(float).argmax())
        compared = _compare_with(frame["hash"].iloc[best], frame, by_variant)
        most_accurate[best] = all(each.verdict == "worse" for each in compared.values())
    ratios = frame["relative_latency"].to_numpy(float)
    is_whole = not np.isnan(ratios).any() and not any(frame["speed_mark"])
    if len(frame) > 1 and frame["family"].nunique() == 1 and is_whole:
        best = int(ratios.argmin())
        others = np.delete(frame["relative_latency_low"].to_numpy(float), best)
        fastest[best] = frame["relative_latency_high"].iloc[best] < others.min()
    frame["is_most_accurate"], frame["is_fastest"] = most_accurate, fastest


def _compare_with(
    control: str, frame: pd.DataFrame, by_variant: ByVariant
) -> dict[str, Comparison]:
    return compare_family(
        {name: _accuracies(by_variant[name]) for name in frame["hash"]},
        control,
        lambda name: read_correct(by_variant[name][0]),
        float(np.nan_to_num(frame["resolution_points"].max())),
    )


def pooled(frame: pd.DataFrame) -> tuple[float, int]:
    """Standard deviation between seeds in points, pooled over variants, and its degrees of freedom.

    None is below what accuracies can show: that of rounding to the step between them.

    Returns:
        0 and 0 if no variant has two seeds.
    """
    degrees = frame["num_seeds"].to_numpy(float) - 1
    least = np.nan_to_num(frame["resolution_points"].to_numpy(float)) ** 2 / 12
    variances = np.maximum(np.nan_to_num(frame[f"{ACCURACY}_std"].to_numpy(float)) ** 2, least)
    df = int(degrees.sum())
    return (float(np.sqrt(variances @ degrees / df)), df) if df else (0.0, 0)


def _accuracies(seeds: Sequence[Mapping[str, Any]]) -> list[float]:
    return [record["metrics"][ACCURACY] for record in seeds]


def _accuracy_errors(shown: pd.DataFrame) -> tuple[np.ndarray, int]:
    """Standard errors of mean accuracies in points: between seeds, or else between test images.

    Returns:
        ``(V,)``, NaN if the number of test images is not known; and the degrees of freedom.
    """
    deviation, df = pooled(shown)
    if df:
        return deviation / np.sqrt(shown["num_seeds"].to_numpy(float)), df
    shares = shown[ACCURACY].to_numpy(float) / 100
    # a standard error is 100 sqrt(p (1 - p) / N), and the step between accuracies 100 / N
    return np.sqrt(100 * shares * (1 - shares) * shown["resolution_points"].to_numpy(float)), 0


def _cost_errors(shown: pd.DataFrame, cost: str) -> np.ndarray:
    if cost != "latency_ms":
        return np.zeros(len(shown))
    ends = [shown[f"relative_latency_{end}"].to_numpy(float) for end in ("low", "high")]
    with np.errstate(invalid="ignore", divide="ignore"):
        errors: np.ndarray = (np.log(ends[1]) - np.log(ends[0])) / _WIDTH_IN_ERRORS
    finite: np.ndarray = np.nan_to_num(errors, nan=0.0, posinf=0.0)
    return finite


def resolution_of(record: Mapping[str, Any]) -> float:
    """Step between accuracies in points, 100 over the number of test images; NaN if not known."""
    number = record["identity"]["canonical"].get("data", {}).get("num_test")
    if not number:  # all images of a folder
        correct = read_correct(record)
        number = 0 if correct is None else len(correct)
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
