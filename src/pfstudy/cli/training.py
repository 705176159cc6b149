"""Training: a sweep and its table, here, as a job of a cluster, or going on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfstudy.cli.app import app
from pfstudy.cli.results import OfStudy, show_table
from pfstudy.errors import PfstudyError, RunsFailedError

if TYPE_CHECKING:
    from pfstudy.launch.sweep import SweepResult
    from pfstudy.schema.config import Config


def run_configs(configs: Sequence[Config]) -> None:
    """Run a sweep and print its table.

    Raises:
        PfstudyError: The sweep is not valid.
        RunsFailedError: Some runs failed.
    """
    from pfstudy.launch.sweep import run_sweep

    result = run_sweep(configs)
    if len(result.failed) < len(result.members):
        show_study(configs[0], result.study)
    raise_failures(result)


def run_as_job(composed: Any) -> None:
    """Run what a launcher that is not ours has been given as one job.

    Raises:
        PfstudyError: The job is not valid.
        RunsFailedError: Some of its runs failed.
    """
    from pfstudy.launch.job import run_job
    from pfstudy.schema.compose import config_of

    result = run_job(config_of(composed))
    if result is not None:
        raise_failures(result)


def show_study(config: Config, study: str) -> None:
    """Print the table of a study, as far as it is done."""
    from pfstudy.speed.setting import setting_of

    show_table([Path(config.runs_dir)], study, speed=setting_of(config.speed))


def raise_failures(result: SweepResult) -> None:
    """Say which runs of a sweep failed, if any did.

    Raises:
        RunsFailedError: Some did.
    """
    if result.failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in result.failed.items())
        raise RunsFailedError(
            f"{len(result.failed)} of {len(result.members)} runs failed: {reasons}"
        )


@app.command()
def resume(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[DIR] [KEY=VALUE]...",
            help="Directory of the run directories (default: runs), or one run of them; settings "
            "of launcher, logger, speed and trainer to change, such as launcher.num_workers=4.",
            show_default=False,
        ),
    ] = None,
    study: OfStudy = None,
) -> None:
    """Go on with the runs that are not done, study by study, and print their tables.

    An interrupted run goes on from its last checkpoint. The command that began a study does the
    same.
    """
    from pfstudy.launch.resume import list_unfinished

    directories = [argument for argument in arguments or () if "=" not in argument]
    overrides = [argument for argument in arguments or () if "=" in argument]
    if len(directories) > 1:
        raise PfstudyError(f"resume takes one directory, but got {', '.join(directories)}.")
    found = list_unfinished(Path(*directories or ["runs"]), study, overrides)
    if not found:
        print("Nothing is left to do: all runs are done.")
    failed = []
    for unfinished in found:
        if unfinished.missing:
            print(
                f"{unfinished.study}: {len(unfinished.missing)} runs have no config any more, such "
                f"as {unfinished.missing[0]}; give the command that began it."
            )
        if unfinished.configs:
            try:
                run_configs(unfinished.configs)
            except RunsFailedError as error:
                failed.append(f"{unfinished.study}: {error}")
    if failed:
        raise RunsFailedError("; ".join(failed))
