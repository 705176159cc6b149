"""What a search found, as a table for the terminal and as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.speed.setting import describe_setting
from pfstudy.variant import make_variant
from pfstudy.words import counted, duration

if TYPE_CHECKING:
    from pfstudy.launch.search import Searched

_ENDED = {
    "epochs": "all epochs",
    "patience": "what is chosen had stayed",
    "collapse": "it collapsed; what was chosen before is found",
    "evaluations": "all evaluations",
}


def found_table(searched: Searched) -> Table:
    """Table for the terminal: a line a site, with what was found there and how clearly."""
    record, space = searched.record, searched.asked.space
    probabilities = record.get("log_probabilities")
    table = Table(box=box.SIMPLE_HEAD, title=escape(searched.name), title_justify="left")
    table.add_column("site")
    table.add_column("found")
    if probabilities:
        for name in space.operations:
            table.add_column(escape(name), justify="right")
    if searched.asked.times is not None:
        table.add_column("time here", justify="right")
    for number, (site, k) in enumerate(zip(space.sites, searched.choice, strict=True)):
        cells = [site, f"[bold]{escape(space.operations[k])}[/bold]"]
        if probabilities:
            cells += [f"{math.exp(probabilities[site][name]):.2f}" for name in space.operations]
        if searched.asked.times is not None:
            cells.append(f"{100 * searched.asked.times.operations[number][k]:.1f} %")
        table.add_row(*cells)
    return table


def describe_search(searched: Searched) -> str:
    """Say how a search went, what was found, and what that is worth."""
    record, asked = searched.record, searched.asked
    parts = [
        f"{record['preset']}, {counted(record['num_epochs'], 'epoch')}, "
        f"{duration(record['seconds'])}; ended: {_ENDED[record['ended_by']]}."
    ]
    if "log_probabilities" in record:
        parts.append(
            f"Probabilities of epoch {record['found_in_epoch']}, by which operations are mixed: a "
            "preference, and no accuracy."
        )
    else:
        best = max(each["val_top1_percent"] for each in record["evaluations"])
        parts.append(
            f"{counted(len(record['evaluations']), 'path')} evaluated with shared weights on the "
            f"validation split; the best has {best:.2f} %, which is no accuracy of a trained "
            "network."
        )
    if asked.times is not None:
        error = asked.times.relative_error
        spread = "" if error is None else f" ± {error * (searched.relative_latency or 0):.3f}"
        parts.append(
            f"Predicted time: {searched.relative_latency:.3f}{spread} of the unsubstituted "
            f"backbone's, asked {asked.space.search.latency:g} "
            f"({describe_setting(asked.times.setting)})."
        )
    if any(not pattern.norm_act for pattern in asked.space.config.model.sites):
        parts.append(
            "Sites without a norm of their own had a batch norm behind every operation while they "
            "were mixed, which the network that is trained has not."
            if "log_probabilities" in record
            else ""
        )
    label = make_variant(asked.space.place(searched.choice), "none").label
    return " ".join(filter(None, [*parts, f"As a variant: {label}."]))


def found_data(searched: Searched) -> dict[str, Any]:
    """What was found, for programs."""
    space = searched.asked.space
    chosen = zip(space.sites, searched.choice, strict=True)
    left: Mapping[str, Any] = {
        key: value for key, value in searched.record.items() if key not in ("config", "environment")
    }
    return {
        **left,
        "found": {site: space.operations[k] for site, k in chosen},
        "relative_latency": searched.relative_latency,
        "path": str(searched.path),
        "command": f"pfstudy +found={searched.name}",
    }
