"""Subcommands that make pictures and pages of finished runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfstudy.cli.app import app, make_console
from pfstudy.cli.judging import Baseline, Judging, Margin, OfPopulation
from pfstudy.cli.results import (
    OfSpeed,
    OfStudy,
    Sources,
    directory_of,
    make_table,
    say_written,
    split,
)
from pfstudy.errors import PfstudyError, unknown_name

if TYPE_CHECKING:
    from pfstudy.tables.content import Content


@app.command()
def figure(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    baseline: Baseline = None,
    population: OfPopulation = None,
    margin: Margin = None,
    kinds: Annotated[
        str,
        typer.Option(
            "--kind", help="latency, macs, params, differences, effects, replaced, curves."
        ),
    ] = "",
    formats: Annotated[str, typer.Option("--format", help="svg, pdf, png.")] = "svg,pdf,png",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the pictures.")
    ] = None,
    speed: OfSpeed = None,
) -> None:
    """Draw finished runs: accuracy against cost, effects of places, curves."""
    from pfstudy.figures.draw import KINDS, draw
    from pfstudy.figures.style import FORMATS

    asked, endings = split(kinds), split(formats)
    for name in asked:
        if name not in KINDS:
            raise unknown_name("kind of figure", name, KINDS)
    if not endings:
        raise PfstudyError(f"--format takes at least one: {','.join(FORMATS)}.")
    for name in endings:
        if name not in FORMATS:
            raise unknown_name("format", name, FORMATS)
    judging = Judging(baseline, population, margin)
    found, content = make_table(sources, study, judging=judging, speed=speed)
    directory = output or directory_of(sources, study) / "figures"
    drawn, missing = draw(content.rows, found.records, directory, asked, endings)
    console = make_console()
    for reason in missing:
        console.print(reason, soft_wrap=True, markup=False)
    if not drawn:
        raise PfstudyError("there is nothing to draw.")
    say_written(console, drawn)


@app.command()
def report(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    baseline: Baseline = None,
    population: OfPopulation = None,
    margin: Margin = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; default: report.html.")
    ] = None,
    speed: OfSpeed = None,
    wandb: Annotated[
        str | None,
        typer.Option(
            metavar="ENTITY/PROJECT", help="Write a report and a workspace on W&B instead."
        ),
    ] = None,
) -> None:
    """Write one self-contained page: the table, linked plots, curves, the audit.

    With --wandb, a report and a workspace on W&B instead; with --output, too, both.
    """
    from pfstudy.figures.curves import read_curves
    from pfstudy.report.page import write_page
    from pfstudy.tables.effects import fit_levels

    judging = Judging(baseline, population, margin)
    found, content = make_table(sources, study, judging=judging, speed=speed)
    if wandb is not None:
        _write_dashboard(wandb, study, content)
        if output is None:
            return
    path = output or directory_of(sources, study) / "report.html"
    write_page(
        path,
        study or f"Runs in {', '.join(map(str, sources))}",
        content,
        content.rows.audit,
        records=found.records,
        curves=read_curves(found.records),
        models=fit_levels(content.rows),
        sources=list(map(str, sources)),
    )
    say_written(make_console(), [path])


def _write_dashboard(project: str, study: str | None, content: Content) -> None:
    from pfstudy.tables.render import audit_sentence, markdown
    from pfstudy.tracking.dashboard import Dashboard, write_dashboard

    places = max((row for row in content.rows.frame["operations"]), key=len)
    audited = content.rows.audit
    dashboard = Dashboard(
        study or "Study",
        study,
        markdown(content),
        [audit_sentence(audited), *audited.remarks],
        [key for key in content.rows.settings if key != "model"],
        list(places),
    )
    for url in write_dashboard(project, dashboard):
        make_console().print(f"written: {url}", soft_wrap=True, style="dim", markup=False)
