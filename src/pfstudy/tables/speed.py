"""Measurements of speed in, tables out: one for each device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.speed.blocktable import BlockTable, Prediction
from pfstudy.speed.phase import was_busy
from pfstudy.speed.results import Comparison, Network, agree
from pfstudy.speed.setting import ALL_KEYS, KEYS, VERSION, complete_setting, describe_setting
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.tables.timing import frame_of_networks, timing_sentences
from pfstudy.variant import Variant

_MEBI = 2**20
_MOST_BACKBONES = 4
_HEADERS = {"batch_size": "batch", "num_threads": "threads", "cuda_graph": "graph"}


def speed_tables(networks: Sequence[Network]) -> list[Table]:
    """Write measured networks for the terminal, a table for every device and host."""
    by_place: dict[tuple[str, str], list[Network]] = {}
    for network in networks:
        place = (network.measured["device"], network.measured["host"])
        by_place.setdefault(place, []).append(network)
    return [_table(found) for found in by_place.values()]


def speed_data(networks: Sequence[Network]) -> list[dict[str, Any]]:
    """Measured networks as plain data, for programs."""
    return [{**vars(n), "busy": was_busy(n.measured)} for n in networks]


def interval(measured: Mapping[str, Any]) -> str:
    """The 95 % interval of the time relative to the baseline."""
    return f"{measured['relative_latency_low']:.3f}-{measured['relative_latency_high']:.3f}"


def milliseconds(value: float) -> str:
    """Write a time with three digits or more."""
    return f"{value:#.3g}".rstrip(".") if value < 100 else f"{value:.0f}"


def _table(networks: Sequence[Network]) -> Table:
    settings = [complete_setting(network.measured) for network in networks]
    varying = [key for key in (*KEYS, VERSION) if len({str(s[key]) for s in settings}) > 1]
    several = len({network.model for network in networks}) > 1
    columns = {"network": [n.name if several else n.label for n in networks]}
    for key in varying:
        columns[_HEADERS.get(key, key)] = [str(setting[key]) for setting in settings]
    measured = [network.measured for network in networks]
    marks = [speed_mark(each) for each in measured]
    columns |= {
        "latency (ms)": [
            milliseconds(m["latency_ms"]) + mark for m, mark in zip(measured, marks, strict=True)
        ],
        "p10-p90": [
            f"{milliseconds(m['latency_p10_ms'])}-{milliseconds(m['latency_p90_ms'])}"
            for m in measured
        ],
        "images/s": [milliseconds(m["throughput_images_per_s"]) for m in measured],
        "rel. time": [f"{m['relative_latency']:.3f}" for m in measured],
        "95 % interval": [interval(m) for m in measured],
        "memory (MiB)": [_scaled(m.get("peak_memory_bytes"), _MEBI) for m in measured],
        "energy (J)": [_scaled(m.get("energy_j"), 1) for m in measured],
    }
    table = Table(
        box=box.SIMPLE_HEAD, caption=escape(_caption(networks, varying)), caption_justify="left"
    )
    shown = {label: cells for label, cells in columns.items() if any(cells)}
    for label in shown:
        is_text = label in ("network", "layout", "dtype", "backend", "passes", "cache", VERSION)
        table.add_column(label, justify="left" if is_text else "right", overflow="fold")
    for cells in zip(*shown.values(), strict=True):
        table.add_row(*map(escape, cells))
    return table


def _caption(networks: Sequence[Network], varying: Sequence[str]) -> str:
    measured = [network.measured for network in networks]
    setting = describe_setting(complete_setting(measured[0]), varying)
    numbers = sorted({m["num_processes"] for m in measured})
    processes = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    parts = [
        f"{setting}. Median over {processes} fresh processes; time relative to the unsubstituted "
        "backbone, paired within rounds, with its 95 % interval."
    ]
    ended = {m["stopped_by"] for m in measured} - {"interval_width"}
    if ended:
        parts.append(f"Ended by {' and '.join(sorted(ended))} before the interval was narrow.")
    parts += timing_sentences(frame_of_networks(networks), shows_intervals=True)
    return " ".join([*parts, *_side_by_side(networks), *explain_marks(measured)])


def _side_by_side(networks: Sequence[Network]) -> list[str]:
    """How long backbones take relative to those they were timed next to."""
    names = {network.baseline_hash: network.model for network in networks}
    found = []
    for network in networks:
        beside = network.measured.get("beside")
        if beside and beside["architecture"] in names:
            times = f"{beside['relative_latency']:.3f} ({interval(beside)}) times"
            other = names[beside["architecture"]]
            found.append(f"{network.model} takes {times} as long as {other}")
    texts = list(dict.fromkeys(found))
    if len(texts) > _MOST_BACKBONES:  # in several settings
        return ["Backbones were timed side by side; --json has their relative times."]
    return [f"Timed side by side, {'; '.join(texts)}."] if texts else []


def _scaled(value: float | None, unit: float) -> str:
    return "" if value is None else milliseconds(value / unit)


def comparison_table(compared: Comparison) -> Table:
    """Write two results files beside each other for the terminal."""
    settings = (compared.first.setting, compared.second.setting)
    differ = [key for key in ALL_KEYS if settings[0][key] != settings[1][key]]
    several = len({pair[0].model for pair in compared.pairs}) > 1
    table = Table(
        box=box.SIMPLE_HEAD,
        caption=escape(_comparison_caption(compared, differ)),
        caption_justify="left",
    )
    table.add_column("network", overflow="fold")
    for letter in "AB":
        table.add_column(f"{letter} (ms)", justify="right")
        table.add_column(f"{letter} rel. time", justify="right")
        table.add_column("95 % interval", justify="right")
    table.add_column("B/A", justify="right")
    table.add_column("", overflow="fold")
    for pair in compared.pairs:
        cells = [pair[0].name if several else pair[0].label]
        for network in pair:
            m = network.measured
            cells.append(milliseconds(m["latency_ms"]) + speed_mark(m))
            cells += [f"{m['relative_latency']:.3f}", interval(m)]
        cells.append(f"{_quotient(pair):.3f}")
        cells.append("agree" if agree(pair, len(compared.pairs)) else "differ")
        table.add_row(*map(escape, cells))
    return table


def comparison_data(compared: Comparison) -> dict[str, Any]:
    """Two results files beside each other as plain data, for programs."""
    return {
        "first": dict(compared.first.setting),
        "second": dict(compared.second.setting),
        "rank_correlation": compared.rank_correlation,
        "networks": [
            {
                "name": pair[0].name,
                "architecture_hash": pair[0].architecture_hash,
                "first": dict(pair[0].measured),
                "second": dict(pair[1].measured),
                "agree": agree(pair, len(compared.pairs)),
            }
            for pair in compared.pairs
        ],
        "only_first": list(compared.only_first),
        "only_second": list(compared.only_second),
    }


def prediction_table(predicted: Sequence[tuple[Variant, BlockTable]]) -> Table:
    """Write predicted times for the terminal."""
    rows = [(variant, table, _predict(variant, table)) for variant, table in predicted]
    settings = dict.fromkeys(describe_setting(complete_setting(t.setting)) for _, t, _ in rows)
    remarks = explain_marks(vars(table) for _, table, _ in rows)
    caption = (
        f"{'; '.join(settings)}. Predicted from block tables, with the interval that mixed "
        "networks measured beside them gave."
    )
    written = Table(
        box=box.SIMPLE_HEAD,
        caption=escape(" ".join([caption, *remarks])),
        caption_justify="left",
    )
    several = len({table.model for _, table, _ in rows}) > 1
    for header in ("network", "rel. time", "95 % interval", "latency (ms)"):
        written.add_column(header, justify="left" if header == "network" else "right")
    for variant, table, p in rows:
        name = f"{table.model} {variant.label}" if several else variant.label
        written.add_row(
            escape(name),
            f"{p.relative_latency:.3f}",
            "" if p.low is None else f"{p.low:.3f}-{p.high:.3f}",
            milliseconds(p.latency_ms) + speed_mark(vars(table)),
        )
    return written


def prediction_data(predicted: Sequence[tuple[Variant, BlockTable]]) -> list[dict[str, Any]]:
    """Predicted times as plain data, for programs."""
    return [
        {
            "model": table.model,
            "label": variant.label,
            "setting": dict(table.setting),
            **vars(_predict(variant, table)),
            "speed_mark": speed_mark(vars(table)),
        }
        for variant, table in predicted
    ]


def _predict(variant: Variant, table: BlockTable) -> Prediction:
    prediction = table.predict(variant)
    assert prediction is not None
    return prediction


def _quotient(pair: tuple[Network, Network]) -> float:
    """How much slower a network is in the second file, relative to the baseline's time."""
    one, other = (float(network.measured["relative_latency"]) for network in pair)
    return other / one


def _comparison_caption(compared: Comparison, differ: Sequence[str]) -> str:
    settings = (compared.first.setting, compared.second.setting)
    named = [f"{letter}: {describe_setting(s)}" for letter, s in zip("AB", settings, strict=True)]
    versions = [
        found.environment.get("versions", {}).get("torch")
        for found in (compared.first, compared.second)
    ]
    named = [f"{text}, torch {version}" for text, version in zip(named, versions, strict=True)]
    parts = [
        f"{'; '.join(named)}.",
        "B/A: of the times relative to the baseline. Intervals are for each network alone; agree: "
        "they overlap when widened to hold for all networks at once.",
    ]
    if not differ:
        parts.append("Both are of one machine and setting.")
    if compared.rank_correlation is not None:
        parts.append(f"Kendall's tau of the relative times: {compared.rank_correlation:.2f}.")
    for letter, names in zip("AB", (compared.only_first, compared.only_second), strict=True):
        if names:
            parts.append(f"Only in {letter}: {', '.join(names)}.")
    measured = (network.measured for pair in compared.pairs for network in pair)
    return " ".join([*parts, *explain_marks(measured)])
