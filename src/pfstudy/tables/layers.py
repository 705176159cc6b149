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
from pfstudy.counting import MACS_SENTENCE
from pfstudy.schema.sites import block_ranges, stage_and_block
from pfstudy.speed.blocktable import BlockTable, list_operations
from pfstudy.speed.layers import REST, Layers, Place, stage_of
from pfstudy.speed.setting import compiles, complete_setting, describe_setting, name_setting
from pfstudy.speed.summary import Ceilings
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.tables.speed import milliseconds

_FASTER = 0.98
_COLOURS = ("#8c8c8c", "#0072b2")  # of Okabe and Ito: told apart by everyone, and in grey


def layers_table(layers: Layers) -> Table:
    """Write where the time of a network goes for the terminal."""
    table = Table(
        title=escape(_name(layers)),
        caption=escape(_caption(layers)),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    mark = speed_mark(vars(layers))
    headers = (
        *("", "operation", f"before (ms){mark}", f"after (ms){mark}", f"ratio{mark}"),
        *("MACs (M)", "moved (MB)", "of matrix peak", "of copy peak"),
    )
    for index, header in enumerate(headers):
        table.add_column(header, justify="left" if index < 2 else "right", overflow="fold")
    for stage in layers.stages:
        blocks = [p for p in layers.places if stage_of(p.address) == stage.address]
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
        found = {key: value for key, value in vars(place).items() if key not in ("before", "after")}
        for name, segment in (("before", place.before), ("after", place.after)):
            found[name] = asdict(segment) | {
                "share_of_matrix_peak": segment.macs_share(layers.ceilings),
                "share_of_copy_peak": segment.bytes_share(layers.ceilings),
            }
        return found

    return {
        "model": layers.model,
        "label": layers.variant.label,
        "setting": dict(layers.setting),
        "others_load": layers.others_load,
        "max_load": layers.max_load,
        "speed_mark": speed_mark(vars(layers)),
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
    names = {"before": "original", "after": layers.variant.label}
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
            y=alt.Y("ms:Q", title=f"time (ms){speed_mark(vars(layers))}"),
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
        _name(layers),
        subtitle=[
            describe_setting(complete_setting(layers.setting)),
            *explain_marks([vars(layers)]),
        ],
        anchor="start",
    )
    chart = alt.vconcat(times, bounds, title=title).configure_view(stroke=None)
    paths = []
    for ending in ("svg", "png"):
        path = directory / f"{picture_name(layers)}.{ending}"
        with files.replacing(path) as draft:
            path.parent.mkdir(parents=True, exist_ok=True)
            chart.save(draft, format=ending, **({"ppi": 200} if ending == "png" else {}))
        paths.append(path)
    return paths


def picture_name(layers: Layers) -> str:
    """Name the picture of a network in a setting; its identity makes that unique."""
    network = f"{layers.variant.slug}-{layers.variant.architecture_hash}"
    return files.file_name(f"layers-{network}_{name_setting(layers.setting)}")


def block_table(table: BlockTable) -> Table:
    """Write a block table for the terminal: milliseconds of every operation at every site."""
    operations = list_operations(table.cells.values())
    mark = speed_mark(vars(table))
    written = Table(
        title=escape(f"{table.model}: milliseconds from one site's block to the next{mark}"),
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
        f"{milliseconds(table.baseline_latency_ms)} ms. {_cut(table.sites[0])}"
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
    return " ".join([*parts, *explain_marks([vars(table)])])


def _name(layers: Layers) -> str:
    return f"{layers.model}: {layers.variant.label}"


def _cut(first_site: str) -> str:
    """Say what a block's time holds besides the block."""
    return (
        "A block's time begins where the block with a site before it ends; "
        f"{first_site} is with the stem."
    )


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
        f"{place.ratio:.2f} ±{place.half_interval:.2f}",
        pair(before.macs, after.macs, 1e6),
        pair(before.num_bytes, after.num_bytes, 1e6),
        shares("macs_share"),
        shares("bytes_share"),
    ]


def _caption(layers: Layers) -> str:
    ceilings, whole = layers.ceilings, layers.whole
    is_fused = compiles(layers.variant.config.speed)
    parts = [
        f"{describe_setting(complete_setting(layers.setting))}. {MACS_SENTENCE}",
        f"{_cut(layers.places[0].address)} "
        "Ratios are of the times in the same round, ±: half the 95 % interval of each alone.",
        f"Peaks measured here: {ceilings.macs_per_s / 1e9:.0f} GMAC/s in a matrix product, "
        f"{ceilings.bytes_per_s / 1e9:.1f} GB/s in a copy;",
        "bytes are those of the operators one by one, and above 100 % a compiler that fuses them "
        "moves fewer, or caches help."
        if is_fused
        else "above 100 % caches help.",
        f"In all, MACs {_times(whole, 'macs')}, bytes {_times(whole, 'num_bytes')}, time "
        f"{whole.ratio:.2f}x.",
    ]
    blocks = [place for place in layers.places if place.address != REST]
    slow = [p for p in blocks if p.after.macs < p.before.macs and _is_not_faster(p, len(blocks))]
    if slow:
        parts.append(f"Fewer MACs, but not faster: {_name_places(slow)}.")
    return " ".join([*parts, *explain_marks([vars(layers)])])


def _is_not_faster(place: Place, number: int) -> bool:
    """Whether that holds at once for a number of blocks, by Bonferroni's correction."""
    return place.ratio - place.joint_half_interval(number) > _FASTER


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
