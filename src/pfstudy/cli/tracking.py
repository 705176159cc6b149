"""Subcommands about Weights & Biases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pfstudy.cli.app import AsJson, app, make_console
from pfstudy.cli.results import OfStudy
from pfstudy.errors import RunsFailedError
from pfstudy.words import counted


@app.command()
def sync(
    directory: Annotated[
        Path, typer.Argument(help="Directory of the run directories, of a variant, or of a run.")
    ] = Path("runs"),
    study: OfStudy = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be uploaded, and upload nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Upload what W&B does not know yet: runs logged offline, and runs whose tracking was lost."""
    from pfstudy import store
    from pfstudy.inventory import find_runs
    from pfstudy.tracking.sync import find_pending, sync

    runs = find_runs(directory)
    groups = store.studies_of(directory)
    if study is not None:
        members = set(store.read_study(directory, study))
        runs = [run for run in runs if str(run.relative_to(directory)) in members]
    pending = find_pending(runs)
    console = make_console()
    num_offline = sum(len(run.offline) for run in pending)
    num_lost = sum(run.is_lost for run in pending)
    if dry_run or not pending:
        if as_json:
            print(json.dumps({"offline": num_offline, "lost": num_lost}))
        elif pending:
            console.print(
                f"to upload: {counted(num_offline, 'attempt')} logged offline, "
                f"{counted(num_lost, 'run')} whose tracking was lost"
            )
        else:
            console.print("nothing to upload: W&B knows all runs")
        return
    done = sync(pending, groups, lambda text: None if as_json else console.print(text, style="dim"))
    if as_json:
        listed = {"uploaded": done.uploaded, "logged": done.logged}
        data = {key: list(map(str, paths)) for key, paths in listed.items()}
        print(json.dumps({**data, "failed": {str(p): r for p, r in done.failed.items()}}, indent=1))
    else:
        console.print(
            f"uploaded: {counted(len(done.uploaded), 'attempt')}; logged anew from their files: "
            f"{counted(len(done.logged), 'run')}"
        )
    if done.failed:
        path, reason = next(iter(done.failed.items()))
        raise RunsFailedError(f"{len(done.failed)} not uploaded, such as {path}: {reason}")
