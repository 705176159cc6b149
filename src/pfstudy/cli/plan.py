"""The subcommand that says what a sweep would do and take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from pfstudy.cli.app import HYDRAS, AsJson, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.errors import PfstudyError, RunsFailedError

_HELP = """Show what a sweep would do and take, and which of its variants would fail.

Every variant is built and trained for a moment; nothing is written.

\b
For example:
    pfstudy plan -m block.spatial=conv,maxpool seeds=3
"""


def show_plan(arguments: Sequence[str], *, seconds: float = 1.0, as_json: bool = False) -> None:
    """Build every variant, train each for a moment, and print what the sweep would take.

    Args:
        arguments: Overrides and options of Hydra's.
        seconds: How long each network is trained.
        as_json: Print an object as JSON and nothing else.

    Raises:
        PfstudyError: The sweep is not valid.
        RunsFailedError: Some variants would fail.
    """
    configs = compose_only(arguments)
    if not configs:
        return
    from pfstudy.launch.plan import make_plan
    from pfstudy.tables import plan as table

    made = make_plan(configs, seconds)
    if as_json:
        print(json.dumps(table.as_data(made), indent=1))
    else:
        make_console().print(table.render(made), soft_wrap=True)
    problems = table.describe_problems(made)
    if problems:
        raise RunsFailedError(problems)


@app.command(context_settings=HYDRAS, help=_HELP)
def plan(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="What to train, as for training.", metavar="[-m] KEY=VALUE"),
    ] = None,
    seconds: Annotated[
        float, typer.Option(help="How long each network is trained to see what that takes.")
    ] = 1.0,
    as_json: AsJson = False,
) -> None:
    """Show what a sweep would do and take, and which of its variants would fail."""
    if seconds <= 0:
        raise PfstudyError(f"--seconds must be more than 0, but got {seconds:g}.")
    show_plan(overrides or [], seconds=seconds, as_json=as_json)
