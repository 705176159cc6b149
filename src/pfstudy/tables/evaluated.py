"""Tables of what finished runs were evaluated on, for the terminal; and the same as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy import inventory
from pfstudy.evaluation.cases import CLEAN, Case
from pfstudy.evaluation.results import mean_top1, read_figures, summary_of
from pfstudy.tables.columns import CLEAN_COLUMNS
from pfstudy.tables.content import MISSING


@dataclass(frozen=True)
class Evaluated:
    """A run and its figures.

    Attributes:
        name: What people know it by among those that are shown.
        directory: The run directory.
        figures: Of every case that is shown.
    """

    name: str
    directory: Path
    figures: Mapping[Case, Any]

    def as_data(self) -> dict[str, Any]:
        """All figures, as plain data."""
        return {
            "name": self.name,
            "directory": str(self.directory),
            **summary_of(self.figures),
        }


def read_evaluated(directories: Sequence[Path], cases: Sequence[Case]) -> list[Evaluated]:
    """Read the figures of runs on some cases."""
    names = inventory.name_runs([inventory.describe(directory) for directory in directories])
    return [Evaluated(names[run], run, read_figures(run, cases)) for run in directories]


def tables_of_one(run: Evaluated) -> list[Table]:
    """Everything about one run but its classes."""
    clean = run.figures[CLEAN]
    table = _table(f"{run.name}: the images as they are")
    for column in CLEAN_COLUMNS:
        table.add_column(column.label, justify="right")
    table.add_row(*(column.write(clean[column.key]) for column in CLEAN_COLUMNS))
    tables = [table]
    top1 = clean["top1_percent"]
    if any(case.kind == "corruptions" for case in run.figures):
        tables.append(_corruptions(run.figures, top1))
    if any(case.kind == "fgsm" for case in run.figures):
        cases = [case for case in run.figures if case.kind == "fgsm"]
        tables.append(_strengths("FGSM", "255 epsilon", "{:g}", cases, run.figures, top1))
    if any(case.kind == "occlusion" for case in run.figures):
        cases = [case for case in run.figures if case.kind == "occlusion"]
        tables.append(_strengths("Occlusion", "patches away", "{:g} %", cases, run.figures, top1))
    return tables


def per_class_table(run: Evaluated) -> Table:
    """How a run does on each class."""
    rows = run.figures[CLEAN]["per_class"]
    lacking = any(not row["num_images"] for row in rows)
    caption = f"{MISSING}: no test images, so no accuracy." if lacking else None
    table = _table(f"{run.name}: by class", caption)
    table.add_column("class", overflow="fold")
    for label in ("images", "top-1 (%)"):
        table.add_column(label, justify="right")
    table.add_column("taken most often for", overflow="fold")
    table.add_column("how often", justify="right")
    for row in rows:
        top1, other = row["top1_percent"], row["confused_with"]
        table.add_row(
            escape(row["class"]),
            str(row["num_images"]),
            _percent(top1),
            MISSING if other is None else escape(other),
            str(row["num_confused"]),
        )
    return table


def runs_table(runs: Sequence[Evaluated]) -> Table:
    """Several runs, a row each."""
    table = _table(
        caption="Top-1 in %; ECE over 15 bins. Epsilons in 1/255 of the range of values."
    )
    table.add_column("run", overflow="fold")
    for column in CLEAN_COLUMNS[:-1]:
        table.add_column(column.label, justify="right")
    kinds = {case.kind for run in runs for case in run.figures}
    epsilons = list(dict.fromkeys(c for run in runs for c in run.figures if c.kind == "fgsm"))
    if "corruptions" in kinds:
        table.add_column("corrupted, mean", justify="right")
        table.add_column("of clean", justify="right")
    for case in epsilons:
        table.add_column(f"FGSM {case.strength:g}", justify="right")
    if "occlusion" in kinds:
        table.add_column("occluded, mean", justify="right")
    for run in runs:
        clean = run.figures[CLEAN]
        cells = [column.write(clean[column.key]) for column in CLEAN_COLUMNS[:-1]]
        if "corruptions" in kinds:
            mean = mean_top1(run.figures, "corruptions")
            cells += [_percent(mean), _relative(mean, clean["top1_percent"])]
        cells += [_percent(run.figures.get(case)) for case in epsilons]
        if "occlusion" in kinds:
            cells.append(_percent(mean_top1(run.figures, "occlusion")))
        table.add_row(escape(run.name), *cells)
    return table


def _corruptions(figures: Mapping[Case, Any], clean: float) -> Table:
    cases = [case for case in figures if case.kind == "corruptions"]
    severities = list(dict.fromkeys(case.strength for case in cases))
    caption = "The last column: the mean as a share of the top-1 on the images as they are."
    table = _table("Corruptions: top-1 (%) by severity", caption)
    table.add_column("corruption")
    for label in (*(f"{severity:g}" for severity in severities), "mean", "of clean"):
        table.add_column(label, justify="right")
    names = list(dict.fromkeys(case.corruption for case in cases))

    def add(label: str, of: Sequence[str]) -> None:
        some = {case: figures[case] for case in cases if case.corruption in of}
        means = [
            mean_top1({c: f for c, f in some.items() if c.strength == severity}, "corruptions")
            for severity in severities
        ]
        mean = mean_top1(some, "corruptions")
        table.add_row(label, *map(_percent, [*means, mean]), _relative(mean, clean))

    for name in names:
        add(name, [name])
    if len(names) > 1:
        table.add_section()
        add("mean", names)
    return table


def _strengths(
    title: str,
    label: str,
    format: str,
    cases: Sequence[Case],
    figures: Mapping[Case, Any],
    clean: float,
) -> Table:
    table = _table(title)
    table.add_column(label)
    for case in cases:
        table.add_column(format.format(case.strength), justify="right")
    table.add_row("top-1 (%)", *(_percent(figures[case]) for case in cases))
    table.add_row("of clean", *(_relative(figures[case], clean) for case in cases))
    return table


def _table(title: str | None = None, caption: str | None = None) -> Table:
    return Table(
        title=escape(title) if title else None,
        caption=escape(caption) if caption else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )


def _percent(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f}"


def _relative(value: float | None, clean: float) -> str:
    return MISSING if value is None or not clean else f"{value / clean:.3f}"
