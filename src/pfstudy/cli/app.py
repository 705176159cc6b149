"""The application that the subcommands belong to, and what they share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from pfstudy import __version__

if TYPE_CHECKING:
    from rich.console import Console

_PIPE_WIDTH = 160

_HELP = """What happens to accuracy and speed when the spatial operation *here* becomes *that*?

Whatever has a `=` in it is an override of the configuration, and trains:

\b
    pfstudy block.spatial=maxpool                     one variant
    pfstudy -m block.spatial=maxpool,dwconv           a sweep, ends with its table
    pfstudy -m 'site=glob(stage?)' swap=maxpool       one stage at a time
    pfstudy -m block.spatial=conv,maxpool seeds=3     every variant with three seeds
    pfstudy study=one_stage                           a preset, its own sweep
    pfstudy paper=r50_hybrid data=imagenet data.path=FOLDER
    pfstudy --cfg job --resolve --package block       what stands where, trains nothing

The rest are commands. Those for long studies:

\b
    pfstudy plan -m block.spatial=conv,maxpool seeds=3    what a sweep takes, what would fail
    pfstudy status --watch                                what is done, running, failed
    pfstudy resume                                        go on with what is not done

Those for speed:

\b
    pfstudy speed -m block.spatial=conv,maxpool           measure, train nothing
    pfstudy speed --by-layer block.spatial=maxpool        where the time goes
    pfstudy speed table -m block.spatial=conv,maxpool     what stands where, for predictions

Those that look for networks:

\b
    pfstudy search search.latency=0.8 --train             over the same operations
    pfstudy search report                                 did the search tell the truth?
    pfstudy design --latency 0.8 --train 1                from measured effects and times

Those for results, of directories, W&B projects (wandb:ENTITY/PROJECT), or several:

\b
    pfstudy table --style paper --format latex            accuracy beside cost and speed
    pfstudy power                                         how many seeds would tell
    pfstudy effects                                       what each place contributes
    pfstudy figure --kind latency --format pdf            pictures for one column of a paper
    pfstudy report -o report.html                         one page: table, plots, curves, audit
    pfstudy explain --images 0,7,42                       where networks look: Grad-CAM
    pfstudy eval runs --corruptions --fgsm 1,2,4          robustness and calibration
    pfstudy recount runs                                  the cost of older runs, as counted today
"""

app = typer.Typer(
    help=_HELP,
    add_completion=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


class DefaultGroup(TyperGroup):
    """A group of subcommands that takes what is none of them for the arguments of the first."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Name the first subcommand where none is named."""
        is_named = args and (args[0] in self.commands or args[0] in ("--help", "-h"))
        if not is_named and not (self.no_args_is_help and not args):
            args = [next(iter(self.commands)), *args]
        parsed: list[str] = super().parse_args(ctx, args)
        return parsed


HYDRAS = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Settings of a subcommand whose arguments are overrides and options of Hydra's."""

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Directory = Annotated[Path, typer.Argument(help="Directory of the run directories.")]


def make_console() -> Console:
    """Make a console for stdout that does not fold a table for a pipe."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _version(wanted: bool) -> None:
    if wanted:
        print(f"pfstudy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass
