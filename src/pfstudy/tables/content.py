"""What a table shows: its columns, its cells as people read them, what is set in bold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from pfstudy.counting import RECOUNTED
from pfstudy.environment import package_version
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.record import VALIDATION_TOP1
from pfstudy.tables.caption import write_caption
from pfstudy.tables.columns import ACCURACY, BY_KEY, Column, choose_columns, setting_columns
from pfstudy.tables.published import PUBLISHED
from pfstudy.tables.rows import Rows
from pfstudy.words import counted

MISSING = "-"

_ALWAYS = ("params", "macs", "test_top1_percent", "variant")
_BEST = {
    **dict.fromkeys(("latency_ms", "relative_speed", "relative_latency"), "is_fastest"),
    "test_top1_percent": "is_most_accurate",
}


@dataclass(frozen=True)
class Cell:
    """A cell for people.

    Attributes:
        first: Its value; empty if it is missing.
        second: That of the column's partner.
        mark: What marks it.
        is_best: Whether it is the best of its column, and really so.
    """

    first: str
    second: str = ""
    mark: str = ""
    is_best: bool = False


@dataclass(frozen=True)
class Content:
    """A table for people.

    Attributes:
        columns: Its columns.
        lines: Its cells, line by line.
        num_groups: How many columns at the front group lines: equal values stand once.
        caption: What one must know to read it.
        rows: What it was made of.
        name: Of the study, if it is one.
    """

    columns: tuple[Column, ...]
    lines: tuple[tuple[Cell, ...], ...]
    num_groups: int
    caption: str
    rows: Rows
    name: str = ""

    @property
    def keys(self) -> list[str]:
        """Keys of everything that it shows, for programs; about what, of how many seeds."""
        keys = [key for column in self.columns for key in (column.key, column.partner) if key]
        tested = ["population"] if {"verdict", "p_value", "difference_low"} & set(keys) else []
        return list(dict.fromkeys([*keys, *tested, "num_seeds", "hash"]))

    @cached_property
    def spans(self) -> list[list[int]]:
        """For every column that groups: how many lines each value spans; 0 where it goes on."""
        spans = []
        for index in range(self.num_groups):
            column: list[int] = []
            start = 0
            for number, line in enumerate(self.lines):
                same = number and line[: index + 1] == self.lines[number - 1][: index + 1]
                column.append(0 if same else 1)
                if same:
                    column[start] += 1
                else:
                    start = number
            spans.append(column)
        return spans

    def begins(self, index: int, number: int) -> bool:
        """Whether a cell is written: of columns that group, where a value begins."""
        return index >= self.num_groups or bool(self.spans[index][number])

    @property
    def provenance(self) -> list[str]:
        """Where the figures come from: commits, and the identity and seeds of every variant."""
        runs = self.rows.runs
        commits = dict.fromkeys(
            run["commit"] + (" (modified)" if run["is_modified"] else "")
            for run in runs
            if run["commit"]
        )
        seeds: dict[str, list[str]] = {}
        for run in runs:
            seeds.setdefault(run["hash"], []).append(str(run["seed"]))
        lines = [f"made by pfstudy {package_version('pfstudy')} of {counted(len(runs), 'run')}"]
        if commits:
            lines.append(f"commits: {', '.join(commits)}")
        lines += [f"{name}: seeds {', '.join(each)}" for name, each in seeds.items()]
        return [" ".join(line.split()) for line in lines]  # what is no line does not end a comment

    @property
    def ordered(self) -> pd.DataFrame:
        """The rows in the order of the lines."""
        groups = [column.key for column in self.columns[: self.num_groups]]
        frame = self.rows.frame
        return frame.sort_values(groups, kind="stable", key=_order) if groups else frame

    @property
    def shows_speed(self) -> bool:
        """Whether it has figures of measured speed."""
        return bool(self.rows.speed) and any(column.is_speed for column in self.columns)


def make_content(
    rows: Rows,
    *,
    style: str = "short",
    columns: Sequence[str] = (),
    group_by: Sequence[str] = (),
    compare: str | None = None,
    name: str | None = None,
) -> Content:
    """Choose and write what a table shows.

    A column in which nothing is known is left out, unless it was asked for.

    Args:
        rows: What there is.
        style: Name of a set of columns.
        columns: Keys of columns instead.
        group_by: Settings, or ``model`` or ``data``, that lines are grouped by.
        compare: Name of published figures to set beside ours.
        name: Of the study.

    Raises:
        PfstudyError: There is no such style, column or setting.
    """
    settings = list(rows.settings)
    for key in group_by:
        if key not in (*settings, "model", "data"):
            raise unknown_name("what to group rows by", key, ("model", "data", *settings))
    chosen = choose_columns(style, columns, settings, compare)
    groups = setting_columns(group_by)
    chosen = [*groups, *(column for column in chosen if column.key not in group_by)]
    frame = rows.frame
    if compare and frame["published"].isna().all():
        raise PfstudyError(
            "none of these networks has published figures, which are known by parameters and "
            f"MACs; there are those of {', '.join(dict.fromkeys(each.name for each in PUBLISHED))}."
        )
    if not columns:
        if frame[ACCURACY].isna().all():  # of trials
            shown = BY_KEY[VALIDATION_TOP1]
            chosen = [shown if c.key == ACCURACY else c for c in chosen if c != shown]
        chosen = [c for c in chosen if c.key in _ALWAYS or _is_known(frame, c)]
    if not chosen:
        raise PfstudyError("there is nothing to show; choose columns.")
    if groups:
        frame = frame.sort_values(list(group_by), kind="stable", key=_order)
    by_column = [_cells(frame, column) for column in chosen]
    caption = write_caption(rows, chosen)
    if any(cell.is_best for cells in by_column for cell in cells):
        caption += " Bold: the best of a column, where it can be told from all others."
    return Content(
        tuple(chosen),
        tuple(zip(*by_column, strict=True)),
        len(groups),
        caption,
        rows,
        name or "",
    )


def _is_known(frame: pd.DataFrame, column: Column) -> bool:
    has_marks = column.key in RECOUNTED and frame["cost_mark"].any()
    return bool(has_marks or frame[column.key].notna().any())


def _cells(frame: pd.DataFrame, column: Column) -> list[Cell]:
    firsts = list(map(column.write, frame[column.key].tolist()))
    seconds = [""] * len(firsts)
    if column.partner:
        seconds = list(map(column.write, frame[column.partner].tolist()))
    if column.joined == "spread":
        seconds = [second.lstrip("+") for second in seconds]
    marks = [""] * len(firsts)
    if column.is_speed or column.key in RECOUNTED:
        marks = frame["speed_mark" if column.is_speed else "cost_mark"].tolist()
    best = frame[_BEST[column.key]].tolist() if column.key in _BEST else [False] * len(firsts)
    if column.key == "latency_ms":  # some may have been timed on a slower day
        lowest = frame[column.key].min()
        best = [
            is_best and value == lowest
            for is_best, value in zip(best, frame[column.key], strict=True)
        ]
    if column.key in ("params", "macs"):
        lowest = frame[column.key].min()
        best = [value == lowest for value in frame[column.key]]
        best = [is_best and sum(best) == 1 and len(best) > 1 for is_best in best]
    return [Cell(*cell) for cell in zip(firsts, seconds, marks, best, strict=True)]


def _order(values: pd.Series) -> pd.Series:
    """Order of groups: that in which they come."""
    return values.map({value: index for index, value in enumerate(dict.fromkeys(values))})
