"""The integer program of `pfstudy design`: 16 sites, 6 operations, 50 budgets.

    python benchmarks/program.py

Values and times are drawn anew for each of several programs; the budgets lie between the fastest
network and the backbone.
"""

from __future__ import annotations

import time

import numpy as np

from _measuring import machine, show
from pfstudy.stats.integer import Program, trace_front

NUM_PROGRAMS = 8


def main() -> None:
    print(machine())
    for num_sites, num_operations in ((16, 6), (33, 8)):
        seconds = []
        for seed in range(NUM_PROGRAMS):
            generator = np.random.default_rng(seed)
            values_SO = -np.abs(generator.normal(0, 0.5, (num_sites, num_operations)))
            costs_SO = generator.uniform(0.3, 1.3, (num_sites, num_operations)) / num_sites
            values_SO[:, 0], costs_SO[:, 0] = 0, 1 / num_sites
            budgets = np.linspace(Program(values_SO, costs_SO).least_cost, 1.0, 50)
            started = time.perf_counter()
            trace_front(values_SO, costs_SO, budgets.tolist())
            seconds.append(time.perf_counter() - started)
        asked = "2 s" if num_sites == 16 else ""
        show(f"50 budgets, {num_sites} sites, {num_operations} operations", seconds, "s", asked)


if __name__ == "__main__":
    main()
