"""The picture of a design: what can be had for how much time, and what was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from pfstudy.figures.style import BASELINE, COLOURS, COLUMN_WIDTH, dress
from pfstudy.speed.setting import complete_setting, describe_setting
from pfstudy.tables.design import Design, Network, predict_measured

_HEIGHT = 225
_CURVE, _CHOSEN = COLOURS[0], COLOURS[1]
_GREY = "#9a9a9a"
_Y = {
    "accuracy": "validation top-1 (%)",
    "one_shot": "validation top-1 with shared weights (%)",
    "preference": "log-probability (nats)",
}
_NAMES = {
    "curve": "predicted best",
    "measured": "trained variants",
    "baseline": "original",
    "chosen": "chosen",
}


def design_chart(design: Design) -> Any:
    """What is predicted against time: the best for every budget with its 95 % interval.

    Grey are the networks that this was learned from, as they were measured.
    """
    x = alt.X(
        "x:Q",
        title="predicted time relative to the backbone",
        scale=alt.Scale(zero=False, nice=True, padding=8),
        axis=alt.Axis(tickCount=6),
    )
    y = alt.Y(
        "y:Q", title=_Y[design.offers.worth], scale=alt.Scale(zero=False, nice=True, padding=8)
    )
    curve = _frame(design.curve, _NAMES["curve"])
    measured = _measured(design)
    chosen = _frame([design.chosen] if design.chosen else [], _NAMES["chosen"])
    baseline = _frame([design.baseline] if design.baseline else [], _NAMES["baseline"])
    if design.offers.worth == "accuracy" and not measured.empty:
        measured.loc[measured["is_baseline"], "what"] = _NAMES["baseline"]
        baseline = baseline.iloc[:0]  # as it was measured
    colour, shape = _scales([curve, measured, baseline, chosen])
    layers = []
    drawn = pd.concat([curve, curve.iloc[-1:].assign(x=_right_end(design, measured))])
    if curve["low"].notna().all():
        layers.append(
            alt.Chart(drawn)
            .mark_area(interpolate="step-after", opacity=0.15, color=_CURVE, line=False)
            .encode(x=x, y=alt.Y("low:Q", title=_Y[design.offers.worth]), y2="high:Q")
        )
    layers.append(
        alt.Chart(drawn)
        .mark_line(interpolate="step-after", strokeWidth=1.2, color=_CURVE)
        .encode(x=x, y=y)
    )
    for frame, size in ((measured, 22), (curve, 14), (baseline, 42), (chosen, 90)):
        if not frame.empty:
            points = alt.Chart(frame).mark_point(filled=True, opacity=1, size=size)
            layers.append(points.encode(x=x, y=y, color=colour, shape=shape))
    setting = describe_setting(complete_setting(design.table.setting))
    title = alt.TitleParams([f"{design.offers.config.model.name}: {setting}"], fontSize=7)
    chart = alt.layer(*layers, title=title)
    return dress(chart.properties(width=COLUMN_WIDTH, height=_HEIGHT))


def _right_end(design: Design, measured: pd.DataFrame) -> float:
    """How far the curve goes: what is best stays so, whatever more time there is."""
    ends = [design.curve[-1].latency.value, *map(float, measured["x"])]
    return max(ends if design.latency is None else [*ends, design.latency])


def _frame(networks: Sequence[Network], what: str) -> pd.DataFrame:
    rows = [
        {
            "x": network.latency.value,
            "y": network.worth.value,
            "low": network.worth.low,
            "high": network.worth.high,
            "what": what,
        }
        for network in networks
    ]
    return pd.DataFrame(rows, columns=["x", "y", "low", "high", "what"])


def _measured(design: Design) -> pd.DataFrame:
    """Networks whose worth was measured, where the table knows what they take."""
    rows = []
    for each in design.offers.measured:
        latency = predict_measured(design.table, each)
        if latency is not None:
            is_baseline = design.baseline and each.operations == design.baseline.operations
            rows.append(
                {
                    "x": latency,
                    "y": each.value,
                    "what": _NAMES["measured"],
                    "is_baseline": bool(is_baseline),
                }
            )
    return pd.DataFrame(rows, columns=["x", "y", "what", "is_baseline"])


def _scales(frames: Sequence[pd.DataFrame]) -> tuple[alt.Color, alt.Shape]:
    """A colour and a shape for everything that is shown."""
    shown = {str(what) for frame in frames for what in frame["what"]}
    looks = {
        _NAMES["measured"]: (_GREY, "circle"),
        _NAMES["baseline"]: (BASELINE, "circle"),
        _NAMES["curve"]: (_CURVE, "circle"),
        _NAMES["chosen"]: (_CHOSEN, "diamond"),
    }
    names = [name for name in looks if name in shown]
    legend = alt.Legend(orient="top", columns=2, direction="horizontal", symbolOpacity=1)
    colours = alt.Scale(domain=names, range=[looks[name][0] for name in names])
    shapes = alt.Scale(domain=names, range=[looks[name][1] for name in names])
    return (
        alt.Color("what:N", title=None, scale=colours, legend=legend),
        alt.Shape("what:N", title=None, scale=shapes, legend=legend),
    )
