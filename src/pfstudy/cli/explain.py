"""The subcommand that shows where networks look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from pfstudy.cli.app import AsJson, app, make_console
from pfstudy.cli.results import OfStudy, say_written
from pfstudy.errors import PfstudyError, unknown_name


@app.command()
def explain(
    source: Annotated[str, typer.Argument(help="Directory of the run directories.")] = "runs",
    study: OfStudy = None,
    variants: Annotated[
        str | None,
        typer.Option(metavar="LABEL,LABEL", help="Variants, a column each; default: all."),
    ] = None,
    images: Annotated[
        str, typer.Option(metavar="INDEX,INDEX", help="Test images from 0 on, a row each.")
    ] = "0,1,2",
    stage: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where to look: stage2 (the output of its last block) or stage2.block1; default: "
            "the last block of the network.",
        ),
    ] = None,
    target: Annotated[
        str, typer.Option(help="The class that is explained: predicted or true.")
    ] = "predicted",
    seed: Annotated[
        int | None, typer.Option(help="Of the runs; default: the least that all variants have.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The picture, .png, .pdf or .svg."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw where trained networks see a class, side by side: Grad-CAM.

    For example: pfstudy explain --variants original,maxpool --images 0,7,42 -o explain.pdf
    """
    from pfstudy import store
    from pfstudy.explanation.content import Target
    from pfstudy.figures.explanation import save_explanations
    from pfstudy.figures.style import ending_of
    from pfstudy.launch.explain import MOST_IMAGES, choose_runs, explain_in_child
    from pfstudy.sources import gather

    if source.startswith("wandb:"):
        raise PfstudyError(f"explain needs weights, which {source} lacks; give a directory.")
    folder = Path(source, store.STUDIES, study) if study else Path(source)
    path = output or folder / "figures" / "explain.png"
    ending_of(path)  # before anything is computed
    if target not in get_args(Target):
        raise unknown_name("target", target, get_args(Target))
    indices = _parse_indices(images)
    if len(indices) > MOST_IMAGES:
        raise PfstudyError(
            f"a picture has room for {MOST_IMAGES} images, but --images lists {len(indices)}."
        )
    chosen = choose_runs(gather([source], study).records, variants, seed)
    explanations = explain_in_child(chosen, indices, stage, cast(Target, target))
    save_explanations(explanations, path)
    if as_json:
        print(json.dumps({**explanations.as_data(), "picture": str(path)}, indent=1))
    else:
        say_written(make_console(), [path])


def _parse_indices(text: str) -> list[int]:
    try:
        found = list(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise PfstudyError(f"--images lists numbers such as 0,7,42, but got {text!r}.") from None
    return found
