"""Is a variant better than its baseline? Differences with simultaneous intervals, and a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import bdtr, chdtrc, ndtri, stdtr, stdtrit

from pfstudy.stats.dunnett import adjusted_p_values, max_t_quantile

CONFIDENCE = 0.95

Test = Literal["dunnett", "welch", "mcnemar"]
Verdict = Literal["better", "worse", "not distinguishable"]

_CLEARLY = 0.01
_LEAST_FOR_VARIANCES = 3


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


def compare_family(
    samples: Mapping[str, Sequence[float]],
    baseline: str,
    correct: Correct = lambda name: None,
    resolution: float = 0.0,
) -> dict[str, Comparison]:
    """Compare variants that share data and recipe with their baseline.

    With several seeds by Dunnett's test, or, where the variances differ clearly (Bartlett's test,
    p < 0.01), by Welch's with Bonferroni's correction. With one seed each by McNemar's exact test
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
    control = np.asarray(samples[baseline], float)
    others = {name: np.asarray(s, float) for name, s in samples.items() if name != baseline}
    if not others:
        return {}
    if all(len(sample) == 1 for sample in (control, *others.values())):
        return _mcnemar(control, others, correct(baseline), correct)
    groups = [control, *others.values()]
    variances = np.array([max(s.var(ddof=1), resolution**2 / 12) for s in groups if len(s) > 1])
    degrees = np.array([len(s) - 1 for s in groups if len(s) > 1])
    if float(variances @ degrees) == 0:
        return {name: Comparison(float(s.mean() - control.mean())) for name, s in others.items()}
    if _differ_clearly(variances, degrees):
        return _welch(control, others, resolution)
    return _dunnett(control, others, float(variances @ degrees), int(degrees.sum()))


def pooled_deviation(samples: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Standard deviation between seeds, pooled over variants, and its degrees of freedom.

    Returns:
        0 and 0 if no variant has two seeds.
    """
    repeated = [np.asarray(sample, float) for sample in samples if len(sample) > 1]
    df = sum(len(sample) - 1 for sample in repeated)
    squares = sum(float(sample.var(ddof=1)) * (len(sample) - 1) for sample in repeated)
    return (float(np.sqrt(squares / df)), df) if df else (0.0, 0)


def _dunnett(
    control: np.ndarray, others: Mapping[str, np.ndarray], squares: float, df: int
) -> dict[str, Comparison]:
    sizes = [len(sample) for sample in others.values()]
    differences = np.array([sample.mean() - control.mean() for sample in others.values()])
    errors = np.sqrt(squares / df * (1 / np.array(sizes) + 1 / len(control)))
    quantile = max_t_quantile(CONFIDENCE, sizes, len(control), df)
    p_values = adjusted_p_values(differences / errors, sizes, len(control), df)
    return {
        name: _judge(float(difference), quantile * float(error), float(p), "dunnett")
        for name, difference, error, p in zip(others, differences, errors, p_values, strict=True)
    }


def _welch(
    control: np.ndarray, others: Mapping[str, np.ndarray], resolution: float
) -> dict[str, Comparison]:
    """Welch 1947; the degrees of freedom are Satterthwaite's."""
    found = {}
    for name, sample in others.items():
        difference = float(sample.mean() - control.mean())
        if min(len(sample), len(control)) < 2:  # nothing tells its own spread
            found[name] = Comparison(difference)
            continue
        parts = [max(s.var(ddof=1), resolution**2 / 12) / len(s) for s in (sample, control)]
        error = float(np.sqrt(sum(parts)))
        degrees = [len(sample) - 1, len(control) - 1]
        df = sum(parts) ** 2 / sum(p**2 / d for p, d in zip(parts, degrees, strict=True))
        quantile = float(stdtrit(df, 1 - (1 - CONFIDENCE) / 2 / len(others)))
        p = min(1.0, 2 * len(others) * float(stdtr(df, -abs(difference) / error)))
        found[name] = _judge(difference, quantile * error, p, "welch")
    return found


def _mcnemar(
    control: np.ndarray,
    others: Mapping[str, np.ndarray],
    of_control: np.ndarray | None,
    correct: Correct,
) -> dict[str, Comparison]:
    """McNemar 1947, exact; the interval is that of Agresti and Min 2005 (Wald's, adjusted)."""
    found = {}
    quantile = -float(ndtri((1 - CONFIDENCE) / 2 / len(others)))
    for name, sample in others.items():
        difference = float(sample[0] - control[0])
        of_other = None if of_control is None else correct(name)
        if of_control is None or of_other is None or len(of_control) != len(of_other):
            found[name] = Comparison(difference)
            continue
        gained = int(np.sum(of_other & ~of_control))
        lost = int(np.sum(of_control & ~of_other))
        p = min(1.0, 2 * len(others) * float(bdtr(min(gained, lost), gained + lost, 0.5)))
        number = len(of_control) + 2
        middle = (gained - lost) / number
        spread = np.sqrt(gained + lost + 1 - (gained - lost) ** 2 / number) / number
        low, high = (100 * (middle + sign * quantile * float(spread)) for sign in (-1, 1))
        verdict = _verdict(difference, p)
        found[name] = Comparison(difference, low, high, p, "mcnemar", verdict)
    return found


def _differ_clearly(variances: np.ndarray, degrees: np.ndarray) -> bool:
    """Bartlett's test; of samples that are too small to tell, no."""
    kept = degrees >= _LEAST_FOR_VARIANCES - 1
    variances, degrees = variances[kept], degrees[kept]
    if len(variances) < 2 or not variances.all():
        return False
    total = degrees.sum()
    pooled = variances @ degrees / total
    statistic = total * np.log(pooled) - degrees @ np.log(variances)
    correction = 1 + ((1 / degrees).sum() - 1 / total) / (3 * (len(variances) - 1))
    return bool(chdtrc(len(variances) - 1, statistic / correction) < _CLEARLY)


def _judge(difference: float, half: float, p_value: float, test: Test) -> Comparison:
    verdict = _verdict(difference, p_value)
    return Comparison(difference, difference - half, difference + half, p_value, test, verdict)


def _verdict(difference: float, p_value: float) -> Verdict:
    if p_value >= 1 - CONFIDENCE:
        return "not distinguishable"
    return "better" if difference > 0 else "worse"
