"""The command line: Hydra's grammar for anything that trains, subcommands for the rest.

Imports neither torch nor Hydra before it needs them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pfstudy import __version__
from pfstudy.errors import PfstudyError, RunsFailedError

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

    from pfstudy.schema.config import Config

_PIPE_WIDTH = 160
_WITH_VALUE = {  # options of Hydra's that are followed by a value
    *("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"),
    *("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"),
}
_OURS = {"--help", "-h", "--version", "--install-completion", "--show-completion"}

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
"""

app = typer.Typer(
    help=_HELP,
    add_completion=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if goes_to_hydra(arguments):
            configs = compose(arguments[1:] if arguments[0] == "train" else arguments)
            if configs:
                run_configs(configs)
        else:
            app(arguments or ["--help"])
    except RunsFailedError as error:
        _fail(str(error), 1)
    except PfstudyError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on with what is not done.", 130)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def goes_to_hydra(arguments: Sequence[str]) -> bool:
    """Whether the first argument is an override, an option of Hydra's, or ``train``."""
    if not arguments:
        return False
    first = arguments[0]
    if first.partition("=")[0] in _OURS:
        return False
    return first == "train" or "=" in first or first[0] in "+~-"


def compose(arguments: Sequence[str]) -> list[Config]:
    """Let Hydra compose what the arguments say.

    Under a launcher that is not ours, Hydra runs each job by itself, and nothing is returned.

    Args:
        arguments: Overrides and options of Hydra's, ``-m`` among them.

    Returns:
        The configs of all jobs; none if Hydra was only asked to show something.

    Raises:
        PfstudyError: The configuration is not valid.
    """
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from pfstudy.schema.compose import config_of, explain, quote_value, single_config
    from pfstudy.schema.models import conf_directory, register_models

    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to stderr
    directories = [conf_directory(), *_config_directories(arguments)]
    register_models(directories, arguments)
    sys.argv = [sys.argv[0], *map(quote_value, _options_first(arguments))]
    configs: list[Config] = []
    single: list[DictConfig] = []

    def task(composed: DictConfig | list[Config]) -> None:
        """Take all configs of a sweep from our launcher, or one from Hydra."""
        if isinstance(composed, list):
            configs.extend(composed)
        elif HydraConfig.get().mode == RunMode.RUN:
            single.append(composed)  # parsed below, where Hydra does not comment on errors
        else:
            run_configs([config_of(composed)])

    run = hydra.main(version_base="1.3", config_path=str(directories[0]), config_name="config")
    try:
        run(task)()
        configs.extend(map(single_config, single))
    except PfstudyError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error) from None
    return configs


def _options_first(arguments: Sequence[str]) -> list[str]:
    """Put overrides behind options: Hydra's parser does not take them on both sides of one."""
    options: list[str] = []
    overrides: list[str] = []
    for argument in arguments:
        is_value = bool(options) and options[-1] in _WITH_VALUE and argument[:1] != "-"
        (options if argument[:1] == "-" or is_value else overrides).append(argument)
    return options + overrides


def run_configs(configs: Sequence[Config]) -> None:
    """Run a sweep and print its table.

    Raises:
        PfstudyError: The sweep is not valid.
        RunsFailedError: Some runs failed, or are being trained elsewhere.
    """
    from pfstudy.launch.sweep import run_sweep
    from pfstudy.speed.phase import setting_of

    result = run_sweep(configs)
    if len(result.failed) + len(result.elsewhere) < len(result.members):
        show_table(result.root, result.study, speed=setting_of(configs[0].speed))
    problems = []
    if result.failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in result.failed.items())
        problems.append(f"{len(result.failed)} of {len(result.members)} runs failed: {reasons}")
    if result.elsewhere:
        problems.append(
            f"{', '.join(result.elsewhere)}: trained by another pfstudy just now; the same command "
            "later prints the whole table"
        )
    if problems:
        raise RunsFailedError(". ".join(problems))


def show_evaluation(arguments: Sequence[str], *, as_json: bool = False) -> None:
    """Evaluate a network with given weights, and print its accuracy.

    Args:
        arguments: Overrides and options of Hydra's.
        as_json: Print the figures as JSON and nothing else.

    Raises:
        PfstudyError: The arguments do not describe one network with weights, or these or the
            images cannot be read.
    """
    configs = compose(arguments)
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
        _console().print(evaluation_table(figures))


def show_table(
    root: Path,
    study: str | None = None,
    *,
    baseline: str | None = None,
    speed: Mapping[str, Any] | None = None,
    output: Path | None = None,
    as_json: bool = False,
) -> None:
    """Print the table of finished runs and write it as Markdown, CSV and LaTeX.

    Args:
        root: Directory of the run directories.
        study: Whose members to take; ``None`` for all runs.
        baseline: Label of the variant to compare with.
        speed: Setting of speed to show, if there are several.
        output: Directory of the files; that of the study, or ``root``, unless given.
        as_json: Print the rows as JSON and nothing else.

    Raises:
        PfstudyError: There are no finished runs, or no such study or baseline.
    """
    from pfstudy import store
    from pfstudy.tables import render
    from pfstudy.tables.rows import make_rows

    if not root.is_dir():
        raise PfstudyError(f"there is no directory {root}; give the one that runs were made in.")
    members = None if study is None else store.read_study(root, study)
    rows = make_rows(store.read_records(root, members), baseline, speed)
    if as_json:
        print(render.json(rows))
        return
    output = output or (root / store.STUDIES / study if study else root)
    paths = render.write_files(rows, output)
    console = _console()
    console.print(render.terminal(rows, study))
    if rows.lacks_baseline:
        console.print(
            f"No baseline for {', '.join(rows.lacks_baseline)}: add the unsubstituted backbone, "
            "block.spatial=original, to the sweep.",
            soft_wrap=True,
        )
    console.print(f"written: {', '.join(map(str, paths))}", soft_wrap=True, style="dim")


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _PIPE_WIDTH
    return console


def _config_directories(arguments: Sequence[str]) -> list[Path]:
    """Directories that ``--config-dir`` names."""
    import argparse

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd", type=Path)
    known, _ = parser.parse_known_args(arguments)
    if known.config_dir is not None and not known.config_dir.is_dir():
        raise PfstudyError(f"--config-dir {known.config_dir} is no directory.")
    return [known.config_dir] if known.config_dir else []


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


@app.command()
def table(
    source: Annotated[Path, typer.Argument(help="Directory of the run directories.")] = Path(
        "runs"
    ),
    study: Annotated[str | None, typer.Option(help="Take the members of this study.")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Compare with this variant; default: the backbone.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Directory of the files.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Tabulate finished runs: accuracy beside cost and speed.

    Written as table.md, table.csv and table.tex, too.
    """
    show_table(source, study, baseline=baseline, output=output, as_json=as_json)


@app.command("eval", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
def evaluate(
    overrides: Annotated[
        list[str], typer.Argument(help="What to evaluate, as for training.", metavar="KEY=VALUE")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Evaluate given weights on the test images: top-1 and top-5.

    For example: pfstudy eval paper=r50_hybrid init_from=FILE data=imagenet data.path=FOLDER
    """
    show_evaluation(overrides, as_json=as_json)


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    print(f"pfstudy: {message}", file=sys.stderr)
    sys.exit(code)
