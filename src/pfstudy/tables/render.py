"""Content in, text out: for the terminal, Markdown, HTML and programs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from html import escape as html_escape
from json import dumps
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich import box
from rich.markup import escape as rich_escape
from rich.table import Table

from pfstudy.counting import MACS_SENTENCE
from pfstudy.files import write_text
from pfstudy.speed.setting import describe_setting
from pfstudy.tables.audit import Audit
from pfstudy.tables.columns import ACCURACY, EVALUATION_COLUMNS, Column
from pfstudy.tables.content import MISSING, Cell, Content
from pfstudy.tables.latex import latex

_BETWEEN = 3
_LONGEST_NAME = 40
_EXPENDABLE = ("params", "front", "equal_latency_points", "macs", "difference_low", "latency_ms")
_ESSENTIAL = ("variant", ACCURACY, "difference_points")


def write_files(content: Content, directory: Path, formats: Sequence[str]) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and so on.

    Args:
        content: The table.
        directory: Where to.
        formats: Of `FORMATS`.

    Returns:
        The files.

    Raises:
        PfstudyError: They cannot be written.
    """
    texts = {FORMATS[name][0]: FORMATS[name][1](content) for name in formats}
    paths = [directory / f"table.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def terminal(content: Content, width: int | None = None) -> Table:
    """Table for a terminal; columns that do not fit are left out, and named.

    Args:
        content: The table.
        width: Characters of a line; ``None`` for as many as it takes.
    """
    lines = _written(content, lambda column, cell: plain_cell(column, cell, " +- "))
    widths = [
        max(map(len, [*column.label.split(), *(line[index] for line in lines)]))
        for index, column in enumerate(content.columns)
    ]
    if width is not None:
        widths[0] = min(widths[0], _LONGEST_NAME)
    shown = _fitting(content.columns, widths, width)
    left_out = [c.label for i, c in enumerate(content.columns) if i not in shown]
    hint = f" Too wide for this terminal, see the files: {', '.join(left_out)}." if left_out else ""
    table = Table(
        title=rich_escape(content.name) or None,
        caption=rich_escape(content.caption + hint),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    for index in shown:
        column = content.columns[index]
        justify: Literal["left", "right"] = "left" if column.is_text else "right"
        fixed = widths[index] if index or _fits(shown, widths, width) else None
        table.add_column(column.label, justify=justify, width=fixed, overflow="fold")
    for line, cells in zip(lines, content.lines, strict=True):
        texts = [(rich_escape(line[index]), cells[index].is_best) for index in shown]
        table.add_row(*(f"[bold]{text}[/bold]" if is_best else text for text, is_best in texts))
    return table


def _fitting(columns: Sequence[Column], widths: Sequence[int], room: int | None) -> list[int]:
    """Indices of the columns that fit, those that matter most."""
    shown = list(range(len(columns)))
    keys = [column.key for column in columns]
    order = [keys.index(key) for key in _EXPENDABLE if key in keys]
    order += [i for i in reversed(shown) if i not in order and keys[i] not in _ESSENTIAL]
    for index in order:
        if _fits(shown, widths, room):
            break
        shown.remove(index)
    return shown


def _fits(shown: Sequence[int], widths: Sequence[int], room: int | None) -> bool:
    return room is None or _width([widths[index] for index in shown]) <= room


def width_of(table: Table) -> int:
    """How many characters a line of `terminal`'s table takes."""
    return _width([column.width or 0 for column in table.columns])


def _width(widths: Sequence[int]) -> int:
    return sum(width + _BETWEEN for width in widths) + 1


def markdown(content: Content) -> str:
    """Pipe table and caption."""

    def write(column: Column, cell: Cell) -> str:
        text = re.sub(r"([|*`_<\[\\])", r"\\\1", plain_cell(column, cell, " ± "))
        return f"**{text}**" if cell.is_best else text

    header = [column.label for column in content.columns]
    rule = [":--" if column.is_text else "--:" for column in content.columns]
    lines = [header, rule, *_written(content, write)]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{content.caption}\n\n{_comment(content)}"


def html(content: Content) -> str:
    """A ``<table>`` with its caption, to be put into a page."""
    header = "".join(f'<th scope="col">{html_escape(c.label)}</th>' for c in content.columns)
    spans = content.spans
    body = []
    for number, line in enumerate(content.lines):
        cells = []
        for index, (column, cell) in enumerate(_pairs(content, line)):
            if not content.begins(index, number):
                continue
            span = spans[index][number] if index < content.num_groups else 1
            text = html_escape(plain_cell(column, cell, " ± "))
            text = f"<strong>{text}</strong>" if cell.is_best else text
            attributes = f' rowspan="{span}"' if span > 1 else ""
            attributes += "" if column.is_text else ' class="number"'
            cells.append(f"<td{attributes}>{text}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    caption = f"<caption>{html_escape(content.caption)}</caption>"
    rows = "\n".join(body)
    return (
        f"{_comment(content)}<table>{caption}\n<thead><tr>{header}</tr></thead>\n<tbody>\n{rows}\n"
        "</tbody></table>\n"
    )


def _comment(content: Content) -> str:
    """The provenance as a comment in HTML, which Markdown knows too."""
    lines = html_escape("\n".join(content.provenance)).replace("--", "- -")
    return f"<!--\n{lines}\n-->\n"


def csv(content: Content) -> str:
    """Comma-separated values, unrounded, under the keys of the columns."""
    text: str = _unrounded(content).to_csv(index=False)
    return text


def json(content: Content) -> str:
    """A list of objects, unrounded, under the keys of the columns; ``null`` where missing.

    Where there are figures of speed, ``speed_setting`` says of what setting they are.
    """
    frame = _unrounded(content)
    if content.shows_speed:
        setting = describe_setting(content.rows.speed)
        known = content.ordered["latency_ms"].notna()
        frame["speed_setting"] = known.map({True: setting, False: None})
    rows = [
        {key: _plain(value) for key, value in zip(frame.columns, line, strict=True)}
        for line in frame.itertuples(index=False, name=None)
    ]
    return dumps(rows, indent=1)


def _plain(value: Any) -> Any:
    """A value that JSON can hold: every digit, and ``None`` for what is missing or infinite."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unrounded(content: Content) -> pd.DataFrame:
    keys = [*content.keys, "speed_mark"] if content.shows_speed else content.keys
    return content.ordered[keys].copy()


FORMATS: Mapping[str, tuple[str, Callable[[Content], str]]] = {
    "markdown": ("md", markdown),
    "latex": ("tex", latex),
    "csv": ("csv", csv),
    "html": ("html", html),
    "json": ("json", json),
}
"""Ending and writer by the name of the format."""


def _pairs(content: Content, line: Sequence[Cell]) -> list[tuple[Column, Cell]]:
    return list(zip(content.columns, line, strict=True))


def _written(content: Content, write: Callable[[Column, Cell], str]) -> list[list[str]]:
    """The cells; of columns that group lines, without what stands above."""
    return [
        [
            write(column, cell) if content.begins(index, number) else ""
            for index, (column, cell) in enumerate(_pairs(content, line))
        ]
        for number, line in enumerate(content.lines)
    ]


def plain_cell(column: Column, cell: Cell, plus_minus: str) -> str:
    """Write a cell as text."""
    if not cell.first:
        return "" if column.key == "verdict" else MISSING + cell.mark
    text = cell.first
    if cell.second:
        joint = plus_minus if column.joined == "spread" else " to "
        text += joint + cell.second
    return text + cell.mark


def evaluation_table(figures: Mapping[str, Any]) -> Table:
    """Table of one evaluation for the terminal."""
    seconds = f"{figures['seconds']:.1f} s"
    weights = (
        f"Weights: {figures['weights']}. Test images of {figures['data']}, {seconds}. "
        f"{MACS_SENTENCE}"
    )
    table = Table(box=box.SIMPLE_HEAD, caption=rich_escape(weights), caption_justify="left")
    for column in EVALUATION_COLUMNS:
        is_text = isinstance(figures[column.key], str)
        table.add_column(column.label, justify="left" if is_text else "right", overflow="fold")
    cells = (column.write(figures[column.key]) for column in EVALUATION_COLUMNS)
    table.add_row(*map(rich_escape, cells))
    return table


def audit_table(audit: Audit) -> Table:
    """Table of what runs do not share, for the terminal."""
    table = Table(box=box.SIMPLE_HEAD)
    for label in ("what", "value", "runs"):
        table.add_column(label, overflow="fold")
    for finding in audit.findings:
        for number, value in enumerate(finding.values, 1):
            cells = ("" if number > 1 else finding.name, value.text, value.runs_in_short())
            table.add_row(*map(rich_escape, cells), end_section=number == len(finding.values))
    return table


def audit_sentence(audit: Audit) -> str:
    """Say whether runs share everything that is compared, and what that is."""
    if audit.num_runs == 1:
        return "There is one run, and none to compare it with."
    different = {finding.kind for finding in audit.findings}
    shared = ", ".join(kind for kind in audit.compared if kind not in different) or "nothing"
    if different:
        return f"The same for all {audit.num_runs} runs: {shared}."
    return f"All {audit.num_runs} runs share everything that was compared: {shared}."


def audit_json(audit: Audit) -> str:
    """An object; under ``findings`` what differs, with the names of all runs."""
    findings = [
        {
            "key": finding.key,
            "kind": finding.kind,
            "values": [{"value": value.text, "runs": value.runs} for value in finding.values],
        }
        for finding in audit.findings
    ]
    counts = {"num_runs": audit.num_runs, "num_variants": audit.num_variants}
    return dumps(
        {
            "fair": not audit.findings,
            **counts,
            "compared": audit.compared,
            "findings": findings,
            "remarks": audit.remarks,
        },
        indent=1,
    )
