"""Subcommands about the ledger: what is done, why, and what is kept of it."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfstudy.cli.app import AsJson, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.cli.results import OfStudy
from pfstudy.errors import PfstudyError
from pfstudy.words import counted

if TYPE_CHECKING:
    from pfstudy.inventory import Description
    from pfstudy.keeping import Pruning
    from pfstudy.why import Verdict

REFRESH_S = 2.0

_UNITS = ("kB", "MB", "GB", "TB")

Somewhere = Annotated[
    Path, typer.Argument(help="Directory of the run directories, of a variant, or of a run.")
]
Sure = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command()
def status(
    directory: Somewhere = Path("runs"),
    study: OfStudy = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on until nothing is running or pending.")
    ] = False,
    all_rows: Annotated[
        bool, typer.Option("--all", "-a", help="List all runs, however many are done.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is done, running, failed and pending."""
    from pfstudy.tables import status as table

    if watch and as_json:
        raise PfstudyError("--watch shows a table until you stop it; leave out --json.")
    if watch:
        with suppress(KeyboardInterrupt):
            watch_status(directory, study, all_rows=all_rows)
        return
    rows = table.read_rows(directory, study)
    if as_json:
        print(json.dumps(table.as_data(rows), indent=1))
    else:
        make_console().print(table.render(rows, all_rows=all_rows), soft_wrap=True)


def watch_status(directory: Path, study: str | None, *, all_rows: bool = False) -> None:
    """Show the state of runs and keep it up to date until nothing is running or pending."""
    from rich.live import Live

    from pfstudy.tables import status as table

    with Live(console=make_console(), auto_refresh=False) as live:
        while True:
            rows = table.read_rows(directory, study)
            live.update(table.render(rows, all_rows=all_rows), refresh=True)
            if table.is_settled(rows):
                return
            time.sleep(REFRESH_S)


@app.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def why(
    what: Annotated[
        list[str],
        typer.Argument(help="One or two directories of runs or variants; or what to train."),
    ],
    as_json: AsJson = False,
) -> None:
    """Show what makes two runs differ, and why a run would be trained or skipped.

    For example: pfstudy why runs/A/seed0 runs/B/seed0

    or: pfstudy why runs/A/seed0

    or, as for training: pfstudy why -m block.spatial=conv,maxpool recipe.lr=0.2
    """
    directories = [Path(text) for text in what if Path(text).is_dir()]
    if not directories and all(map(_is_for_hydra, what)):
        _foresee(what, as_json=as_json)
    elif len(directories) < len(what):
        missing = next(text for text in what if not Path(text).is_dir())
        raise PfstudyError(
            f"there is no directory {missing}; give one or two directories of runs, or the "
            "overrides of what to train."
        )
    elif len(directories) > 2:
        raise PfstudyError(f"why compares two runs, but there are {len(directories)} directories.")
    elif len(directories) == 2:
        _compare(*directories, as_json=as_json)
    else:
        _explain(directories[0], as_json=as_json)


@app.command()
def prune(
    keep: Annotated[str, typer.Option(help="The weights to keep: last, best or none.")],
    directory: Somewhere = Path("runs"),
    study: OfStudy = None,
    yes: Sure = False,
    as_json: AsJson = False,
) -> None:
    """Delete weights of finished runs; nothing but checkpoints is ever deleted."""
    from pfstudy import keeping, store
    from pfstudy.inventory import find_runs

    runs = find_runs(directory)
    if study is not None:
        members = store.read_study(directory, study)
        runs = [directory / member for member in members if (directory / member).is_dir()]
    plan = keeping.plan_pruning(runs, keeping.parse_keep(keep))
    if not as_json:
        _show_pruning(plan, keep)
    if plan.num_bytes:
        _ask("Delete them?", yes=yes, as_json=as_json)
    deleted = keeping.prune(plan)
    num_bytes = sum(plan.num_bytes[path] for path in deleted)
    if as_json:
        print(json.dumps({"deleted": list(map(str, deleted)), "bytes": num_bytes}, indent=1))
    elif deleted:
        make_console().print(f"deleted {counted(len(deleted), 'file')}, {_size(num_bytes)}")


@app.command()
def forget(
    run: Annotated[Path, typer.Argument(help="Directory of a run, or of a variant's runs.")],
    yes: Sure = False,
    as_json: AsJson = False,
) -> None:
    """Move a run aside, so that the same command trains it again; nothing is lost."""
    from pfstudy import keeping

    moves = keeping.plan_forgetting(run)
    console = make_console()
    if not as_json:
        for move in moves:
            text = f"{_from_here(move.source)} -> {_from_here(move.target)}"
            console.print(text, soft_wrap=True, markup=False)
    _ask("Move it there?" if len(moves) == 1 else "Move them there?", yes=yes, as_json=as_json)
    keeping.forget(moves)
    if as_json:
        print(json.dumps({str(move.source): str(move.target) for move in moves}, indent=1))
    else:
        console.print("moved; the same command trains what is gone again")


def _is_for_hydra(text: str) -> bool:
    """Whether an argument is no mistyped directory: their names have a ``=`` in them, too."""
    key, equals, _ = text.partition("=")
    is_path = "/" in key and Path(key).parent.is_dir()
    return text.startswith(("+", "~", "-")) or bool(equals and not is_path)


def _compare(left: Path, right: Path, *, as_json: bool) -> None:
    from pfstudy.tables import differences
    from pfstudy.why import compare

    comparison = compare(left, right)
    if as_json:
        print(json.dumps(differences.comparison_data(comparison), indent=1))
    else:
        make_console().print(differences.render_comparison(comparison), soft_wrap=True)


def _explain(directory: Path, *, as_json: bool) -> None:
    from pfstudy.inventory import describe, find_runs
    from pfstudy.why import explain

    runs = find_runs(directory)
    if not runs:
        raise PfstudyError(f"there are no runs in {directory}.")
    described = [describe(run) for run in runs]
    _show_verdicts([explain(run) for run in runs], described, as_json=as_json)


def _foresee(arguments: Sequence[str], *, as_json: bool) -> None:
    """Compose what training would, and say what it would do."""
    configs = compose_only(arguments)
    if not configs:
        return
    from pfstudy import store
    from pfstudy.inventory import describe_run
    from pfstudy.launch.sweep import identify_variants, list_runs
    from pfstudy.why import describe_all, foresee

    runs = list_runs(identify_variants(configs)[0])
    for run in runs:
        store.check_directory(run)
    known = describe_all(Path(configs[0].runs_dir))
    described = [describe_run(run) for run in runs]
    _show_verdicts([foresee(run, known) for run in described], described, as_json=as_json)
    if configs[0].study.constraints and not as_json:
        make_console().print("of the new ones, study.constraints may still drop some")


def _show_verdicts(
    verdicts: Sequence[Verdict], described: Sequence[Description], *, as_json: bool
) -> None:
    from pfstudy.inventory import name_runs
    from pfstudy.tables import differences

    if as_json:
        print(json.dumps([differences.verdict_data(each) for each in verdicts], indent=1))
    else:
        rendered = differences.render_verdicts(verdicts, name_runs(described))
        make_console().print(rendered, soft_wrap=True)


def _show_pruning(plan: Pruning, keep: str) -> None:
    console = make_console()
    if plan.unfinished:
        console.print(f"{counted(len(plan.unfinished), 'run')} not done: left alone")
    if plan.keeping_other:
        other = "last" if keep == "best" else "best"
        listed = ", ".join(map(str, plan.keeping_other))
        console.print(
            f"{counted(len(plan.keeping_other), 'run')} without {keep}.safetensors: kept are the "
            f"{other} weights ({listed})",
            soft_wrap=True,
            markup=False,
        )
    if not plan.num_bytes:
        console.print("nothing to delete")
        return
    by_name: dict[str, list[int]] = {}
    for path, num_bytes in plan.num_bytes.items():
        by_name.setdefault(path.name, []).append(num_bytes)
    parts = (f"{len(sizes)} {name} ({_size(sum(sizes))})" for name, sizes in by_name.items())
    console.print(f"to delete: {', '.join(parts)}", soft_wrap=True, markup=False)


def _ask(question: str, *, yes: bool, as_json: bool) -> None:
    """Ask before something is done that is not easily undone."""
    if yes:
        return
    if as_json or not sys.stdin.isatty():
        raise PfstudyError("nobody can be asked here; give --yes to do it.")
    typer.confirm(question, abort=True)


def _from_here(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _size(num_bytes: float) -> str:
    if num_bytes < 1000:
        return f"{num_bytes:.0f} B"
    for unit in _UNITS:
        num_bytes /= 1000
        if num_bytes < 1000 or unit == _UNITS[-1]:
            break
    return f"{num_bytes:.1f} {unit}"
