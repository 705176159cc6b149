"""Times of the statistics of large families, each the first of a fresh process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from _measuring import show
from _simulation.tally import Figure, Figures, Row

_NUM_PROCESSES = 5

_LARGE = """
import time
import numpy as np
from pfstudy.stats.comparison import estimate
correct = np.random.default_rng(0).random((41, 10, 10_000)) < 0.95
accuracies, correct = 100 * correct.mean(axis=-1), [list(each) for each in correct]
started = time.perf_counter()
made = estimate(accuracies, correct, "both", 0.01)
made.ends(40), made.p_values(40)
print(time.perf_counter() - started)
"""

_WIDE = """
import time
import numpy as np
from pfstudy.stats.comparison import decide, estimate
accuracies = np.random.default_rng(0).normal(98, 0.3, (2001, 5))
started = time.perf_counter()
made = estimate(accuracies, None, "seeds", 0.01)
low, high = made.ends(2000)
p_values = made.p_values(2000).tolist()
verdicts = [decide(*ends) for ends in zip(low.tolist(), high.tolist())]
print(time.perf_counter() - started)
"""

_WIDE_BEFORE = """
import time
import numpy as np
from pfstudy.stats.comparison import compare_family
accuracies = np.random.default_rng(0).normal(98, 0.3, (2001, 5))
samples = {str(number): each.tolist() for number, each in enumerate(accuracies)}
started = time.perf_counter()
compare_family(samples, "0", resolution=0.01)
print(time.perf_counter() - started)
"""


def measure_times(before: Path | None) -> list[tuple[Row, Figures]]:
    """Measure and print times.

    Args:
        before: Checkout of a build to compare with, that has `compare_family`.
    """
    what = "40 variants, 10 seeds, 10,000 images"
    large = _times(_LARGE)
    show(what, large, "s", "at most 1 s")
    found = [_row(what, "seconds", _median(large), 1.0)]
    what = "2,000 variants, 5 seeds"
    wide = _times(_WIDE)
    show(what, wide, "s")
    if before is None:
        print(f"{'... relative to another build':<58} left out: no --before")
        return found
    earlier = _times(_WIDE_BEFORE, before)
    show("... by the build before", earlier, "s")
    ratios = [new / old for new, old in zip(wide, earlier, strict=True)]
    show("... relative to it", ratios, "x", "at most 0.5x")
    return [*found, _row(what, "ratio", _median(wide) / _median(earlier), 0.5)]


def _times(script: str, checkout: Path | None = None) -> list[float]:
    environment = dict(os.environ)
    if checkout is not None:
        environment["PYTHONPATH"] = str(checkout.resolve() / "src")
    command = [sys.executable, "-c", script]
    return [
        float(
            subprocess.run(
                command, env=environment, check=True, capture_output=True, text=True
            ).stdout
        )
        for _ in range(_NUM_PROCESSES)
    ]


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _row(what: str, name: str, value: float, limit: float) -> tuple[Row, Figures]:
    row = Row("times", {"family": what}, lambda number, generator: {})
    return row, {name: Figure(value, limit)}
