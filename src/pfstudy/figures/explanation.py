"""Draws explanations: a row an image, a column a network, the heat map over the image."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfstudy import files
from pfstudy.explanation.content import Explained, Explanations
from pfstudy.figures.style import COLUMN_WIDTH, ending_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_PPI = 300
_POINTS_PER_INCH = 72
_GUTTER = 12
"""Between the two columns of a paper, in points."""
_PANELS_IN_A_COLUMN = 4
_LARGEST_PANEL = 90
_MARGIN, _GAP, _SIDE, _ABOVE = 3, 5, 10, 3
_TITLE, _SMALL = 7.0, 6.0
"""Sizes of type."""
_LINE = 1.25
_GLYPH, _BOLD_GLYPH = 0.54, 0.62
"""Width of a character, by its size."""

_COLOURS, _NUM_SHADES = "viridis", 64  # as many as eyes tell apart; files are half as large
_OPACITY = 0.65
_DARKEST, _BRIGHTEST = 0.2, 0.8
"""Of the image below a map, so that its contrast leaves the map's colours apart."""
_WRONG, _WRONG_COLOUR = "\N{BALLOT X}", "#D55E00"  # a mark and a frame, for readers of grey prints

# text stays text, and the same picture is the same file
_SETTINGS: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    "svg.hashsalt": "pfstudy",
}
_OPTIONS: dict[str, dict[str, Any]] = {
    "pdf": {"metadata": {"CreationDate": None}},
    "svg": {"metadata": {"Date": None}},
    "png": {"pil_kwargs": {"optimize": True}},
}


def save_explanations(explanations: Explanations, path: Path) -> None:
    """Draw explanations in the format of a file's ending, whole or not at all.

    Raises:
        PfstudyError: There is no such format, or it cannot be written.
    """
    from matplotlib import rc_context

    ending = ending_of(path)
    with rc_context(_SETTINGS):
        figure = draw_explanations(explanations)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise files.cannot_write(path, error) from None
        with files.replacing(path) as draft:
            figure.savefig(draft, format=ending, dpi=_PPI, **_OPTIONS[ending])


def draw_explanations(explanations: Explanations) -> Figure:
    """Draw explanations, as wide as one column of a paper, or two where there are many networks."""
    from matplotlib.figure import Figure

    networks = explanations.networks
    num_columns = 1 + len(networks)
    is_narrow = num_columns <= _PANELS_IN_A_COLUMN
    paper = COLUMN_WIDTH if is_narrow else 2 * COLUMN_WIDTH + _GUTTER
    room = paper - 2 * _MARGIN - _SIDE - (num_columns - 1) * _GAP
    panel = min(_LARGEST_PANEL, room / num_columns)
    width = paper - room + num_columns * panel

    heads = [["image"], *(_head(network, panel) for network in networks)]
    blocks = {network.block for network in networks}
    if len(blocks) > 1:
        for lines, network in zip(heads[1:], networks, strict=True):
            lines.append(f"at {network.block}")
    titles = _titles(explanations, panel)
    num_lines = max(len(lines) for row in titles for lines in row)
    caption = textwrap.wrap(_caption(explanations), int((width - 2 * _MARGIN) / (_GLYPH * _SMALL)))

    head_height = _MARGIN + _LINE * _TITLE * max(map(len, heads)) + _GAP
    row_height = _LINE * _TITLE * num_lines + panel + _GAP
    foot_height = _LINE * _SMALL * (len(caption) + 1) + 2 * _GAP
    height = head_height + row_height * len(titles) + foot_height
    figure = Figure(figsize=(width / _POINTS_PER_INCH, height / _POINTS_PER_INCH))
    page = _Page(figure, width, height)

    lefts = [_MARGIN + _SIDE + column * (panel + _GAP) for column in range(num_columns)]
    for left, lines in zip(lefts, heads, strict=True):
        place = (left + panel / 2, head_height - _GAP)
        page.write(*place, "\n".join(lines), _TITLE, weight="bold", stands=True)
    for row, index in enumerate(explanations.indices):
        top = head_height + row * row_height + _LINE * _TITLE * num_lines
        page.write(_MARGIN, top + panel / 2, f"test image {index}", _SMALL, turned=True)
        label = explanations.labels_N[row]
        for column, (left, lines) in enumerate(zip(lefts, titles[row], strict=True)):
            shown = networks[column - 1] if column else None
            is_wrong = shown is not None and shown.predicted_N[row] != label
            weight = "bold" if is_wrong else "normal"
            place = (left + panel / 2, top - _ABOVE)
            page.write(*place, "\n".join(lines), _TITLE, weight=weight, stands=True)
            axes = page.axes(left, top, panel, panel)
            _draw_panel(axes, explanations.images_NHWC[row], shown, row, is_wrong=is_wrong)
    foot = head_height + row_height * len(titles) + _GAP
    _draw_scale(page, foot, width)
    page.write(
        _MARGIN, foot + _LINE * _SMALL + 0.5 * _GAP, "\n".join(caption), _SMALL, at_left=True
    )
    return figure


class _Page:
    """A figure measured in points from its upper left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure = figure
        self.width = width
        self.height = height

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Make axes without ticks."""
        bottom = self.height - top - height
        place = (
            left / self.width,
            bottom / self.height,
            width / self.width,
            height / self.height,
        )
        axes = self.figure.add_axes(place)
        axes.set_xticks([])
        axes.set_yticks([])
        return axes

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        *,
        weight: str = "normal",
        at_left: bool = False,
        stands: bool = False,
        turned: bool = False,
    ) -> None:
        """Write text below a height, standing on it, or turned beside it."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            size=size,
            weight=weight,
            linespacing=_LINE,
            rotation=90 if turned else 0,
            ha="left" if at_left or turned else "center",
            va="center" if turned else "baseline" if stands else "top",
            parse_math=False,  # a label may contain dollars
        )


def _draw_panel(
    axes: Axes, image_HWC: Any, network: Explained | None, row: int, *, is_wrong: bool
) -> None:
    size, height = image_HWC.shape[1], image_HWC.shape[0]
    extent = (0.0, float(size), float(height), 0.0)
    is_grey = image_HWC.shape[2] == 1
    if network is not None:
        image_HWC = _DARKEST + (_BRIGHTEST - _DARKEST) * image_HWC
    axes.imshow(
        image_HWC[:, :, 0] if is_grey else image_HWC,
        cmap="gray",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=extent,
    )
    if network is not None:
        axes.imshow(
            network.maps_NHW[row],
            cmap=_colours(),
            vmin=0,
            vmax=1,
            alpha=_OPACITY,
            interpolation="bilinear",
            extent=extent,
        )
        if not network.maps_NHW[row].any():
            axes.text(
                0.5,
                0.04,
                "flat",
                size=_SMALL,
                color="white",
                ha="center",
                transform=axes.transAxes,
            )
    for spine in axes.spines.values():
        spine.set_linewidth(1.6 if is_wrong else 0.4)
        spine.set_edgecolor(_WRONG_COLOUR if is_wrong else "black")


def _draw_scale(page: _Page, top: float, width: float) -> None:
    length = 60.0
    left = (width - length) / 2
    axes = page.axes(left, top + 1, length, _SMALL - 1)
    axes.set_facecolor("0.5")
    axes.imshow([[i / 255 for i in range(256)]], cmap=_colours(), alpha=_OPACITY, aspect="auto")
    for spine in axes.spines.values():
        spine.set_linewidth(0.4)
    page.write(left - 11, top, "least", _SMALL)
    page.write(left + length + 11, top, "most", _SMALL)


def _colours() -> Colormap:
    from matplotlib import colormaps

    return colormaps[_COLOURS].resampled(_NUM_SHADES)


def _head(network: Explained, panel: float) -> list[str]:
    return textwrap.wrap(network.chosen.name, _num_glyphs(panel)) or [""]


def _titles(explanations: Explanations, panel: float) -> list[list[list[str]]]:
    """What stands above every panel, in one line or, where one is too long, all in two."""
    names, fits = explanations.classes, _num_glyphs(panel)
    rows = []
    for row, label in enumerate(explanations.labels_N):
        cells = [(f"label {_short(names[label], fits - 6)}", "")]
        for network in explanations.networks:
            predicted = network.predicted_N[row]
            mark = "" if predicted == label else f"{_WRONG} "
            name = _short(names[predicted], fits - len(mark))
            cells.append((mark + name, f"{100 * network.probability_N[row]:.0f} %"))
        rows.append(cells)
    is_long = any(len(f"{name} ({share})") > fits for row in rows for name, share in row if share)
    if is_long:
        return [[[part for part in cell if part] for cell in row] for row in rows]
    return [[[f"{name} ({share})" if share else name] for name, share in row] for row in rows]


def _caption(explanations: Explanations) -> str:
    networks = explanations.networks
    blocks = {network.block for network in networks}
    place = f" at the output of {networks[0].block}" if len(blocks) == 1 else ""
    sentence = f"Grad-CAM of the {explanations.target} class{place}, seed {networks[0].chosen.seed}"
    wrong = any((network.predicted_N != explanations.labels_N).any() for network in networks)
    mark = f" {_WRONG}: wrong prediction." if wrong else ""
    return f"{sentence}; each map runs from its least to its greatest value.{mark}"


def _num_glyphs(width: float) -> int:
    return max(8, int(width / (_BOLD_GLYPH * _TITLE)))


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: max(1, length - 1)]}\N{HORIZONTAL ELLIPSIS}"
