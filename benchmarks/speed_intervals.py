"""Coverage of the intervals of relative times, with and without an early stop.

    python benchmarks/speed_intervals.py

Simulates processes whose ratios depend on those before (an autoregressive process of order 1, as a
busy machine makes them), and stops as a measurement does: after 5 to 10 processes, as soon as the
interval is at most 2 % of the ratio. Prints how often intervals cover the true ratio: always,
whatever ended the measurement; and of those that ended because they were narrow.
"""

from __future__ import annotations

import numpy as np

from pfstudy.speed.summary import pooled_ratio

NUM_MEASUREMENTS = 1000
LEAST, MOST, WIDTH = 5, 10, 0.02
TRUE = 0.8


def measure(
    generator: np.random.Generator, deviation: float, correlation: float
) -> tuple[bool, bool]:
    """Whether one measurement covers the true ratio, and whether it stopped as narrow."""
    logs = [generator.normal(0, deviation)]
    while len(logs) < MOST:
        fresh = generator.normal(0, deviation * (1 - correlation**2) ** 0.5)
        logs.append(correlation * logs[-1] + fresh)
    ratios = TRUE * np.exp(logs)
    for number in range(LEAST, MOST + 1):
        found = pooled_ratio(ratios[:number])
        if found.relative_width <= WIDTH:
            break
    covers = found.low <= TRUE <= found.high
    return covers, found.relative_width <= WIDTH


def main() -> None:
    print("| between processes | autocorrelation | covers | stops as narrow | of these, covers |")
    print("|--:|--:|--:|--:|--:|")
    generator = np.random.default_rng(0)
    for deviation in (0.003, 0.01, 0.02):
        for correlation in (0.0, 0.5, 0.9):
            pairs = [measure(generator, deviation, correlation) for _ in range(NUM_MEASUREMENTS)]
            covers, stops = np.array(pairs).T
            of_these = f"{covers[stops].mean():.3f}" if stops.any() else "-"
            print(
                f"| {100 * deviation:g} % | {correlation:g} | {covers.mean():.3f} "
                f"| {stops.mean():.3f} | {of_these} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
