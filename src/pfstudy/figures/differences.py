"""The picture of the differences to the baseline: intervals, the margin, the verdicts."""

from __future__ import annotations

import json
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from pfstudy.errors import PfstudyError
from pfstudy.figures.labels import text_width, wrap
from pfstudy.figures.style import COLUMN_WIDTH, dress_rows, small_title
from pfstudy.stats.comparison import VERDICTS
from pfstudy.tables.judging import SHORT_POPULATIONS, in_points, percent
from pfstudy.tables.rows import Rows

_TYPE = 7.0  # points, as all lengths here
_LINE = 8.5
_GAP = 5.0  # between rows
_LABELS = 118.0  # so that the plot has at least 110
_AROUND = 16.0  # the padding, and between labels and plot
_SYMBOL = 22.0
_MOST_ROWS = 60
_COLOURS = dict(zip(VERDICTS, ("#0072B2", "#009E73", "#D55E00", "#737b85"), strict=True))


def difference_intervals(rows: Rows) -> Any:
    """A line for every variant: its difference with the interval that its verdict is read off.

    Solid is no difference; dashed is minus the margin, if there is one. Names are whole: long ones
    wrap.

    Raises:
        PfstudyError: No difference has an interval, or there are too many for a picture.
    """
    frame = rows.frame[rows.frame["verdict"].notna()].copy()
    if frame.empty:
        raise PfstudyError("no difference has an interval; train more seeds: seeds=3.")
    if len(frame) > _MOST_ROWS:
        raise PfstudyError(
            f"{len(frame)} differences do not fit into one picture of at most {_MOST_ROWS} lines; "
            "choose some: --study NAME."
        )
    labels = [wrap(name, _LABELS, _TYPE) for name in _names(rows, frame)]
    heights = [_LINE * len(lines) + _GAP for lines in labels]
    ends = np.cumsum(heights)
    frame["row"] = ends - np.array(heights) / 2
    first_lines = (ends - np.array(heights) + (_LINE + _GAP) / 2).tolist()
    axis = alt.Axis(
        values=first_lines,
        # on a linear axis, as rows are of different heights
        labelExpr=f"{json.dumps(labels)}[indexof({json.dumps(first_lines)}, datum.value)]",
        labelFontSize=_TYPE,
        labelLineHeight=_LINE,
        labelLimit=0,
        labelOverlap=False,
        labelPadding=4,
        grid=False,
        ticks=False,
    )
    scale = alt.Scale(domain=[0, float(ends[-1])], nice=False, zero=False, reverse=True)
    y = alt.Y("row:Q", title=None, scale=scale, axis=axis)
    keys = ["variant", "difference_points", "difference_low", "difference_high", "verdict", "row"]
    base = alt.Chart(frame[keys]).encode(y=y, color=_colour(frame, labels))
    intervals = base.mark_rule(strokeWidth=1.4).encode(
        x=alt.X("difference_low:Q", title="difference (points)", axis=alt.Axis(tickCount=5)),
        x2="difference_high:Q",
    )
    points = base.mark_point(filled=True, size=30, opacity=1).encode(x="difference_points:Q")
    layers = [_rule(0.0, [1, 0])]
    if rows.criteria.margin:
        layers.append(_rule(-rows.criteria.margin, [3, 2]))
    chart = alt.layer(*layers, intervals, points, title=small_title(_title(rows, frame)))
    return dress_rows(chart.properties(width=COLUMN_WIDTH, height=float(ends[-1])))


def _names(rows: Rows, frame: pd.DataFrame) -> list[str]:
    several = frame["model"].nunique() > 1
    settings = [key for key in rows.settings if key != "model" and frame[key].nunique() > 1]
    return [
        " ".join(
            [
                *([row["model"]] if several else []),
                row["variant"],
                *(f"{key.rpartition('.')[2]}={row[key]}" for key in settings),
            ]
        )
        for row in frame.to_dict("records")
    ]


def _colour(frame: pd.DataFrame, labels: list[list[str]]) -> alt.Color:
    """Colours of the verdicts that there are; their legend is as wide as the plot at most."""
    plot = COLUMN_WIDTH - _AROUND - max(text_width(line, _TYPE) for each in labels for line in each)
    shown = [verdict for verdict in VERDICTS if (frame["verdict"] == verdict).any()]
    widest = max(text_width(verdict, 8) for verdict in shown) + _SYMBOL
    legend = alt.Legend(
        orient="top",
        direction="horizontal",
        columns=max(1, int(plot / widest)),
        offset=6,
        symbolOpacity=1,
    )
    scale = alt.Scale(domain=shown, range=[_COLOURS[verdict] for verdict in shown])
    return alt.Color("verdict:N", title=None, scale=scale, legend=legend)


def _title(rows: Rows, frame: pd.DataFrame) -> str:
    """What the differences are to, and what their intervals hold for."""
    criteria = rows.criteria
    several = frame["family"].nunique() > 1
    of = "variants compared with the same baseline" if several else "variants"
    by_population = frame.groupby("population", sort=False)["model"].unique()
    populations = [
        SHORT_POPULATIONS[population]  # type: ignore[index]
        + (f" ({', '.join(models)})" if len(by_population) > 1 else "")
        for population, models in by_population.items()
    ]
    said = (
        f"Difference to {criteria.baseline or 'the unsubstituted backbone'}. Intervals hold at "
        f"{percent(criteria.confidence)} for all {of} at once, for {'; '.join(populations)}."
    )
    if criteria.margin:
        said += f" Dashed: a loss of the margin, {in_points(criteria.margin)}."
    return said


def _rule(at: float, dash: list[int]) -> Any:
    return (
        alt.Chart(pd.DataFrame({"at": [at]}))
        .mark_rule(color="#444444", strokeWidth=0.8, strokeDash=dash)
        .encode(x="at:Q")
    )
