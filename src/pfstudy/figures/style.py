"""How pictures look, and how they become files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt

from pfstudy import files
from pfstudy.errors import PfstudyError
from pfstudy.figures.labels import wrap

FORMATS = ("svg", "pdf", "png")
COLUMN_WIDTH = 252
"""One column of a two-column paper, in points: 3.5 inches."""

# of Okabe and Ito 2008, told apart by everyone; black is the baseline's
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
BASELINE = "#000000"
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")

_PNG_PPI = 300
_SMALL = 7
_PADDING = 5


def dress(chart: Any, *, is_single: bool = True) -> Any:
    """Give a chart the type sizes of a column and no frame.

    Its width is that of the picture; of several charts together, that of each without its labels.
    """
    if is_single:
        chart = chart.properties(autosize=alt.AutoSizeParams(type="fit", contains="padding"))
    return (
        chart.configure_view(stroke=None)
        .configure_axis(
            labelFontSize=8, titleFontSize=9, titleFontWeight="normal", gridColor="#e4e4e4"
        )
        .configure_legend(
            labelFontSize=8,
            titleFontSize=8,
            titleFontWeight="normal",
            symbolSize=40,
            labelLimit=200,
        )
        .configure_title(fontSize=9, fontWeight="normal", anchor="start", subtitleFontSize=7)
    )


def dress_rows(chart: Any) -> Any:
    """Dress a chart whose height is that of its rows; title, legend and axis are added to it."""
    autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
    return dress(chart).properties(autosize=autosize, padding=_PADDING)


def small_title(*sentences: str) -> Any:
    """A title in small type, each of its parts on lines of its own, wrapped to the column."""
    width = COLUMN_WIDTH - 2 * _PADDING
    lines = [line for sentence in sentences for line in wrap(sentence, width, _SMALL)]
    return alt.TitleParams(lines, fontSize=_SMALL, frame="bounds")


def colour_scale(names: list[str], baseline: str | None = None) -> alt.Scale:
    """One colour a name; black for the baseline. Colours come again where there are many."""
    others = [name for name in names if name != baseline]
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(others)}
    return alt.Scale(domain=names, range=[colours.get(name, BASELINE) for name in names])


def ending_of(path: Path) -> str:
    """The format that a file's ending names.

    Raises:
        PfstudyError: It names none.
    """
    ending = path.suffix.lstrip(".").lower()
    if ending not in FORMATS:
        raise PfstudyError(f"{path} has no ending of a picture; use .{', .'.join(FORMATS)}.")
    return ending


def save(chart: Any, path: Path) -> None:
    """Write a chart in the format of a file's ending, whole or not at all.

    Raises:
        PfstudyError: There is no such format, or it cannot be written.
    """
    ending = ending_of(path)
    options = {"ppi": _PNG_PPI} if ending == "png" else {}
    files.make_directory(path.parent)
    with files.replacing(path) as draft:
        chart.save(draft, format=ending, **options)
