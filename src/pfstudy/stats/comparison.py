"""Is a variant better than its baseline? Differences with simultaneous intervals, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import bdtr, betaincinv, chdtrc, ndtri, stdtr, stdtrit

from pfstudy.stats.dunnett import adjusted_p_values, max_t_quantile

CONFIDENCE = 0.95

Test = Literal["dunnett", "welch", "mcnemar"]
Verdict = Literal["better", "worse", "not distinguishable"]

_CLEARLY = 0.05


@dataclass(frozen=True)
class Comparison:
    """A variant beside its baseline.

    Attributes:
        difference: Of the mean accuracies, in points.
        low: Lower end of the 95 % interval that holds for all variants of the family at once;
            ``None`` if nothing tells how accurate the difference is.
        high: Upper end.
        p_value: Adjusted for the number of variants.
        test: What it was found out with.
        verdict: Whether the difference can be told from none.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    test: Test | None = None
    verdict: Verdict | None = None


Correct = Callable[[str], np.ndarray | None]
"""Gives, of a variant, which test images it has right: ``(N,)``, or nothing if not known."""


@dataclass(frozen=True)
class _Samples:
    """Of the baseline and then the others: sizes, means, and variances (NaN of one seed)."""

    names: tuple[str, ...]
    sizes_V: np.ndarray
    means_V: np.ndarray
    variances_V: np.ndarray

    @property
    def differences(self) -> np.ndarray:
        """Of the others to the baseline."""
        difference: np.ndarray = self.means_V[1:] - self.means_V[0]
        return difference


def compare_family(
    samples: Mapping[str, Sequence[float]],
    baseline: str,
    correct: Correct = lambda name: None,
    resolution: float = 0.0,
) -> dict[str, Comparison]:
    """Compare variants that share data and recipe with their baseline.

    With several seeds by Dunnett's test, or, where the variances differ clearly (Bartlett's test,
    p < 0.05), by Welch's with Bonferroni's correction. With one seed each by McNemar's exact test
    on the test images, corrected likewise: a statement about these images and these two trained
    networks, and not about the variants.

    Args:
        samples: Accuracy of every seed in percent, by variant; the baseline among them.
        baseline: Name of the baseline.
        correct: Asked only for variants of one seed.
        resolution: Step between accuracies in percent: a spread below it is not seen.

    Returns:
        By name, the baseline left out.
    """
    if len(samples) < 2:
        return {}
    found = _summarise(samples, baseline, resolution)
    if (found.sizes_V == 1).all():
        return _mcnemar(found, correct)
    repeated = found.sizes_V > 1
    variances, degrees = found.variances_V[repeated], found.sizes_V[repeated] - 1
    squares, df = float(variances @ degrees), int(degrees.sum())
    if squares == 0:
        return _write(found, found.differences * np.nan, found.differences * np.nan, None)
    if _differ_clearly(variances, degrees):
        return _welch(found)
    return _dunnett(found, squares, df)


def _summarise(
    samples: Mapping[str, Sequence[float]], baseline: str, resolution: float
) -> _Samples:
    names = (baseline, *(name for name in samples if name != baseline))
    sizes_V, means_V, variances_V = _moments([samples[name] for name in names])
    return _Samples(names, sizes_V, means_V, np.maximum(variances_V, resolution**2 / 12))


def _moments(samples: Sequence[Sequence[float]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sizes, means and variances ``(V,)``; of a sample of one, the variance is NaN."""
    sizes_V = np.array([len(sample) for sample in samples])
    starts_V = np.concatenate([[0], np.cumsum(sizes_V)[:-1]])
    values = np.concatenate([np.asarray(sample, float) for sample in samples])
    means_V = np.add.reduceat(values, starts_V) / sizes_V
    squares_V = np.add.reduceat((values - np.repeat(means_V, sizes_V)) ** 2, starts_V)
    variances_V = np.full(len(sizes_V), np.nan)
    np.divide(squares_V, sizes_V - 1, out=variances_V, where=sizes_V > 1)
    return sizes_V, means_V, variances_V


def _dunnett(found: _Samples, squares: float, df: int) -> dict[str, Comparison]:
    sizes, control = found.sizes_V[1:].tolist(), int(found.sizes_V[0])
    errors = np.sqrt(squares / df * (1 / found.sizes_V[1:] + 1 / control))
    quantile = max_t_quantile(CONFIDENCE, sizes, control, df)
    p_values = adjusted_p_values(found.differences / errors, sizes, control, df)
    return _write(found, quantile * errors, p_values, "dunnett")


def _welch(found: _Samples) -> dict[str, Comparison]:
    """Welch 1947; the degrees of freedom are Satterthwaite's.

    A sample of one tells nothing of its own spread: there is no statement.
    """
    parts_V = found.variances_V / found.sizes_V
    number = len(found.sizes_V) - 1
    with np.errstate(invalid="ignore", divide="ignore"):
        errors = np.sqrt(parts_V[1:] + parts_V[0])
        shares_V = parts_V**2 / (found.sizes_V - 1)
        df = (parts_V[1:] + parts_V[0]) ** 2 / (shares_V[1:] + shares_V[0])
        halves = errors * stdtrit(df, 1 - (1 - CONFIDENCE) / 2 / number)
        p_values = 2 * number * stdtr(df, -np.abs(found.differences) / errors)
    return _write(found, halves, np.minimum(p_values, 1.0), "welch")


def _write(
    found: _Samples, halves: np.ndarray, p_values: np.ndarray, test: Test | None
) -> dict[str, Comparison]:
    columns = (found.differences.tolist(), halves.tolist(), p_values.tolist())
    return {
        name: Comparison(difference)
        if p_value != p_value
        else Comparison(
            difference,
            difference - half,
            difference + half,
            p_value,
            test,
            _verdict(difference, p_value),
        )
        for name, difference, half, p_value in zip(found.names[1:], *columns, strict=True)
    }


def _mcnemar(found: _Samples, correct: Correct) -> dict[str, Comparison]:
    """McNemar 1947, exact.

    The end of the interval towards 0 is that of Clopper and Pearson 1934 for the share of the
    changed images that are gained, so 0 is excluded where the test finds a difference; the other
    end is that or the one of Agresti and Min 2005 (Wald's, adjusted), whichever is farther.
    """
    compared = {}
    baseline, *others = found.names
    of_control = correct(baseline)
    tail = (1 - CONFIDENCE) / 2 / len(others)
    for name, difference in zip(others, found.differences.tolist(), strict=True):
        of_other = None if of_control is None else correct(name)
        if of_control is None or of_other is None or len(of_control) != len(of_other):
            compared[name] = Comparison(difference)
            continue
        gained = int(np.sum(of_other & ~of_control))
        lost = int(np.sum(of_control & ~of_other))
        p = min(1.0, 2 * len(others) * float(bdtr(min(gained, lost), gained + lost, 0.5)))
        low, high = _paired_interval(gained, lost, len(of_control), tail)
        verdict = _verdict(difference, p)
        compared[name] = Comparison(difference, low, high, p, "mcnemar", verdict)
    return compared


def _paired_interval(gained: int, lost: int, number: int, tail: float) -> tuple[float, float]:
    """Of the difference in points, with this probability beyond each end."""
    changed = gained + lost
    least = float(betaincinv(gained, lost + 1, tail)) if gained else 0.0
    most = float(betaincinv(gained + 1, lost, 1 - tail)) if lost else 1.0
    exact = [100 * (2 * share - 1) * changed / number for share in (least, most)]
    middle = (gained - lost) / (number + 2)
    spread = np.sqrt(changed + 1 - (gained - lost) ** 2 / (number + 2)) / (number + 2)
    walds = [100 * (middle + sign * -float(ndtri(tail)) * float(spread)) for sign in (-1, 1)]
    low = exact[0] if gained > lost else min(exact[0], walds[0])
    high = exact[1] if gained < lost else max(exact[1], walds[1])
    return low, high


def _differ_clearly(variances: np.ndarray, degrees: np.ndarray) -> bool:
    """Bartlett's test."""
    if len(variances) < 2 or not variances.all():
        return False
    total = degrees.sum()
    pooled = variances @ degrees / total
    statistic = total * np.log(pooled) - degrees @ np.log(variances)
    correction = 1 + ((1 / degrees).sum() - 1 / total) / (3 * (len(variances) - 1))
    return bool(chdtrc(len(variances) - 1, statistic / correction) < _CLEARLY)


def _verdict(difference: float, p_value: float) -> Verdict:
    if p_value >= 1 - CONFIDENCE:
        return "not distinguishable"
    return "better" if difference > 0 else "worse"
