"""Pictures of a search: how it came to what it found, over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import altair as alt
import pandas as pd

from pfstudy import searches, store
from pfstudy.figures.style import COLUMN_WIDTH, colour_scale, dress, save
from pfstudy.search.ending import CHOSEN, PROBABILITY

if TYPE_CHECKING:
    from pfstudy.launch.ranking import Ranking
    from pfstudy.launch.search import Searched

_CURVES = {
    "entropy": "entropy",
    "temperature": "temperature",
    "relative_latency": "time",
    "val_top1_percent": "top-1 (%)",
}
_ROW_HEIGHT = 12
_WIDTH = COLUMN_WIDTH - 90  # labels and legend stand beside


def draw_search(searched: Searched) -> list[Path]:
    """Draw how a search went, beside its record.

    Raises:
        PfstudyError: It cannot be written.
    """
    path = searched.path.with_name(f"{searched.name}.svg")
    if "log_probabilities" in searched.record:
        rows = pd.read_csv(_directory(searched) / store.METRICS)
        chart = trajectory(rows, list(searched.asked.space.operations))
    else:
        chart = evaluations(searched)
    save(chart, path)
    return [path]


def trajectory(rows: pd.DataFrame, operations: list[str]) -> Any:
    """What is chosen at every site over the epochs, the stronger its colour the clearer.

    Below it entropy and temperature, the expected time relative to the backbone's, and the top-1
    accuracy of the mixture on the validation split.

    Args:
        rows: A row for every epoch, as a search logs them.
        operations: Of the search.
    """
    sites = [key.removeprefix(CHOSEN) for key in map(str, rows) if key.startswith(CHOSEN)]
    long = [
        {
            "epoch": int(row["epoch"]),
            "before": int(row["epoch"]) - 1,
            "site": site,
            "operation": row[CHOSEN + site],
            "probability": row[f"{PROBABILITY}{site}.{row[CHOSEN + site]}"],
        }
        for _, row in rows.iterrows()
        for site in sites
    ]
    epochs = alt.Scale(domain=[0, len(rows)], nice=False)
    chosen = (
        alt.Chart(pd.DataFrame(long))
        .mark_rect()
        .encode(
            x=alt.X("before:Q", title=None, scale=epochs, axis=None),
            x2="epoch:Q",
            y=alt.Y("site:N", sort=sites, title=None),
            color=alt.Color("operation:N", scale=colour_scale(operations), title=None),
            opacity=alt.Opacity(
                "probability:Q", scale=alt.Scale(domain=[0, 1], range=[0.1, 1]), legend=None
            ),
        )
        .properties(width=_WIDTH, height=_ROW_HEIGHT * len(sites))
    )
    kept = [key for key in _CURVES if key in rows]
    panels = [
        alt.Chart(rows)
        .mark_line(strokeWidth=1, color="black")
        .encode(
            x=alt.X(
                "epoch:Q",
                title="epoch" if key == kept[-1] else None,
                scale=epochs,
                axis=alt.Axis(labels=key == kept[-1], ticks=key == kept[-1]),
            ),
            y=alt.Y(f"{key}:Q", title=_CURVES[key], axis=alt.Axis(tickCount=3)),
        )
        .properties(width=_WIDTH, height=50)
        for key in kept
    ]
    return dress(alt.vconcat(chosen, *panels, spacing=6), is_single=False)


def evaluations(searched: Searched) -> Any:
    """Accuracy with shared weights over the evaluations, and the best one so far."""
    space, times = searched.asked.space, searched.asked.times
    found = [
        each
        for each in searches.read_evaluations(_directory(searched), space)
        if each.by == "search"
    ]
    frame = pd.DataFrame(
        {
            "evaluation": range(1, len(found) + 1),
            "accuracy": [each.val_top1_percent for each in found],
            "time": [times.predict(each.choice) if times else 1.0 for each in found],
        }
    )
    frame["best"] = frame["accuracy"].cummax()
    x = alt.X("evaluation:Q", title="evaluation")
    y = alt.Y("accuracy:Q", title="one-shot val. top-1 (%)", scale=alt.Scale(zero=False))
    points = alt.Chart(frame).mark_circle(size=12, opacity=0.7)
    if times is not None:
        points = points.encode(
            x=x, y=y, color=alt.Color("time:Q", title="time", scale=alt.Scale(scheme="viridis"))
        )
    else:
        points = points.encode(x=x, y=y)
    best = alt.Chart(frame).mark_line(color="black", strokeWidth=1, interpolate="step-after")
    layers = points + best.encode(x=x, y=alt.Y("best:Q"))
    return dress(layers.properties(width=COLUMN_WIDTH, height=150))


def draw_shares(ranking: Ranking, path: Path) -> None:
    """Draw how much of every stage each operation has, by what has found it.

    Raises:
        PfstudyError: It cannot be written.
    """
    frame = pd.DataFrame([vars(share) for share in ranking.shares])
    names = list(dict.fromkeys(frame["by"]))
    chart = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=alt.X("share:Q", title="share of the sites", scale=alt.Scale(domain=[0, 1])),
            y=alt.Y("by:N", sort=names, title=None, axis=alt.Axis(labelLimit=220)),
            color=alt.Color(
                "operation:N", scale=colour_scale(sorted(set(frame["operation"]))), title=None
            ),
            row=alt.Row("stage:N", title=None, header=alt.Header(labelFontSize=8)),
        )
        .properties(width=_WIDTH, height=_ROW_HEIGHT * len(names))
    )
    save(dress(chart, is_single=False), path)


def _directory(searched: Searched) -> Path:
    root = Path(searched.asked.space.config.runs_dir)
    return searches.search_directory(root, searched.name)
