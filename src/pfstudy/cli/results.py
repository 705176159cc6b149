"""Subcommands that show figures: of finished runs, of given weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pfstudy.cli.app import AsJson, Directory, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.errors import PfstudyError

OfStudy = Annotated[str | None, typer.Option("--study", help="Take the members of this study.")]


def show_evaluation(arguments: Sequence[str], *, as_json: bool = False) -> None:
    """Evaluate a network with given weights, and print its accuracy.

    Args:
        arguments: Overrides and options of Hydra's.
        as_json: Print the figures as JSON and nothing else.

    Raises:
        PfstudyError: The arguments do not describe one network with weights, or these or the
            images cannot be read.
    """
    configs = compose_only(arguments)
    if not configs:
        return
    if len(configs) > 1:
        raise PfstudyError(f"eval takes one network, but the arguments describe {len(configs)}.")
    from pfstudy.launch.evaluate import evaluate_in_child
    from pfstudy.tables.render import evaluation_table

    figures = evaluate_in_child(configs[0])
    if as_json:
        print(json.dumps(figures, indent=1))
    else:
        make_console().print(evaluation_table(figures))


def show_table(
    root: Path,
    study: str | None = None,
    *,
    baseline: str | None = None,
    speed: Mapping[str, Any] | None = None,
    output: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the table of finished runs and write it as Markdown, CSV and LaTeX.

    Args:
        root: Directory of the run directories.
        study: Whose members to take; ``None`` for all runs.
        baseline: Label of the variant to compare with.
        speed: Setting of speed to show, if there are several.
        output: Directory of the files; that of the study, or ``root``, unless given.
        as_json: Print the rows as JSON and nothing else.

    Raises:
        PfstudyError: There are no finished runs, or no such study or baseline.
    """
    from pfstudy import store
    from pfstudy.tables import render
    from pfstudy.tables.rows import make_rows

    rows = make_rows(_read_records(root, study), baseline, speed)
    if as_json:
        print(render.json(rows))
        return
    output = output or (root / store.STUDIES / study if study else root)
    paths = render.write_files(rows, output)
    console = make_console()
    console.print(render.terminal(rows, study))
    if rows.lacks_baseline:
        console.print(
            f"No baseline for {', '.join(rows.lacks_baseline)}: add the unsubstituted backbone, "
            "block.spatial=original, to the sweep.",
            soft_wrap=True,
        )
    console.print(f"written: {', '.join(map(str, paths))}", soft_wrap=True, style="dim")


def show_audit(root: Path, study: str | None = None, *, as_json: bool = False) -> bool:
    """Print what the finished runs do not share, although a table compares them.

    Args:
        root: Directory of the run directories.
        study: Whose members to take; ``None`` for all runs.
        as_json: Print an object as JSON and nothing else.

    Returns:
        Whether they share everything that is compared.

    Raises:
        PfstudyError: There are no finished runs, or no such study.
    """
    from pfstudy.tables import render
    from pfstudy.tables.audit import audit_records

    found = audit_records(_read_records(root, study))
    if as_json:
        print(render.audit_json(found))
        return not found.findings
    console = make_console()
    if found.findings:
        console.print(render.audit_table(found))
    for sentence in (render.audit_sentence(found), *found.remarks):
        console.print(sentence, soft_wrap=True, markup=False)
    return not found.findings


def _read_records(root: Path, study: str | None) -> Iterator[dict[str, Any]]:
    from pfstudy import store

    if not root.is_dir():
        raise PfstudyError(f"there is no directory {root}; give the one that runs were made in.")
    members = None if study is None else store.read_study(root, study)
    return store.read_records(root, members)


@app.command()
def table(
    source: Directory = Path("runs"),
    study: OfStudy = None,
    baseline: Annotated[
        str | None, typer.Option(help="Compare with this variant; default: the backbone.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the files.")
    ] = None,
    speed: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Show speed of this device or setting, such as device=H100 or batch_size=8; may "
            "be repeated.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tabulate finished runs: accuracy beside cost and speed.

    Written as table.md, table.csv and table.tex, too.
    """
    wanted = None
    if speed:
        from pfstudy.tables.rows import choose_speed

        wanted = choose_speed(_read_records(source, study), speed)
    show_table(source, study, baseline=baseline, speed=wanted, output=output, as_json=as_json)


@app.command()
def audit(source: Directory = Path("runs"), study: OfStudy = None, as_json: AsJson = False) -> None:
    """List what runs that are compared do not share: recipe, data, code version and so on.

    Exit code 0 if they share everything, 1 if not.
    """
    if not show_audit(source, study, as_json=as_json):
        raise typer.Exit(1)


@app.command("eval", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def evaluate(
    overrides: Annotated[
        list[str], typer.Argument(help="What to evaluate, as for training.", metavar="KEY=VALUE")
    ],
    as_json: AsJson = False,
) -> None:
    """Evaluate given weights on the test images: top-1 and top-5.

    For example: pfstudy eval paper=r50_hybrid init_from=FILE data=imagenet data.path=FOLDER
    """
    show_evaluation(overrides, as_json=as_json)
