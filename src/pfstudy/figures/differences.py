"""The picture of the differences to the baseline: intervals, the margin, the verdicts."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from pfstudy.errors import PfstudyError
from pfstudy.figures.style import COLUMN_WIDTH, dress
from pfstudy.stats.comparison import VERDICTS
from pfstudy.tables.rows import Rows

_ROW = 16
_AROUND = 62
_MOST_ROWS = 60
_COLOURS = dict(zip(VERDICTS, ("#0072B2", "#009E73", "#D55E00", "#737b85"), strict=True))


def difference_intervals(rows: Rows) -> Any:
    """A line for every variant: its difference with the interval that its verdict is read off.

    Solid is no difference; dashed is minus the margin, if there is one.

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
    several = frame["model"].nunique() > 1
    settings = [key for key in rows.settings if key != "model" and frame[key].nunique() > 1]
    frame["name"] = [
        " ".join(
            [
                *([row["model"]] if several else []),
                row["variant"],
                *(f"{key.rpartition('.')[2]}={row[key]}" for key in settings),
            ]
        )
        for row in frame.to_dict("records")
    ]
    shown = [verdict for verdict in VERDICTS if (frame["verdict"] == verdict).any()]
    scale = alt.Scale(domain=shown, range=[_COLOURS[verdict] for verdict in shown])
    legend = alt.Legend(orient="top", direction="horizontal", symbolOpacity=1)
    keys = ["name", "difference_points", "difference_low", "difference_high", "verdict"]
    base = alt.Chart(frame[keys]).encode(
        y=alt.Y("name:N", title=None, sort=frame["name"].tolist(), axis=alt.Axis(grid=False)),
        color=alt.Color("verdict:N", title=None, scale=scale, legend=legend),
    )
    ends = base.mark_rule(strokeWidth=1.4).encode(
        x=alt.X("difference_low:Q", title="difference to the baseline (points)"),
        x2="difference_high:Q",
    )
    points = base.mark_point(filled=True, size=36, opacity=1).encode(x="difference_points:Q")
    layers = [_rule(0.0, [1, 0])]
    if rows.criteria.margin:
        layers.append(_rule(-rows.criteria.margin, [3, 2]))
    said = f"intervals hold at {100 * rows.criteria.confidence:.3g} % for all variants at once"
    if rows.criteria.margin:
        said += f"; dashed: the margin of {rows.criteria.margin:g} points"
    chart = alt.layer(*layers, ends, points, title=alt.TitleParams(said, fontSize=7))
    return dress(chart.properties(width=COLUMN_WIDTH, height=_ROW * len(frame) + _AROUND))


def _rule(at: float, dash: list[int]) -> Any:
    return (
        alt.Chart(pd.DataFrame({"at": [at]}))
        .mark_rule(color="#444444", strokeWidth=0.8, strokeDash=dash)
        .encode(x="at:Q")
    )
