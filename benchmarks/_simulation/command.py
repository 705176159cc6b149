"""The command: runs all rows, prints their tables and measures times."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from _measuring import machine
from _simulation.rows import PARTS, make_rows
from _simulation.tables import print_part
from _simulation.tally import Figures, Row
from _simulation.timing import measure_times

NUM_FAMILIES, NUM_QUICK = 10_000, 2_000
_NUM_PROCESSES = 2
_ALLOWANCE = 2.0  # standard errors that fewer families may miss a bound by


def main(description: str | None = None, arguments: Sequence[str] | None = None) -> int:
    """Run the simulation.

    Returns:
        1 if a bound is missed, or else 0.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="2,000 families or fewer")
    parser.add_argument("--all", action="store_true", help="print every row of every table")
    parser.add_argument("--before", type=Path, metavar="DIR", help="checkout of another build")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    given = parser.parse_args(arguments)
    number, allowance = (NUM_QUICK, _ALLOWANCE) if given.quick else (NUM_FAMILIES, 0.0)
    print(f"{machine()}\n{number:,} families a row, or the number in the table\n")
    started = time.perf_counter()
    rows = [row for row in make_rows() if row.part in given.parts]
    found = run_rows(rows, number)
    for part, title in PARTS.items():
        chosen = [(row, figures) for row, figures in found if row.part == part]
        if chosen:
            print_part(part, title, chosen, number, allowance, show_all=given.all)
    print(f"Simulated in {(time.perf_counter() - started) / 60:.1f} min.\n")
    times = measure_times(given.before)
    missed = [
        f"{row.part}, {', '.join(f'{k} {v}' for k, v in row.columns.items())}: {name} "
        f"{figure.value:.4f}, bound {figure.limit:g}"
        for row, figures in (*found, *times)
        for name, figure in figures.items()
        if figure.is_missed(allowance)
    ]
    print("\n".join(["Missed:", *missed]) if missed else "No bound is missed.")
    return int(bool(missed))


def run_rows(rows: Sequence[Row], number: int) -> list[tuple[Row, Figures]]:
    """Run rows in two processes; the figures do not depend on how many there are."""
    with get_context("fork").Pool(_NUM_PROCESSES) as pool:
        tasks = [pool.apply_async(row.run, (number,)) for row in rows]
        return [(row, task.get()) for row, task in zip(rows, tasks, strict=True)]
