"""The subcommands that search: for operations at sites, and for the truth of that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from pfstudy.cli.app import HYDRAS, AsJson, DefaultGroup, app, make_console
from pfstudy.cli.overrides import compose_only
from pfstudy.cli.results import OfStudy, Sources, say_written
from pfstudy.errors import PfstudyError, RunsFailedError

_HELP = """Search for an operation at every site; what is found is a config to train.

\b
    pfstudy search                                      by gradients, any time
    pfstudy search search.latency=0.8 --train           within 0.8 of the backbone's time
    pfstudy search search=evolution search.latency=0.8  by a supernet and evolution
    pfstudy search -m search=darts,evolution seed=0,1   several, one after the other
    pfstudy search report                               did they tell the truth?

Sites whose operation is given, such as by block.stage1.spatial=maxpool, are not searched. What is
found is written to runs/found: pfstudy +found=NAME trains it. `pfstudy search run --help` shows the
options of a search, conf/search its settings.
"""
_DEFAULT = "search=darts"

search = typer.Typer(cls=DefaultGroup, help=_HELP, rich_markup_mode=None)
app.add_typer(search, name="search")


@search.command(context_settings=HYDRAS)
def run(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="What to search, as for training.", metavar="[-m] KEY=VALUE"),
    ] = None,
    train: Annotated[
        bool,
        typer.Option(
            "--train", help="Train what is found, the backbone, and random networks as fast."
        ),
    ] = False,
    num_random: Annotated[
        int, typer.Option("--random", help="How many random networks --train trains.")
    ] = 4,
    as_json: AsJson = False,
) -> None:
    """Search for an operation at every site; this is the default."""
    if num_random < 0:
        raise PfstudyError(f"--random must be 0 or more, but got {num_random}.")
    show_search(overrides or [], train=train, num_random=num_random, as_json=as_json)


def show_search(
    arguments: Sequence[str], *, train: bool = False, num_random: int = 4, as_json: bool = False
) -> None:
    """Search, print what was found, and draw how that came about.

    Args:
        arguments: Overrides and options of Hydra's.
        train: Whether to train what was found, the backbone, and random networks as fast.
        num_random: Number of these.
        as_json: Print what was found as JSON and nothing else.

    Raises:
        PfstudyError: A search is not valid, or failed.
        RunsFailedError: Some of several searches, or of the runs, failed.
    """
    configs = compose_only([_DEFAULT, *arguments])  # of two choices the last one counts
    if not configs:
        return
    from pfstudy.cli.training import raise_failures, run_configs
    from pfstudy.figures.search import draw_search
    from pfstudy.launch.search import comparable_configs, search_all
    from pfstudy.launch.sweep import run_sweep
    from pfstudy.tables.search import describe_search, found_data, found_table

    found, failed = search_all(configs)
    if as_json:
        print(json.dumps([found_data(searched) for searched in found], indent=1))
    for searched in found:
        paths = [searched.path, *draw_search(searched)]
        if as_json:
            continue
        console = make_console()
        console.print(found_table(searched))
        console.print(describe_search(searched), markup=False)
        say_written(console, paths)
        console.print(f"train it: pfstudy +found={searched.name}", soft_wrap=True, markup=False)
    for searched in found if train else ():
        compared = comparable_configs(searched, num_random)
        if as_json:
            raise_failures(run_sweep(compared))
        else:
            run_configs(compared)
    if failed:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise RunsFailedError(f"{len(failed)} of {len(configs)} searches failed: {reasons}")


@search.command()
def report(
    sources: Sources = ["runs"],  # noqa: B006
    study: OfStudy = None,
    searches: Annotated[
        str | None,
        typer.Option("--search", metavar="NAME,NAME", help="These searches; default: all."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Did searches tell the truth? Their rankings beside that of full training.

    Over the networks that were trained fully and that all of the searches know.
    """
    from pfstudy.cli.results import gather_runs
    from pfstudy.figures.search import draw_shares
    from pfstudy.launch.ranking import rank_searches
    from pfstudy.tables.ranking import describe_ranking, ranking_data, ranking_table

    records = gather_runs(sources, study).records
    root = Path(sources[0])
    names = None if searches is None else [name.strip() for name in searches.split(",")]
    ranking = rank_searches(records, root, names)
    path = root / "searches" / "shares.svg"
    draw_shares(ranking, path)
    if as_json:
        print(json.dumps(ranking_data(ranking), indent=1))
        return
    console = make_console()
    console.print(ranking_table(ranking))
    console.print(describe_ranking(ranking), markup=False)
    say_written(console, [path])
