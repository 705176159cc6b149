"""Explanations in, tables out: what makes runs differ, and what would be done with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pfstudy.inventory import shorten
from pfstudy.why import Comparison, Difference, Verdict, group_sites

_NOT_IN_IDENTITY = "recorded, but no part of the identity"
_ALONE = {
    "trained": "would be trained",
    "skipped": "would be skipped",
    "left": "would be left alone",
}
_STYLES = {"trained": "cyan", "skipped": "green", "left": "yellow"}


def render_comparison(comparison: Comparison) -> RenderableType:
    """Write what makes two runs differ for the terminal."""
    names = [str(comparison.left.directory), str(comparison.right.directory)]
    parts: list[RenderableType] = [Text(comparison.relation)]
    if comparison.differences:
        parts.append(_table(group_sites(comparison.differences), names))
    if comparison.recorded:
        parts += [Text(f"{_NOT_IN_IDENTITY}:"), _table(comparison.recorded, names)]
    return Group(*parts)


def comparison_data(comparison: Comparison) -> dict[str, Any]:
    """The same as plain data, for programs."""
    recorded = comparison.recorded
    return {
        "left": str(comparison.left.directory),
        "right": str(comparison.right.directory),
        "relation": comparison.relation,
        "differences": [asdict(difference) for difference in comparison.differences],
        "recorded": None if recorded is None else [asdict(each) for each in recorded],
    }


def render_verdicts(verdicts: Sequence[Verdict], names: Mapping[Path, str]) -> RenderableType:
    """Write what would be done with runs for the terminal.

    Args:
        verdicts: What would be done.
        names: Names of the runs, by their directories.
    """
    if len(verdicts) == 1:
        (verdict,) = verdicts
        does = _ALONE[verdict.action]
        return Text(f"{names[verdict.directory]} {does}: {verdict.reason}")
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("run", "", "why"):
        table.add_column(header, no_wrap=not header, overflow="fold")
    for verdict in verdicts:
        style = _STYLES[verdict.action]
        action = f"[{style}]{verdict.action}[/{style}]"
        table.add_row(escape(names[verdict.directory]), action, escape(verdict.reason))
    return table


def verdict_data(verdict: Verdict) -> dict[str, Any]:
    """What would be done with a run as plain data, for programs."""
    nearest = None if verdict.nearest is None else str(verdict.nearest)
    return {**asdict(verdict), "directory": str(verdict.directory), "nearest": nearest}


def _table(differences: Sequence[Difference], names: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for header in ("", *map(escape, names)):
        table.add_column(header, overflow="fold")
    for difference in differences:
        values = (_cell(value) for value in (difference.left, difference.right))
        table.add_row(*map(escape, (difference.key, *values)))
    return table


def _cell(value: Any) -> str:
    return "-" if value is None else shorten(value)
