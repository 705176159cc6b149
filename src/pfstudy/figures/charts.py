"""The charts: accuracy against cost, effects as a map, replaced blocks, learning curves."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from pfstudy.counting import MACS_SENTENCE
from pfstudy.errors import PfstudyError
from pfstudy.figures.style import (
    COLOURS,
    COLUMN_WIDTH,
    SHAPES,
    colour_scale,
    dress,
    dress_rows,
    small_title,
)
from pfstudy.schema.operations import ORIGINAL
from pfstudy.speed.setting import describe_setting
from pfstudy.stats.front import on_front
from pfstudy.tables.columns import ACCURACY, BY_KEY
from pfstudy.tables.effects import JudgedEffects, in_order
from pfstudy.tables.judging import NOT_WORSE, SHORT_POPULATIONS, margin_sentence, percent
from pfstudy.tables.rows import Rows, main_operation
from pfstudy.tables.timing import COMPARABLE, were_timed_together

COSTS = ("latency_ms", "macs", "params")

_LETTER = 4.0  # width and height of small type, in points
_LINE = 9.0
_PLOT_WIDTH, _PLOT_HEIGHT = 205, 150  # about what axes and legend leave
_MOST_TICKS = 12
_OUTSIDE = 12  # a name may leave the plot by as much
_HEIGHT = 225
_ROW = 16
_CELL_TYPE = 8
_SCALE = 80
_TITLE_WIDTH = 60  # characters


def accuracy_against(rows: Rows, cost: str) -> Any:
    """Accuracy against a cost with error bars, and the front.

    Error bars are the standard deviation between seeds, and the 95 % interval of the time
    relative to the backbone. A ring marks who is on the front in at least 95 % of bootstrap draws.

    Raises:
        PfstudyError: The cost is not known of any variant, or none was tested.
    """
    frame = rows.frame[rows.frame[cost].notna() & rows.frame[ACCURACY].notna()].copy()
    column = BY_KEY[cost]
    if rows.frame[ACCURACY].isna().all():
        raise PfstudyError("these are tuning trials, which have no test accuracy to plot.")
    if frame.empty:
        raise PfstudyError(f"no {column.label} is known here; measure it with pfstudy speed.")
    apart = cost == "latency_ms" and not were_timed_together(rows.frame)
    frame["x"] = frame[COMPARABLE if apart else cost] * (column.scale or 1)
    frame["y"] = frame[ACCURACY]
    spread = frame[f"{ACCURACY}_std"].fillna(0)
    frame["y_low"], frame["y_high"] = frame["y"] - spread, frame["y"] + spread
    for end in ("low", "high"):
        ratio = (frame[f"relative_latency_{end}"] / frame["relative_latency"]).fillna(1)
        frame[f"x_{end}"] = frame["x"] * (ratio if cost == "latency_ms" else 1)
    frame["what"] = _what(frame)
    frame["is_sure"] = frame["front"] == "yes"
    frame["front"] = on_front(frame["x"].to_numpy(float), frame["y"].to_numpy(float))
    frame["name"] = _names(frame, rows.settings)
    frame["shown_name"] = _place_labels(frame)
    names = list(dict.fromkeys(frame["what"]))
    x = alt.X(
        "x:Q",
        title=column.label,
        scale=alt.Scale(zero=False, nice=True, padding=12),
        axis=alt.Axis(tickCount=6),
    )
    y = alt.Y("y:Q", title="test top-1 (%)", scale=alt.Scale(zero=False, nice=True, padding=8))
    colour = alt.Color(
        "what:N", title=None, scale=colour_scale(names, ORIGINAL), legend=_legend(names)
    )
    shapes = alt.Scale(domain=names, range=[SHAPES[i % len(SHAPES)] for i in range(len(names))])
    shape = alt.Shape("what:N", title=None, scale=shapes, legend=_legend(names))
    shown = frame.drop(columns="operations")
    base = alt.Chart(shown)
    front = (
        alt.Chart(shown[shown["front"]].sort_values("x"))
        .mark_line(interpolate="step-after", color="#999999", strokeDash=[3, 2], strokeWidth=1)
        .encode(x=x, y=y)
    )
    bars = base.mark_rule(strokeWidth=1).encode(x=x, y="y_low:Q", y2="y_high:Q", color=colour)
    widths = base.mark_rule(strokeWidth=1).encode(x="x_low:Q", x2="x_high:Q", y=y, color=colour)
    points = base.mark_point(filled=True, size=42, opacity=1)
    points = points.encode(x=x, y=y, color=colour, shape=shape)
    rings = (
        alt.Chart(shown[(shown["is_sure"]) & (cost == rows.front_cost)])
        .mark_point(filled=False, size=110, color="#444444", strokeWidth=0.8, opacity=1)
        .encode(x=x, y=y)
    )
    layers = [front, bars, *([widths] if cost == "latency_ms" else []), rings, points]
    if frame["what"].nunique() < len(frame):
        halo = {"stroke": "white", "strokeWidth": 3}
        layers += [
            base.mark_text(fontSize=7, dy=-9, **outline).encode(x=x, y=y, text="shown_name:N")
            for outline in (halo, {"color": "#444444"})
        ]
    said = [describe_setting(rows.speed), *rows.speed_remarks] if cost == "latency_ms" else []
    said += textwrap.wrap(MACS_SENTENCE, _TITLE_WIDTH) if cost == "macs" else []
    if apart:
        said.append("Latency: time relative to the backbone, times the latency of one backbone.")
    said += _bars(frame, has_times=cost == "latency_ms")
    title = alt.TitleParams(said, fontSize=7) if any(said) else alt.Undefined
    return dress(alt.layer(*layers, title=title).properties(width=COLUMN_WIDTH, height=_HEIGHT))


def effect_map(model: JudgedEffects) -> Any:
    """What replacing the layers of every place by every operation does to the accuracy.

    Bold are effects that are better or worse; what is not worse by the margin has a mark.
    """
    frame = pd.DataFrame(
        {
            "place": effect.place,
            "operation": effect.operation,
            "points": effect.points,
            "is_sure": effect.verdict in ("better", "worse"),
            "text": f"{round(effect.points, 1) + 0.0:+.1f}"
            + (NOT_WORSE if effect.verdict == "not worse" else ""),
        }
        for effect in model.effects
    )
    # what cannot be told from none is pale
    first = model.effects[0]
    half = 0.0 if first.low is None or first.high is None else (first.high - first.low) / 2
    largest = max(0.1, float(frame["points"].abs().max()), half)
    places = in_order([effect.place for effect in model.effects])
    height = _ROW * len(places)
    x = alt.X("operation:N", title=None, axis=alt.Axis(labelAngle=0, grid=False))
    y = alt.Y("place:N", title=None, sort=places, axis=alt.Axis(grid=False))
    base = alt.Chart(frame)
    cells = base.mark_rect().encode(
        x=x,
        y=y,
        color=alt.Color(
            "points:Q",
            title="points",
            scale=alt.Scale(scheme="purpleorange", domain=[-largest, largest], reverse=True),
            # the cells have the figures, so a low map needs none
            legend=alt.Legend(gradientLength=_SCALE) if height >= _SCALE + 16 else None,
        ),
    )
    weight = alt.expr("datum.is_sure ? 'bold' : 'normal'")
    texts = base.mark_text(fontSize=_CELL_TYPE, fontWeight=weight).encode(
        x=x,
        y=y,
        text="text:N",
        color=alt.condition(
            f"abs(datum.points) > {0.6 * largest}", alt.value("white"), alt.value("black")
        ),
    )
    chart = alt.layer(cells, texts).properties(
        width=COLUMN_WIDTH,
        height=height,
        title=small_title(_describe_effects(model)),
    )
    return dress_rows(chart)


def replaced_blocks(rows: Rows) -> Any:
    """Accuracy against the number of blocks whose layer is replaced.

    Raises:
        PfstudyError: All variants replace as many.
    """
    frame = rows.frame.copy()
    if frame["num_replaced"].nunique() < 2:
        raise PfstudyError("all variants replace as many blocks; there is nothing to draw.")
    frame["what"] = _what(frame)
    is_baseline = frame["num_replaced"] == 0
    names = list(dict.fromkeys(frame.loc[~is_baseline, "what"]))
    # every operation's line begins at its backbone, which is drawn last
    families = {name: set(frame.loc[frame["what"] == name, "family"]) for name in names}
    starts = [
        frame[is_baseline & frame["family"].isin(families[name])].assign(what=name)
        for name in names
    ]
    drawn = pd.concat([frame[~is_baseline], *starts, frame[is_baseline].assign(what=ORIGINAL)])
    names.append(ORIGINAL)
    spread = drawn[f"{ACCURACY}_std"].fillna(0)
    drawn["low"], drawn["high"] = drawn[ACCURACY] - spread, drawn[ACCURACY] + spread
    drawn = drawn.drop(columns="operations")
    most = int(drawn["num_replaced"].max())
    ticks = list(range(0, most + 1, math.ceil(most / _MOST_TICKS)))
    x = alt.X("num_replaced:Q", title="replaced blocks", axis=alt.Axis(values=ticks, format="d"))
    y = alt.Y(f"{ACCURACY}:Q", title="test top-1 (%)", scale=alt.Scale(zero=False, padding=8))
    colour = alt.Color(
        "what:N", title=None, scale=colour_scale(names, ORIGINAL), legend=_legend(names)
    )
    base = alt.Chart(drawn)
    mean = base.mark_line(strokeWidth=1.2).encode(
        x=x, y=alt.Y(f"mean({ACCURACY}):Q"), color=colour, detail="family:N"
    )
    bars = base.mark_rule(strokeWidth=1).encode(x=x, y="low:Q", y2="high:Q", color=colour)
    points = base.mark_point(filled=True, size=30, opacity=1).encode(x=x, y=y, color=colour)
    said = _bars(frame)
    title = alt.TitleParams(said, fontSize=7) if said else alt.Undefined
    chart = alt.layer(mean, bars, points, title=title)
    return dress(chart.properties(width=COLUMN_WIDTH, height=_HEIGHT))


def learning_curves(rows: Rows, curves: pd.DataFrame) -> Any:
    """Validation accuracy by epoch: the mean over seeds, and their range unless there are many.

    Args:
        rows: The variants.
        curves: Columns ``hash``, ``seed``, ``epoch``, ``val_top1_percent``.
    """
    variants = rows.frame[rows.frame["hash"].isin(curves["hash"])]
    names = dict(zip(variants["hash"], _names(variants, rows.settings), strict=True))
    are_many = len(names) > len(COLOURS) + 1  # to be told apart by colour
    if are_many:
        names = dict(zip(variants["hash"], _what(variants), strict=True))
    frame = curves.assign(name=curves["hash"].map(names))
    shown = list(dict.fromkeys(names.values()))
    x = alt.X("epoch:Q", title="epoch")
    colour = alt.Color(
        "name:N", title=None, scale=colour_scale(shown, ORIGINAL), legend=_legend(shown)
    )
    value = "val_top1_percent"
    scale = alt.Scale(zero=False)
    base = alt.Chart(frame).encode(x=x, color=colour, detail="hash:N")
    band = base.mark_area(opacity=0.18).encode(
        y=alt.Y(f"min({value}):Q", scale=scale), y2=f"max({value}):Q"
    )
    line = base.mark_line(strokeWidth=0.8 if are_many else 1.2).encode(
        y=alt.Y(f"mean({value}):Q", title="validation top-1 (%)", scale=scale)
    )
    layers = [line] if are_many else [band, line]
    return dress(alt.layer(*layers).properties(width=COLUMN_WIDTH, height=_HEIGHT))


def _describe_effects(model: JudgedEffects) -> str:
    """What the effects are, and what their intervals hold for."""
    said = "Change of the test accuracy in points."
    if model.population is None:
        return said
    said += (
        f" Bold: better or worse. Intervals hold at {percent(model.confidence)} for all effects "
        f"at once, for {SHORT_POPULATIONS[model.population]}."
    )
    if model.margin:
        said += f" {margin_sentence(model.margin)}"
    return said


def _bars(frame: pd.DataFrame, *, has_times: bool = False) -> list[str]:
    """What error bars are, where there are some."""
    has_spread = bool((frame[f"{ACCURACY}_std"].fillna(0) > 0).any())
    has_times = has_times and bool(frame["relative_latency_low"].notna().any())
    bars = [
        *(["standard deviation between seeds"] if has_spread else []),
        *(["95 % interval of the time"] if has_times else []),
    ]
    return [f"Bars: {', '.join(bars)}."] if bars else []


def _names(frame: pd.DataFrame, settings: Sequence[str]) -> list[str]:
    """Labels, with what the variants differ in besides."""
    keys = [key for key in settings if frame[key].nunique(dropna=False) > 1]
    return [
        " ".join([row["label"], *(f"{key.rpartition('.')[2]}={row[key]}" for key in keys)])
        for row in frame.to_dict("records")
    ]


def _place_labels(frame: pd.DataFrame) -> list[str]:
    """Names of the points that have room for one above them; the front comes first."""
    spans = {a: (frame[f"{a}_low"].min(), frame[f"{a}_high"].max()) for a in ("x", "y")}
    scaled = {
        axis: (frame[axis] - low) / ((high - low) or 1) * size
        for (axis, (low, high)), size in zip(
            spans.items(), (_PLOT_WIDTH, _PLOT_HEIGHT), strict=True
        )
    }
    # middles and half widths of what is drawn: the points, and the names placed so far
    boxes = [(x, y, _LETTER) for x, y in zip(scaled["x"], scaled["y"], strict=True)]
    placed = dict.fromkeys(frame.index, "")
    for index in frame.sort_values("front", ascending=False, kind="stable").index:
        name = str(frame["name"][index])
        middle, height = scaled["x"][index], scaled["y"][index] + _LINE
        half = len(name) * _LETTER / 2
        is_inside = half - _OUTSIDE <= middle <= _PLOT_WIDTH + _OUTSIDE - half
        if is_inside and all(
            abs(middle - x) > half + w or abs(height - y) >= _LINE for x, y, w in boxes
        ):
            boxes.append((middle, height, half))
            placed[index] = name
    return list(placed.values())


def _what(frame: pd.DataFrame) -> list[str]:
    """What a variant is of: its operation, or ``several``; with its model if there are more."""
    found = []
    several = frame["model"].nunique() > 1
    for operations, model in zip(frame["operations"], frame["model"], strict=True):
        name = main_operation(operations.values())
        found.append(f"{model} {name}" if several else name)
    return found


def _legend(names: Sequence[str]) -> alt.Legend:
    """Above the picture, in as many columns as fit beside each other."""
    widest = max(map(len, names), default=1)
    columns = max(1, math.floor(COLUMN_WIDTH / (4.6 * widest + 22)))
    return alt.Legend(orient="top", columns=columns, direction="horizontal", symbolOpacity=1)
