"""The subcommands about speed: measure it, explain it, predict it, compare it, take it along."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfstudy.cli.app import HYDRAS, AsJson, DefaultGroup, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.errors import PfstudyError, RunsFailedError
from pfstudy.words import counted

if TYPE_CHECKING:
    from pfstudy.schema.config import Config

_NO_FOLDER = "++data.path=none"  # images are drawn at random
_HELP = """Measure speed beside the unsubstituted backbone; trains nothing, reads no data.

\b
    pfstudy speed -m model=resnet50 data=imagenet block.spatial=maxpool,dwconv
    pfstudy speed -m paper=r50_max data=imagenet speed.batch_size=1,8,64 \\
        speed.layout=contiguous,channels_last speed.backend=eager,compile
    pfstudy speed --by-layer paper=r50_max data=imagenet    where the time goes

What has been measured on this device in the same setting, by a sweep for example, is shown and
not measured again. --again measures more processes and pools them with those before; --replace
forgets those before. Results are kept in runs/speed, a file for every device and setting.
"""


_TABLE_HELP = """Measure every operation at every site once, for predicting any mixture of them.

\b
For example:
    pfstudy speed table -m model=resnet50 data=imagenet block.spatial=conv,maxpool,dwconv
"""

speed = typer.Typer(cls=DefaultGroup, help=_HELP, no_args_is_help=True, rich_markup_mode=None)
app.add_typer(speed, name="speed")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="What to measure, as for training.", metavar="[-m] KEY=VALUE"),
]
RunsDir = Annotated[Path, typer.Option("--runs", help="Directory of the run directories.")]


@speed.command(context_settings=HYDRAS)
def measure(
    overrides: Overrides = None,
    by_layer: Annotated[
        bool, typer.Option("--by-layer", help="Show where the time goes, block by block.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Measure more of what has been measured before.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget what has been measured before.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure networks beside the unsubstituted backbone; this is the default."""
    configs = _compose(overrides)
    if not configs:
        return
    if by_layer:
        _show_layers(configs, as_json)
    else:
        show_speed(configs, again=again, replace=replace, as_json=as_json)


def show_speed(
    configs: Sequence[Config],
    *,
    again: bool = False,
    replace: bool = False,
    as_json: bool = False,
) -> None:
    """Measure networks and print a table for every device.

    Args:
        configs: What to measure, and how.
        again: Whether to measure what has been measured before, too, and to pool both.
        replace: Whether to measure it and to forget what was known.
        as_json: Print the measurements as JSON and nothing else.

    Raises:
        PfstudyError: Nothing could be measured.
        RunsFailedError: Some of the networks could not be measured.
    """
    from pfstudy.launch.speed import measure_networks
    from pfstudy.tables.speed import speed_data, speed_tables

    measured = measure_networks(configs, again=again, replace=replace)
    if as_json:
        print(json.dumps(speed_data(measured.networks), indent=1))
    else:
        console = make_console()
        for table in speed_tables(measured.networks):
            console.print(table)
        if measured.files:
            listed = ", ".join(map(str, measured.files))
            beside = f"; beside the records of {measured.taken} variants" if measured.taken else ""
            console.print(f"written: {listed}{beside}", soft_wrap=True, style="dim")
    if measured.problems:
        labels: dict[str, list[str]] = {}
        for label, reason in measured.problems.items():
            labels.setdefault(reason.removeprefix(f"{label}: "), []).append(label)
        sentences = "; ".join(f"{', '.join(who)}: {reason}" for reason, who in labels.items())
        if not measured.networks:
            raise PfstudyError(sentences)
        raise RunsFailedError(f"{len(measured.problems)} not measured: {sentences}")


def _show_layers(configs: Sequence[Config], as_json: bool) -> None:
    from pfstudy.launch.inside import explain_layers
    from pfstudy.tables.layers import draw_layers, layers_data, layers_table

    explained = explain_layers(configs)
    if as_json:
        print(json.dumps([layers_data(layers) for layers in explained], indent=1))
        return
    console = make_console()
    for layers in explained:
        console.print(layers_table(layers))
    for layers in explained:
        paths = draw_layers(layers, Path(configs[0].runs_dir) / "speed")
        console.print(f"written: {', '.join(map(str, paths))}", soft_wrap=True, style="dim")


@speed.command(context_settings=HYDRAS, help=_TABLE_HELP)
def table(
    overrides: Overrides = None,
    seconds: Annotated[
        float, typer.Option(help="For how long to measure, besides building the networks.")
    ] = 34.0,
    as_json: AsJson = False,
) -> None:
    """Measure every operation at every site once, for predicting any mixture of them."""
    if seconds <= 0:
        raise PfstudyError(f"--seconds must be more than 0, but got {seconds:g}.")
    configs = _compose(overrides)
    if not configs:
        return
    from pfstudy.launch.inside import make_block_table
    from pfstudy.tables.layers import block_table

    made, path = make_block_table(configs, seconds)
    if as_json:
        print(path.read_text(), end="")
    else:
        console = make_console()
        console.print(block_table(made))
        console.print(f"written: {path}", soft_wrap=True, style="dim")


@speed.command(context_settings=HYDRAS)
def predict(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Predict the speed of networks from the block table of their backbone; measures nothing."""
    configs = _compose(overrides)
    if not configs:
        return
    from pfstudy.launch.inside import predict_speed
    from pfstudy.tables.speed import prediction_data, prediction_table

    predicted = predict_speed(configs)
    if as_json:
        print(json.dumps(prediction_data(predicted), indent=1))
    else:
        make_console().print(prediction_table(predicted))


def _compose(overrides: Sequence[str] | None) -> Sequence[Config]:
    return compose_only([*(overrides or []), _NO_FOLDER])


@speed.command()
def compare(
    first: Annotated[Path, typer.Argument(help="A results file of pfstudy speed.")],
    second: Annotated[Path, typer.Argument(help="Another one, of another machine, say.")],
    as_json: AsJson = False,
) -> None:
    """Compare two results files, network by network: does the ranking hold elsewhere?"""
    from pfstudy.speed.results import compare_results, read_results
    from pfstudy.tables.speed import comparison_data, comparison_table

    compared = compare_results(read_results(first), read_results(second))
    if as_json:
        print(json.dumps(comparison_data(compared), indent=1))
    else:
        make_console().print(comparison_table(compared))


@speed.command()
def take(
    results: Annotated[list[Path], typer.Argument(help="Results files of pfstudy speed.")],
    runs: RunsDir = Path("runs"),
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget what is there of the same setting.")
    ] = False,
) -> None:
    """Take results, of another machine, say, into the runs here: tables can show them then."""
    from pfstudy.speed.archive import take_results
    from pfstudy.speed.results import read_results

    read = [(path, read_results(path)) for path in results]
    if not runs.is_dir():
        raise PfstudyError(f"there is no directory {runs}; --runs says where the runs are.")
    for path, found in read:
        taken = take_results(found.networks, runs, replace=replace)
        number = sum(map(len, taken.written.values()))
        names = [network.name for network in found.networks]
        print(
            f"{path.name}: {counted(len(taken.written), 'network')} taken, beside "
            f"{counted(number, 'variant')} in {runs}"
        )
        if taken.kept:
            print(
                f"  measured here better, --replace takes it in any case: {', '.join(taken.kept)}"
            )
        left = [name for name in names if name not in {**taken.written, **taken.kept, **taken.same}]
        if left:
            print(f"  no runs here have the networks of {', '.join(left)}")
    print("pfstudy table --speed device=NAME chooses between devices.")
