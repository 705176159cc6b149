"""The subcommand that counts the cost of finished runs again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pfstudy.cli.app import AsJson, app
from pfstudy.errors import RunsFailedError
from pfstudy.words import counted


@app.command()
def recount(
    directory: Annotated[
        Path, typer.Argument(help="Directory of the run directories, of a variant, or of a run.")
    ] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Count activations and memory traffic of older runs again; nothing is trained.

    Tables leave both blank where another version of pfstudy counted them in another way.
    """
    from pfstudy.launch.recount import recount_runs

    found = recount_runs(directory)
    if as_json:
        content = {
            "recounted": list(map(str, found.recounted)),
            "num_counted_before": found.num_counted_before,
            "failed": {str(run): reason for run, reason in found.failed.items()},
        }
        print(json.dumps(content, indent=1))
    else:
        print(
            f"{counted(len(found.recounted), 'variant')} counted again; "
            f"{found.num_counted_before} had been counted as this version counts"
        )
    if found.failed:
        number, reason = len(found.failed), next(iter(found.failed.values()))
        raise RunsFailedError(f"{counted(number, 'variant')} not counted again: {reason}")
