"""Where the time goes, and block tables: in, a table and a picture out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy import files
from pfstudy.schema.sites import block_ranges, stage_and_block
from pfstudy.speed.blocktable import BlockTable, list_operations
from pfstudy.speed.layers import REST, Layers, Place
from pfstudy.speed.phase import name_setting
from pfstudy.speed.setting import complete_setting, describe_setting
from pfstudy.speed.summary import Ceilings
from pfstudy.tables.speed import milliseconds

_FASTER = 0.98
_COLOURS = ("#8c8c8c", "#0072b2")  # of Okabe and Ito: told apart by everyone, and in grey


def layers_table(layers: Layers) -> Table:
    """Write where the time of a network goes for the terminal."""
    table = Table(
        title=escape(f"{layers.model}: {layers.label}"),
        caption=escape(_caption(layers)),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    headers = (
        *("", "operation", "before (ms)", "after (ms)", "ratio", "MACs (M)", "moved (MB)"),
        *("of matrix peak", "of copy peak"),
    )
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
    for stage in layers.stages:
        blocks = [p for p in layers.places if p.address.partition(".")[0] == stage.address]
        is_one = len(blocks) == 1
        table.add_row(*_cells(stage, layers.ceilings), style="bold", end_section=is_one)
        for number, place in enumerate([] if is_one else blocks, 1):
            cells = _cells(place, layers.ceilings)
            cells[0] = f"  {place.address.partition('.')[2]}"
            table.add_row(*cells, end_section=number == len(blocks))
    table.add_row(*_cells(layers.whole, layers.ceilings), style="bold")
    return table


def layers_data(layers: Layers) -> dict[str, Any]:
    """Where the time of a network goes as plain data, for programs."""

    def with_shares(place: Place) -> dict[str, Any]:
        found: dict[str, Any] = {"address": place.address, "operation": place.operation}
        for name, segment in (("before", place.before), ("after", place.after)):
            found[name] = asdict(segment) | {
                "share_of_matrix_peak": segment.macs_share(layers.ceilings),
                "share_of_copy_peak": segment.bytes_share(layers.ceilings),
            }
        return found

    return {
        "model": layers.model,
        "label": layers.label,
        "setting": dict(layers.setting),
        "ceilings": asdict(layers.ceilings),
        "places": [with_shares(place) for place in layers.places],
        "all": with_shares(layers.whole),
    }


def draw_layers(layers: Layers, directory: Path) -> list[Path]:
    """Draw where the time of a network goes, as SVG and PNG.

    Returns:
        The files.

    Raises:
        PfstudyError: They cannot be written.
    """
    import altair as alt
    import pandas as pd

    rows = []
    for place in layers.places:
        for name, segment in (("before", place.before), ("after", place.after)):
            rows.append(
                {
                    "place": _short(place.address),
                    "network": name,
                    "ms": segment.milliseconds,
                    "matrix": segment.macs_share(layers.ceilings),
                    "copy": segment.bytes_share(layers.ceilings),
                }
            )
    frame = pd.DataFrame(rows)
    order = [_short(place.address) for place in layers.places]
    names = {"before": "original", "after": layers.label}
    frame["network"] = frame["network"].map(names)
    domain = list(names.values())
    x = alt.X("place:N", sort=order, title=None, axis=alt.Axis(labelAngle=-60))
    colour = alt.Color(
        "network:N",
        scale=alt.Scale(domain=domain, range=list(_COLOURS)),
        legend=alt.Legend(title=None, orient="top"),
    )
    times = (
        alt.Chart(frame)
        .mark_bar()
        .encode(
            x=x,
            xOffset=alt.XOffset("network:N", sort=domain),
            y=alt.Y("ms:Q", title="time (ms)"),
            color=colour,
        )
        .properties(height=170)
    )
    shares = frame.melt(
        ["place", "network"], ["matrix", "copy"], var_name="ceiling", value_name="share"
    )
    shares["ceiling"] = shares["ceiling"].map(
        {"matrix": "matrix product", "copy": "copy bandwidth"}
    )
    bounds = (
        alt.Chart(shares)
        .mark_point(filled=True, size=45)
        .encode(
            x=x,
            xOffset=alt.XOffset("network:N", sort=domain),
            y=alt.Y("share:Q", title="share of ceiling", axis=alt.Axis(format="%")),
            color=colour,
            shape=alt.Shape(
                "ceiling:N",
                scale=alt.Scale(range=["circle", "triangle-up"]),
                legend=alt.Legend(title=None, orient="top"),
            ),
        )
        .properties(height=130)
    )
    title = alt.TitleParams(
        f"{layers.model}: {layers.label}",
        subtitle=describe_setting(complete_setting(layers.setting)),
        anchor="start",
    )
    chart = alt.vconcat(times, bounds, title=title).configure_view(stroke=None)
    name = f"layers-{layers.model}-{layers.label}_{name_setting(layers.setting)}"
    paths = []
    for ending in ("svg", "png"):
        path = directory / f"{files.file_name(name)}.{ending}"
        with files.replacing(path) as draft:
            chart.save(draft, format=ending, **({"ppi": 200} if ending == "png" else {}))
        paths.append(path)
    return paths


def block_table(table: BlockTable) -> Table:
    """Write a block table for the terminal: milliseconds of every operation at every site."""
    operations = list_operations(table.cells.values())
    written = Table(
        title=escape(f"{table.model}: milliseconds from one site's block to the next"),
        caption=escape(_table_caption(table)),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    written.add_column("site")
    for operation in operations:
        written.add_column(escape(operation), justify="right")
    scale = table.baseline_latency_ms
    for site, row in table.cells.items():
        cells = [milliseconds(scale * row[o]) if o in row else "" for o in operations]
        written.add_row(site, *cells)
    written.add_row(REST, *[milliseconds(scale * table.rest)] * len(operations))
    return written


def _table_caption(table: BlockTable) -> str:
    parts = [
        f"{describe_setting(complete_setting(table.setting))}. The unsubstituted backbone took "
        f"{milliseconds(table.baseline_latency_ms)} ms."
    ]
    error = table.relative_error
    if error is None:
        parts.append("How well it predicts mixed networks was not measured.")
    else:
        off = [abs(held.predicted / held.measured - 1) for held in table.held_out]
        parts.append(
            f"{len(off)} mixed networks, measured beside it, were off by "
            f"{100 * sum(off) / len(off):.1f} % on average; 95 % interval of a prediction: "
            f"±{100 * error:.1f} %."
        )
    if table.others_load > table.max_load:
        parts.append("*: measured while others used the machine.")
    return " ".join(parts)


def _cells(place: Place, ceilings: Ceilings) -> list[str]:
    before, after = place.before, place.after

    def pair(one: float, other: float, unit: float) -> str:
        return f"{milliseconds(one / unit)} -> {milliseconds(other / unit)}"

    def shares(name: str) -> str:
        one, other = (getattr(s, name)(ceilings) for s in (before, after))
        return f"{100 * one:.0f} -> {100 * other:.0f} %"

    return [
        place.address,
        escape(place.operation),
        milliseconds(before.milliseconds),
        milliseconds(after.milliseconds),
        f"{place.ratio:.2f}x",
        pair(before.macs, after.macs, 1e6),
        pair(before.num_bytes, after.num_bytes, 1e6),
        shares("macs_share"),
        shares("bytes_share"),
    ]


def _caption(layers: Layers) -> str:
    ceilings, whole = layers.ceilings, layers.whole
    parts = [
        f"{describe_setting(complete_setting(layers.setting))}. Peaks measured here: "
        f"{ceilings.macs_per_s / 1e9:.0f} GMAC/s in a matrix product, "
        f"{ceilings.bytes_per_s / 1e9:.1f} GB/s in a copy; above 100 % caches help. "
        f"In all, MACs {_times(whole, 'macs')}, bytes {_times(whole, 'num_bytes')}, time "
        f"{whole.ratio:.2f}x."
    ]
    blocks = [place for place in layers.places if place.address != REST]
    slow = [p for p in blocks if p.after.macs < p.before.macs and p.ratio > _FASTER]
    if slow:
        parts.append(f"Fewer MACs, but not faster: {_name_places(slow)}.")
    return " ".join(parts)


def _times(place: Place, key: str) -> str:
    before, after = getattr(place.before, key), getattr(place.after, key)
    return f"{after / before:.2f}x" if before else "none"


def _name_places(places: Sequence[Place]) -> str:
    stages: dict[int, list[int]] = {}
    for place in places:
        stage, block = stage_and_block(place.address)
        stages.setdefault(stage, []).append(block)
    return ", ".join(f"stage{stage}.block{block_ranges(b)}" for stage, b in stages.items())


def _short(address: str) -> str:
    return address.replace("stage", "").replace("block", "")
