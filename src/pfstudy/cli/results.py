"""Subcommands that put finished runs into tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfstudy.cli.app import AsJson, app, make_console
from pfstudy.cli.judging import Baseline, Judging, Margin, OfPopulation, make_criteria
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.words import counted

if TYPE_CHECKING:
    from rich.console import Console

    from pfstudy.sources import Gathered
    from pfstudy.tables.content import Content

OfStudy = Annotated[str | None, typer.Option("--study", help="Take the members of this study.")]


def show_table(
    sources: Sequence[str | Path],
    study: str | None = None,
    *,
    judging: Judging | None = None,
    speed: Mapping[str, Any] | Sequence[str] | None = None,
    style: str = "short",
    columns: Sequence[str] = (),
    group_by: Sequence[str] = (),
    compare: str | None = None,
    formats: Sequence[str] = ("markdown", "csv", "latex"),
    output: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the table of finished runs and write it as files.

    Args:
        sources: Directories of runs, or ``wandb:ENTITY/PROJECT``.
        study: Whose members to take; ``None`` for all runs.
        judging: How variants are judged; ``None`` for the usual way.
        speed: Setting of speed to show, if there are several; or ``KEY=VALUE`` to choose it by.
        style: Name of a set of columns.
        columns: Keys of columns instead.
        group_by: What rows are grouped by.
        compare: Published figures to set beside ours.
        formats: Of the files.
        output: Directory of the files; that of the study, or of the runs, unless given.
        as_json: Print the rows as JSON and nothing else.

    Raises:
        PfstudyError: There are no finished runs, or no such study, baseline, style or column.
    """
    from pfstudy.tables import render

    for name in formats:
        if name not in render.FORMATS:
            raise unknown_name("format", name, render.FORMATS)
    found, content = make_table(
        sources,
        study,
        judging=judging,
        speed=speed,
        style=style,
        columns=columns,
        group_by=group_by,
        compare=compare,
    )
    if as_json:
        print(render.json(content))
        return
    directory = output or directory_of(sources, study)
    paths = render.write_files(content, directory, formats)
    console = make_console()
    shown = render.terminal(content, console.width if console.is_terminal else None)
    if not console.is_terminal:  # whole, however wide
        console.width = max(console.width, render.width_of(shown))
    console.print(shown)
    rows = content.rows
    baseline = rows.criteria.baseline
    if rows.lacks_baseline:
        cure = (
            "all of its runs failed; pfstudy status says why, and the same sweep tries them again"
            if baseline is None and rows.has_failed_baseline
            else "add the unsubstituted backbone, block.spatial=original, to the sweep"
            if baseline is None
            else f"no variant of its backbone, data and recipe is called {baseline}"
        )
        console.print(
            f"No baseline for {', '.join(rows.lacks_baseline)}: {cure}.",
            soft_wrap=True,
            markup=False,
        )
    if found.num_foreign:
        console.print(f"left out: {counted(found.num_foreign, 'run')} that pfstudy did not log")
    if found.num_repeated:
        console.print(f"in several sources, counted once: {counted(found.num_repeated, 'run')}")
    say_written(console, paths)


def make_table(
    sources: Sequence[str | Path],
    study: str | None = None,
    *,
    judging: Judging | None = None,
    speed: Mapping[str, Any] | Sequence[str] | None = None,
    style: str = "short",
    columns: Sequence[str] = (),
    group_by: Sequence[str] = (),
    compare: str | None = None,
) -> tuple[Gathered, Content]:
    """Gather runs and make their table; the arguments are those of `show_table`."""
    from pfstudy.sources import collecting_no_garbage
    from pfstudy.tables.content import make_content
    from pfstudy.tables.rows import make_rows
    from pfstudy.tables.speeds import choose_speed

    criteria = make_criteria(judging or Judging(), sources, study)
    with collecting_no_garbage():
        found = gather_runs(sources, study)
        if speed is not None and not isinstance(speed, Mapping):
            speed = choose_speed(found.records, speed)
        rows = make_rows(found.records, criteria, speed, found.incomplete)
        return found, make_content(
            rows, style=style, columns=columns, group_by=group_by, compare=compare, name=study
        )


def show_audit(
    sources: Sequence[str | Path], study: str | None = None, *, as_json: bool = False
) -> bool:
    """Print what the finished runs do not share, although a table compares them.

    Args:
        sources: Directories of runs, or ``wandb:ENTITY/PROJECT``.
        study: Whose members to take; ``None`` for all runs.
        as_json: Print an object as JSON and nothing else.

    Returns:
        Whether they share everything that is compared.

    Raises:
        PfstudyError: There are no finished runs, or no such study.
    """
    from pfstudy.tables import render
    from pfstudy.tables.audit import audit_records

    found = audit_records(gather_runs(sources, study).records)
    if as_json:
        print(render.audit_json(found))
        return not found.findings
    console = make_console()
    if found.findings:
        console.print(render.audit_table(found))
    for sentence in (render.audit_sentence(found), *found.remarks):
        console.print(sentence, soft_wrap=True, markup=False)
    return not found.findings


def gather_runs(sources: Sequence[str | Path], study: str | None) -> Gathered:
    """Read the finished runs of sources.

    Raises:
        PfstudyError: There are none; says what there is instead.
    """
    from pfstudy.sources import DAMAGED, gather

    found = gather(sources, study, lambda text: print(text, file=sys.stderr))
    if found.records:
        return found
    where = ", ".join(map(str, sources)) + (f" of the study {study}" if study else "")
    num_damaged = sum(run.state == DAMAGED for run in found.incomplete)
    left = {"damaged": num_damaged, "not done": len(found.incomplete) - num_damaged}
    parts = [f"{counted(number, 'run')} {state}" for state, number in left.items() if number]
    if found.num_foreign:
        parts.append(f"{counted(found.num_foreign, 'run')} that pfstudy did not log")
    there = f", but {' and '.join(parts)}" if parts else "; train some first"
    raise PfstudyError(f"there are no finished runs in {where}{there}.")


def say_written(console: Console, paths: Sequence[Path]) -> None:
    """Say where files are."""
    text = f"written: {', '.join(map(str, paths))}"
    console.print(text, soft_wrap=True, style="dim", markup=False)


def directory_of(sources: Sequence[str | Path], study: str | None) -> Path:
    """Where files about sources belong unless told otherwise."""
    from pfstudy import store

    local = [Path(source) for source in sources if not str(source).startswith("wandb:")]
    if not local:
        return Path()
    return local[0] / store.STUDIES / study if study else local[0]


Sources = Annotated[
    list[str],
    typer.Argument(
        help="Directories of runs, or of what W&B logged offline, or wandb:ENTITY/PROJECT; several "
        "are merged.",
        show_default="runs",
    ),
]
OfSpeed = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Show speed of this device or setting, such as device=H100 or batch_size=8; may be "
        "repeated.",
    ),
]


@app.command()
def table(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    baseline: Baseline = None,
    population: OfPopulation = None,
    margin: Margin = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the files.")
    ] = None,
    speed: OfSpeed = None,
    style: Annotated[
        str, typer.Option(help="Set of columns: short, paper (those of the paper's tables), full.")
    ] = "short",
    columns: Annotated[
        str, typer.Option(help="Columns instead, separated by commas: params,test_top1_percent.")
    ] = "",
    rows: Annotated[
        str, typer.Option(help="What lines are: variant; model,variant groups them by model.")
    ] = "variant",
    compare: Annotated[
        str | None, typer.Option(help="Set published figures beside ours: paper.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Files to write: markdown,csv,latex,html,json.")
    ] = "markdown,csv,latex",
    as_json: AsJson = False,
) -> None:
    """Tabulate finished runs: accuracy beside cost and speed, and which differences are real.

    Written as table.md, table.csv and table.tex, too.
    """
    *group_by, last = split(rows) or [""]
    if last != "variant":
        raise PfstudyError(
            "--rows ends with variant, a line for each; what lines are grouped by stands before "
            "it: --rows model,variant."
        )
    if not split(formats):
        raise PfstudyError("--format takes at least one: markdown,csv,latex,html,json.")
    show_table(
        sources,
        study,
        judging=Judging(baseline, population, margin),
        speed=speed,
        style=style,
        columns=split(columns),
        group_by=group_by,
        compare=compare,
        formats=split(formats),
        output=output,
        as_json=as_json,
    )


def split(text: str) -> list[str]:
    """Names that were given with commas between them."""
    return [part.strip() for part in text.split(",") if part.strip()]


@app.command()
def power(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    baseline: Baseline = None,
    population: OfPopulation = None,
    chance: Annotated[
        float, typer.Option("--power", help="Probability with which it is to be decided.")
    ] = 0.8,
    margin: Annotated[
        float | None,
        typer.Option(
            help="Show that a variant loses no more than so many points, if it loses nothing; "
            "default: 0.5."
        ),
    ] = None,
    difference: Annotated[
        float | None, typer.Option(help="Find a true difference of so many points instead.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say how many seeds would decide, by the variance between the seeds that there are."""
    from pfstudy.tables.power import make_power, power_data, power_table

    if not 0 < chance < 1:
        raise PfstudyError(f"--power is a probability between 0 and 1, but got {chance:g}.")
    if difference is not None and not 0 < abs(difference) <= 100:
        raise PfstudyError(f"--difference is in points and not 0, but got {difference:g}.")
    if difference is not None and margin is not None:
        raise PfstudyError("--margin and --difference are two questions; ask one of them.")
    judging = Judging(baseline, population, margin)
    made = make_power(
        make_table(sources, study, judging=judging)[1].rows, chance, margin, difference
    )
    if as_json:
        print(json.dumps(power_data(made), indent=1))
    else:
        make_console().print(power_table(made))


@app.command()
def effects(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    population: OfPopulation = None,
    margin: Margin = None,
    as_json: AsJson = False,
) -> None:
    """Say what each operation contributes at each block, stage, and everywhere.

    By an additive model, which is judged by how well it predicts combinations from the others.
    """
    from pfstudy.tables.effects import effects_data, effects_table, fit_all

    judging = Judging(None, population, margin)
    models = fit_all(make_table(sources, study, judging=judging)[1].rows)
    if as_json:
        print(json.dumps(effects_data(models), indent=1))
        return
    console = make_console()
    for model in models:
        console.print(effects_table(model))


@app.command()
def audit(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    as_json: AsJson = False,
) -> None:
    """List what runs that are compared do not share: recipe, data, code version and so on.

    Exit code 0 if they share everything, 1 if not.
    """
    if not show_audit(sources, study, as_json=as_json):
        raise typer.Exit(1)
