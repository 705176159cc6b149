"""Markdown tables of simulated rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from _simulation.tally import Figure, Figures, Row

Found = Sequence[tuple[Row, Figures]]

_WORST_OF = ("seeds", "missing", "rounded")  # parts with a column for each number of variants
_LEAST = {"alone": "alone, least", "as shown": "as shown, least"}


def print_part(
    part: str, title: str, found: Found, number: int, allowance: float, *, show_all: bool
) -> None:
    """Print a part: every row, or the worst of rows that differ in variants and correlation.

    Args:
        part: Its key.
        title: Above the table.
        found: Its rows and their figures.
        number: Families of a row.
        allowance: Standard errors by which bounds may be missed.
        show_all: Whether all rows are printed, even if that is 200.
    """
    numbers = {max(round(number * row.share), 1) for row, _ in found}
    told = (
        f" ({', '.join(f'{each:,}' for each in numbers)} families)" if numbers != {number} else ""
    )
    print(f"### {title}{told}\n")
    if part in _WORST_OF and not show_all:
        print(
            "Share of families with a wrong finding by number of variants, the larger one of "
            "correlations 0 and 0.6; and the least coverage of an interval.\n"
        )
        lines = _worst(found, allowance)
    else:
        lines = [
            {**row.columns, **{name: _show(f, allowance) for name, f in figures.items()}}
            for row, figures in found
        ]
    print_table(lines)


def print_table(lines: Sequence[dict[str, Any]]) -> None:
    """Print lines with the same keys."""
    print("| " + " | ".join(lines[0]) + " |")
    print("|" + "---|" * len(lines[0]))
    for line in lines:
        print("| " + " | ".join(str(value) for value in line.values()) + " |")
    print()


def _worst(found: Found, allowance: float) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[tuple[Row, Figures]]] = {}
    for row, figures in found:
        keys = tuple(v for k, v in row.columns.items() if k not in ("variants", "correlation"))
        groups.setdefault(keys, []).append((row, figures))
    lines = []
    for group in groups.values():
        of_row = group[0][0].columns
        line = {k: v for k, v in of_row.items() if k not in ("variants", "correlation")}
        for number in dict.fromkeys(row.columns["variants"] for row, _ in group):
            wrong = [f["wrong finding"] for row, f in group if row.columns["variants"] == number]
            name = "1 variant" if number == 1 else str(number)
            line[name] = _show(max(wrong, key=lambda f: f.value), allowance)
        for name, title in _LEAST.items():
            least = min((f[name] for _, f in group), key=lambda f: f.value)
            line[title] = _show(least, allowance)
        lines.append(line)
    return lines


def _show(figure: Figure, allowance: float) -> str:
    shown = "" if math.isnan(figure.value) else f"{figure.value:.3f}"
    return f"**{shown}**" if figure.is_missed(allowance) else shown
