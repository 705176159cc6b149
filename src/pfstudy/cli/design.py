"""The subcommand that chooses an operation for every site under a budget of time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfstudy.cli.app import AsJson, app, make_console
from pfstudy.cli.results import OfStudy, say_written
from pfstudy.cli.training import raise_failures, show_study
from pfstudy.errors import PfstudyError

if TYPE_CHECKING:
    from pfstudy.launch.sweep import SweepResult
    from pfstudy.schema.config import Config
    from pfstudy.tables.design import Design
    from pfstudy.tables.proof import Proved

_HELP = """Choose an operation for every site, the most accurate within a budget of time.

By what each operation does to the validation accuracy at each site, measured by training, and by
the block table of measured times; solved exactly.

\b
    pfstudy -m 'site=glob(stage?.block*)' swap=maxpool,avgpool study.name=blocks \\
        'study.design=[one_at_a_time,random]' study.num_samples=10
    pfstudy speed table -m block.spatial=maxpool,avgpool
    pfstudy design --study blocks --latency 0.8 --train 2
"""


@dataclass(frozen=True)
class _Asked:
    """What was asked for.

    Attributes:
        root: Directory of the run directories, where files about it belong.
        name: Of what is found; ``None`` for one that says what it is.
        num_best: How many of the best to train; ``None`` for none.
        num_seeds: With how many seeds; ``None`` for as many as the runs mostly have.
        as_json: Whether to print an object as JSON and nothing else.
    """

    root: Path
    name: str | None
    num_best: int | None
    num_seeds: int | None
    as_json: bool


@app.command(help=_HELP)
def design(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOURCES]... [KEY=VALUE]...",
            help="Directories of runs (default: runs); settings of launcher, logger, speed and "
            "trainer that are not those of the runs, such as speed.batch_size=8.",
            show_default=False,
        ),
    ] = None,
    latency: Annotated[
        float | None,
        typer.Option(
            help="The budget: time relative to the unsubstituted backbone, such as 0.8; without "
            "it, the whole curve is shown."
        ),
    ] = None,
    study: OfStudy = None,
    search: Annotated[
        str | None, typer.Option(help="Choose by what this search found instead of by runs.")
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="Take this block table, of another device, say.", metavar="FILE"),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(help="Train so many of the best and the backbone, and compare.", min=1),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(help="With how many seeds; default: as many as the runs mostly have.", min=1),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of what is found, as in pfstudy +found=NAME.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Choose an operation for every site, the most accurate within a budget of time."""
    from pfstudy.found import found_path

    sources = [a for a in arguments or () if "=" not in a or Path(a).is_dir()] or ["runs"]
    overrides = [a for a in arguments or () if a not in sources]
    root = Path(sources[0])
    if name is not None:
        found_path(root, name)
    if latency is None and train is not None:
        raise PfstudyError("--train needs a budget; give --latency 0.8, say.")
    if train is None and seeds is not None:
        raise PfstudyError("--seeds says with how many seeds to train; give --train 1, say.")
    if search is not None and (study is not None or len(sources) > 1):
        raise PfstudyError("--search takes one directory of runs, and no --study.")
    asked = _Asked(root, name, train, seeds, as_json)
    show_design(asked, make_design(asked, sources, study, search, table, latency, overrides))


def make_design(
    asked: _Asked,
    sources: Sequence[str],
    study: str | None,
    search: str | None,
    table: Path | None,
    latency: float | None,
    overrides: Sequence[str],
) -> Design:
    """Gather what is known, and choose.

    Raises:
        PfstudyError: Too little is known, or nothing is so fast.
    """
    from pfstudy.launch.design import find_table, is_here, with_settings
    from pfstudy.tables import choosing
    from pfstudy.tables.offers import offers_of_runs

    if search is not None:
        from pfstudy.tables.searched import offers_of_search

        offers = offers_of_search(asked.root, search)
    else:
        offers = offers_of_runs(sources, study)
    config = with_settings(offers.config, ["speed.enabled=true", *overrides])
    offers = replace(offers, config=config)
    needed = {
        address: {option.key: option.setting for option in options}
        for address, options in offers.options.items()
    }
    found = find_table(asked.root, offers.baseline, needed, table)
    here = is_here(found, config)
    if asked.num_best is not None and not here:
        raise PfstudyError(
            f"--train compares with what is measured here, but the block table is of "
            f"{found.setting.get('device')} (host {found.setting.get('host')}); leave --train out, "
            "and train there with pfstudy +found=NAME."
        )
    return choosing.make_design(offers, found, latency, asked.num_best or 1, is_here=here)


def show_design(asked: _Asked, made: Design) -> None:
    """Print a design, write what was found, and train it if that is asked for.

    Raises:
        PfstudyError: Files cannot be written, or another architecture has the name.
        RunsFailedError: Some runs failed.
    """
    from pfstudy.figures.designs import design_chart
    from pfstudy.figures.style import save
    from pfstudy.found import found_path
    from pfstudy.tables import designed

    console = make_console()
    name = asked.name or _name(made)
    if asked.name and made.chosen is None:  # the picture of what has that name stays
        name += "-curve"
    picture = found_path(asked.root, name).with_suffix(".svg")
    paths, command = [picture], None
    if made.chosen is not None:
        paths.insert(0, _write_found(asked.root, name, made))
        command = f"pfstudy +found={name}"
        command += f" runs_dir={asked.root}" if asked.root != Path("runs") else ""
    save(design_chart(made), picture)
    data = designed.design_data(made)
    data["found"] = {"name": name, "command": command, "files": [str(path) for path in paths]}
    if not asked.as_json:
        for remark in made.offers.remarks:
            console.print(remark, soft_wrap=True, markup=False)
        console.print(designed.curve_table(made))
        if made.chosen is not None:
            console.print(designed.places_table(made))
        for sentence in designed.list_slower(made):
            console.print(sentence, soft_wrap=True, markup=False)
        say_written(console, paths)
        if command is not None:
            console.print(f"train it: {command}", soft_wrap=True, markup=False)
    result = None
    if asked.num_best is not None:
        result, proved = _train(asked, made, name)
        data["trained"] = _show_proof(made, proved, asked.as_json)
    if asked.as_json:
        print(json.dumps(data, indent=1))
    if result is not None:
        if not asked.as_json and len(result.failed) < len(result.members):
            show_study(_config_of(asked, made), result.study)
        raise_failures(result)


def _name(made: Design) -> str:
    """A name that says what it is: of the backbone, for this budget, with these operations."""
    from pfstudy.canonical import digest
    from pfstudy.found import overrides_of

    model = made.offers.config.model.name
    if made.chosen is None:
        return f"design-{model}-curve"
    overrides = overrides_of(model, [option.setting for option in made.chosen.options.values()])
    return f"design-{model}-{made.latency:g}-{digest({'overrides': overrides})[:8]}"


def _write_found(root: Path, name: str, made: Design) -> Path:
    from pfstudy.found import write_found
    from pfstudy.tables.designed import describe_network, describe_times

    assert made.chosen is not None
    config = made.offers.config
    heading = [
        f"Chosen by pfstudy design for {made.latency:g} of the time of {config.model.name},",
        f"by {made.offers.origin};",
        f"{describe_network(made, made.chosen)}.",
        describe_times(made),
    ]
    settings = [option.setting for option in made.chosen.options.values()]
    return write_found(root, name, config.model.name, settings, heading, config.imports)


def _train(asked: _Asked, made: Design, name: str) -> tuple[SweepResult, list[Proved]]:
    from pfstudy.launch.design import read_trained, train_networks
    from pfstudy.tables.proof import prove

    networks = [[o.setting for o in network.options.values()] for network in made.best]
    number = asked.num_seeds or made.offers.num_seeds
    study = name if name.startswith("design-") else f"design-{name}"  # no study of the user's
    result = train_networks(made.offers.config, networks, asked.root, study, number)
    return result, prove(made, read_trained(result))


def _show_proof(made: Design, proved: Sequence[Proved], as_json: bool) -> list[dict[str, Any]]:
    from pfstudy.tables.proof import proof_data, proof_table

    if not as_json:
        make_console().print(proof_table(made, proved))
    return proof_data(proved)


def _config_of(asked: _Asked, made: Design) -> Config:
    return replace(made.offers.config, runs_dir=str(asked.root))
