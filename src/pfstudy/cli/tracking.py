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
    """Upload what W&B does not know yet: runs logged offline, and runs whose tracking was lost.

    What is running is left for later. Exit code 1 if something could not be uploaded; it stays,
    and the same command goes on.
    """
    from pfstudy import searches, store
    from pfstudy.inventory import find_runs
    from pfstudy.tracking.sync import Synced, find_pending, sync
    from pfstudy.tuning import TUNING

    runs = find_runs(directory)
    if study is not None:
        members = set(store.read_study(directory, study))
        runs = [run for run in runs if str(run.relative_to(directory)) in members]
    else:
        runs += searches.find_directories(directory)
        runs += find_runs(directory / TUNING) if (directory / TUNING).is_dir() else []
    pending = find_pending(runs)
    console = make_console()
    if dry_run:
        num_offline = sum(len(run.offline) for run in pending)
        num_lost = sum(run.is_lost for run in pending)
        if as_json:
            print(json.dumps({"offline": num_offline, "lost": num_lost}))
        else:
            console.print(
                f"to upload: {counted(num_offline, 'attempt')} logged offline, "
                f"{counted(num_lost, 'run')} whose tracking was lost"
            )
        return

    def say(text: str) -> None:
        if not as_json:
            console.print(text, style="dim")

    done = sync(pending, say) if pending else Synced()
    if as_json:
        listed = {"uploaded": done.uploaded, "logged": done.logged}
        data = {key: list(map(str, paths)) for key, paths in listed.items()}
        print(json.dumps({**data, "failed": {str(p): r for p, r in done.failed.items()}}, indent=1))
    elif not pending:
        console.print("nothing to upload: W&B knows all runs that are not running")
    else:
        anew = counted(len(done.logged), "run")
        lost = f", {anew} of them logged anew from its files" if done.logged else ""
        console.print(f"uploaded: {counted(len(done.uploaded), 'attempt')}{lost}")
    if done.failed:
        path, reason = next(iter(done.failed.items()))
        raise RunsFailedError(f"{len(done.failed)} not uploaded, such as {path}: {reason}")
