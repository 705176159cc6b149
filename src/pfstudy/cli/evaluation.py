"""The subcommand that evaluates the networks of finished runs, and given weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfstudy.cli.app import HYDRAS, AsJson, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.errors import PfstudyError, RunsFailedError, unknown_name
from pfstudy.words import counted

if TYPE_CHECKING:
    from pfstudy.evaluation.cases import Case

_OPTIONS = (
    *("--corruptions", "--severities", "--only", "--fgsm", "--occlusion", "--per-class", "--again"),
    "--json",
)


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


def show_runs(
    paths: Sequence[Path],
    cases: Sequence[Case],
    *,
    again: bool = False,
    per_class: bool = False,
    as_json: bool = False,
) -> None:
    """Evaluate finished runs on what they have no figures of, and print all figures.

    Args:
        paths: Run directories, or directories of a variant or of all runs.
        cases: What to evaluate them on.
        again: Evaluate also where there are figures.
        per_class: Print a table of the classes of each run.
        as_json: Print the figures as JSON and nothing else.

    Raises:
        PfstudyError: No run can be evaluated.
        RunsFailedError: Some runs could not be, the others are.
    """
    from pfstudy.launch.evaluate import evaluate_runs
    from pfstudy.tables.evaluated import per_class_table, read_evaluated, runs_table, tables_of_one

    evaluation = evaluate_runs(paths, cases, again=again)
    runs = read_evaluated(evaluation.done, cases)
    if as_json:
        print(json.dumps([run.as_data() for run in runs], indent=1))
    else:
        console = make_console()
        for table in tables_of_one(runs[0]) if len(runs) == 1 else [runs_table(runs)]:
            console.print(table)
        for run in runs if per_class else ():
            console.print(per_class_table(run))
        place = runs[0].directory / "eval" if len(runs) == 1 else "eval/ of each run directory"
        console.print(f"figures: {place}", soft_wrap=True, style="dim", markup=False)
    if evaluation.failed:
        directory, reason = next(iter(evaluation.failed.items()))
        number = len(evaluation.failed)
        raise RunsFailedError(
            f"{counted(number, 'run')} not evaluated, such as {directory}: {reason}"
        )


@app.command("eval", context_settings=HYDRAS)
def evaluate(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Run directories, those of variants, or that of all runs; or a network with "
            "weights, as for training.",
            metavar="RUN|KEY=VALUE",
        ),
    ],
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="The 15 common corruptions of ImageNet-C.")
    ] = False,
    severities: Annotated[
        str | None, typer.Option(metavar="1,3,5", help="Of the corruptions; default: all five.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="These corruptions; default: all 15.")
    ] = None,
    fgsm: Annotated[
        str | None,
        typer.Option(metavar="1,2,4,8", help="Attack with these epsilons, in 1/255 of the range."),
    ] = None,
    occlusion: Annotated[
        bool, typer.Option("--occlusion", help="Take 10 to 90 % of the patches away.")
    ] = False,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Show the figures of each class, too.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Evaluate also where there are figures already.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate finished runs on the test images: accuracy, calibration, robustness.

    The figures are added to each run, below RUN/eval, and those that it has are not computed anew.

    For example: pfstudy eval runs --corruptions --severities 1,3,5 --fgsm 1,2,4

    Given weights are evaluated without a run, and nothing is kept:

    pfstudy eval paper=r50_hybrid init_from=FILE data=imagenet data.path=FOLDER
    """
    asked = (corruptions, severities, only, fgsm, occlusion, per_class, again)
    if not _name_runs(what):
        if any(asked):
            raise PfstudyError(
                "robustness and figures per class are of finished runs: give run directories, not "
                f"{what[0]}."
            )
        show_evaluation(what, as_json=as_json)
        return
    from pfstudy.evaluation.cases import (
        CORRUPTIONS,
        OCCLUDED_PERCENT,
        SEVERITIES,
        list_cases,
        parse_corruptions,
        parse_epsilons,
        parse_severities,
    )

    is_corrupted = corruptions or severities is not None or only is not None
    chosen = CORRUPTIONS if only is None else parse_corruptions(only)
    cases = list_cases(
        corruptions=chosen if is_corrupted else (),
        severities=SEVERITIES if severities is None else parse_severities(severities),
        epsilons=() if fgsm is None else parse_epsilons(fgsm),
        occluded_percent=OCCLUDED_PERCENT if occlusion else (),
    )
    paths = [Path(one) for one in what]
    show_runs(paths, cases, again=again, per_class=per_class, as_json=as_json)


def _name_runs(arguments: Sequence[str]) -> bool:
    """Whether arguments name directories, whose names may contain ``=``, and no overrides."""
    are_runs = [_is_place(argument) for argument in arguments]
    if not any(are_runs) or arguments[0][0] in "+~" or "-m" in arguments:
        return False
    for argument, is_run in zip(arguments, are_runs, strict=True):
        if argument.startswith("-"):
            raise unknown_name("eval: the option", argument, _OPTIONS)
        if not is_run:
            raise PfstudyError(
                f"eval takes run directories or overrides, not both: {argument} is no directory."
            )
    return True


def _is_place(argument: str) -> bool:
    key, equals, _ = argument.partition("=")
    if argument.startswith("-") or Path(argument).is_dir():
        return not argument.startswith("-")
    return not equals or ("/" in key and Path(key).parent.is_dir())
