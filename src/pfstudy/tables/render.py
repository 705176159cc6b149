"""Rows in, text out: for the terminal, Markdown, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from json import dumps
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich import box
from rich.markup import escape as rich_escape
from rich.table import Table

from pfstudy.files import write_text
from pfstudy.speed.setting import describe_setting
from pfstudy.tables.audit import Audit, in_short
from pfstudy.tables.columns import COLUMNS, EVALUATION_COLUMNS, Column, setting_columns
from pfstudy.tables.marks import FELL_BACK
from pfstudy.tables.rows import PROJECTED, Rows

_WIDEST = 40
_SPEED = ("latency_ms", "relative_speed")
_STD = "test_top1_percent_std"
_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    FELL_BACK: r"\textdagger{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def write_files(rows: Rows, directory: Path) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.tex``.

    Returns:
        The files.

    Raises:
        PfstudyError: They cannot be written.
    """
    texts = {"md": markdown(rows), "csv": csv(rows), "tex": latex(rows)}
    paths = [directory / f"table.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        write_text(path, text)
    return paths


def terminal(rows: Rows, title: str | None = None) -> Table:
    """Table for the terminal."""
    cells = _cells(rows, " +- ")
    table = Table(
        title=title, caption=rich_escape(caption(rows)), box=box.SIMPLE_HEAD, caption_justify="left"
    )
    for label in cells.columns:
        justify: Literal["left", "right"] = "left" if label in _text_labels(rows) else "right"
        width = max(map(len, [*label.split(), *cells[label]]))
        table.add_column(label, justify=justify, min_width=min(width, _WIDEST), overflow="fold")
    for values in cells.itertuples(index=False):
        table.add_row(*map(rich_escape, values))
    return table


def evaluation_table(figures: Mapping[str, Any]) -> Table:
    """Table of one evaluation for the terminal."""
    seconds = f"{figures['seconds']:.1f} s"
    weights = f"Weights: {figures['weights']}. Test images of {figures['data']}, {seconds}."
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


def markdown(rows: Rows) -> str:
    """Pipe table and caption."""
    cells = _cells(rows, " ± ").map(lambda text: text.replace("|", r"\|"))
    rule = [":--" if label in _text_labels(rows) else "--:" for label in cells.columns]
    lines = [list(cells.columns), rule, *cells.to_numpy().tolist()]
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{table}\n\n{caption(rows)}\n"


def csv(rows: Rows) -> str:
    """Comma-separated values, unrounded, under the keys of the columns."""
    text: str = _unrounded(rows).to_csv(index=False)
    return text


def json(rows: Rows) -> str:
    """A list of objects, unrounded, under the keys of the columns; ``null`` where missing.

    Where there are figures of speed, ``speed_setting`` says of what setting they are.
    """
    frame = _unrounded(rows)
    if rows.speed:
        setting = describe_setting(rows.speed)
        frame["speed_setting"] = frame["latency_ms"].notna().map({True: setting, False: None})
    text: str = frame.to_json(orient="records", indent=1, double_precision=15)
    return text


def _unrounded(rows: Rows) -> pd.DataFrame:
    keys = [column.key for column in _columns(rows)]
    return rows.frame[[*keys, "speed_mark"] if rows.speed else keys].copy()


def latex(rows: Rows) -> str:
    r"""A ``table`` with booktabs rules; needs ``\usepackage{booktabs}``."""
    cells = _cells(rows, r" $\pm$ ", _escape)
    text_labels = [_escape(label) for label in _text_labels(rows)]
    alignment = "".join("l" if label in text_labels else "r" for label in cells.columns)
    text: str = cells.style.hide(axis="index").to_latex(
        hrules=True,
        column_format=alignment,
        caption=_escape(caption(rows)),
        position="tbp",
        position_float="centering",
    )
    return "% needs \\usepackage{booktabs}\n" + text


def caption(rows: Rows) -> str:
    """Say what the figures are, of how many seeds and on what, and what the rows do not share."""
    seeds = sorted(set(rows.frame["num_seeds"]))
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    parts = [
        f"Test accuracy after the last epoch, {number} seed{'' if number == '1' else 's'}"
        + (" (mean ± standard deviation)." if seeds[-1] > 1 else ".")
    ]
    if rows.speed:
        parts.append(
            "Latency and speed relative to the unsubstituted backbone: "
            f"{describe_setting(rows.speed)}."
        )
        parts += rows.speed_remarks
    if rows.frame["variant"].str.endswith(PROJECTED).any():
        parts.append(
            f"{PROJECTED.strip()}: a 1x1 convolution follows where the operation cannot change "
            "the number of channels."
        )
    if rows.findings:
        parts.append(f"Not the same for all rows: {in_short(rows.findings)}; see pfstudy audit.")
    return " ".join(parts)


def _columns(rows: Rows) -> list[Column]:
    first, *others = COLUMNS
    return [first, *setting_columns(rows.settings), *others]


def _cells(
    rows: Rows, plus_minus: str, escape: Callable[[str], str] = lambda text: text
) -> pd.DataFrame:
    """Write every cell for people; the standard deviation stands behind its mean."""
    cells: dict[str, list[str]] = {}
    for column in _columns(rows):
        if column.key in (_STD, "num_seeds") or (column.key in _SPEED and not rows.speed):
            continue
        written = [escape(column.write(value)) for value in rows.frame[column.key]]
        if column.key in _SPEED:
            marks = rows.frame["speed_mark"]
            written = [t + escape(mark) for t, mark in zip(written, marks, strict=True)]
        if column.key == "test_top1_percent":
            spread = [column.write(value) for value in rows.frame[_STD]]
            written = [
                mean + (plus_minus + std if std else "")
                for mean, std in zip(written, spread, strict=True)
            ]
        cells[escape(column.label)] = written
    return pd.DataFrame(cells)


def _text_labels(rows: Rows) -> list[str]:
    return [COLUMNS[0].label, *(column.label for column in setting_columns(rows.settings))]


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
