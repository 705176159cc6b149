"""The subcommand that evaluates given weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated

import typer

from pfstudy.cli.app import HYDRAS, AsJson, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.errors import PfstudyError


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


@app.command("eval", context_settings=HYDRAS)
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
