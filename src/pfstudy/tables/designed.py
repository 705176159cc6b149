"""A design in text: the curve, the sites of what was chosen, and what that rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.schema.sites import summary
from pfstudy.speed.setting import complete_setting, describe_setting
from pfstudy.stats.comparison import CONFIDENCE
from pfstudy.tables.columns import BY_KEY, write_points
from pfstudy.tables.design import NUM_DRAWS, Design, Figure, Network, slower_sites
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.words import counted

_LINES = 12
_TIME = BY_KEY["relative_latency"].label
_WORTH = {
    "accuracy": BY_KEY["val_top1_percent"].label,
    "one_shot": "one-shot val. top-1 (%)",
    "preference": "log-probability",
}
_ADD_UP = "Assumed: what operations do adds up over the sites, and so do times."


def curve_table(design: Design) -> Table:
    """Write the best networks for some of the budgets; the one that was chosen is bold."""
    what = "the best for every budget of time" if design.is_whole else "the best for some budgets"
    table = Table(
        title=escape(f"{_model_on(design)}: {what}"),
        caption=escape(describe_design(design)),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    mark = speed_mark(vars(design.table))
    headers = [f"{_TIME}{mark}", _WORTH[design.offers.worth]]
    if design.baseline is not None and design.baseline.difference is not None:
        headers.append(BY_KEY["difference_points"].label)
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("network", overflow="fold")
    chosen = design.chosen.operations if design.chosen else None
    shown = _some(design)
    listed = [network.operations for network in shown]
    for number, network in enumerate(shown, 1):
        style = "bold" if network.operations == chosen else None
        table.add_row(*_cells(network), style=style, end_section=number == len(shown))
    if design.baseline is not None and design.baseline.operations not in listed:
        table.add_row(*_cells(design.baseline))
    return table


def _model_on(design: Design) -> str:
    return f"{design.offers.config.model.name} on {design.table.setting.get('device')}"


def _cells(network: Network) -> list[str]:
    cells = [write_figure(network.latency, 3), write_figure(network.worth, 2)]
    if network.difference is not None:
        cells.append(write_points(network.difference.value))
    return [*cells, escape(network.label)]


def places_table(design: Design) -> Table:
    """Write what was chosen at every site, what it is worth and takes, and how sure that is."""
    assert design.chosen is not None
    network = design.chosen
    table = Table(
        title=escape(f"{_model_on(design)}, chosen for {design.latency:g}: {network.label}"),
        caption=escape(_places_caption(design)),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    is_preference = design.offers.worth == "preference"
    effect = "log-prob." if is_preference else "points"
    mark = speed_mark(vars(design.table))
    shown = ["site", "operation", effect, f"time{mark}", f"ratio{mark}"]
    has_draws = any(place.share_of_draws is not None for place in design.places)
    for index, header in enumerate([*shown, "draws"] if has_draws else shown):
        justify: Literal["left", "right"] = "left" if index < 2 else "right"
        table.add_column(header, justify=justify, no_wrap=index > 1, overflow="fold")
    for place in design.places:
        cells = [
            place.address,
            place.option.label,
            write_figure(place.effect, 2, sign="" if is_preference else "+"),
            f"{100 * place.share_before:.1f} -> {100 * place.share:.1f} %",
            f"{place.share / place.share_before:.2f}",
        ]
        if has_draws:
            cells.append(f"{100 * (place.share_of_draws or 0):.0f} %")
        table.add_row(*map(escape, cells))
    return table


def _places_caption(design: Design) -> str:
    parts = [
        "Time: the share of the site's block in that of the unsubstituted backbone, with the "
        "original and with what was chosen."
    ]
    if any(place.share_of_draws is not None for place in design.places):
        parts.append(
            f"Draws: in how many of {NUM_DRAWS} draws of the effects, from what is known of them, "
            "the same was chosen there within the budget; what is low is decided by noise."
        )
    if any(place.effect.half_width is not None for place in design.places):
        parts.append("Points: what that does to the accuracy, +- its 95 % interval by itself.")
    if design.chosen is not None and design.chosen.operations == design.curve[-1].operations:
        parts.append("Nothing on offer is worth more, however slow.")
    return " ".join(parts)


def describe_design(design: Design) -> str:
    """Say what predictions are of, what they assume, and how well that holds."""
    return " ".join([*list_assumptions(design), *explain_marks([vars(design.table)])])


def list_assumptions(design: Design) -> list[str]:
    """The sentences of `describe_design`."""
    offers = design.offers
    sentences = []
    if offers.worth == "accuracy":
        seeds = f"the mean of {counted(offers.num_seeds, 'seed')}" if offers.num_seeds > 1 else ""
        sentences.append(
            f"Predicted validation accuracy of networks trained like {offers.origin}"
            f"{f'; {seeds}' if seeds else ''}. No test accuracy was looked at."
        )
    elif offers.worth == "one_shot":
        sentences.append(
            f"Predicted accuracy with shared weights, by {offers.origin}: no accuracy of a "
            "trained network."
        )
    else:
        sentences.append(
            f"Sums of log-probabilities (nats) of {offers.origin}: what the search prefers, which "
            "is no accuracy; nothing tells how sure it is."
        )
    known = (network.worth.half_width for network in design.curve)
    if any(half is not None for half in (*known, design.table.relative_error)):
        sentences.append("+-: the 95 % interval.")
    sentences.append(_ADD_UP)
    if offers.predictor is not None:
        sentences += _judged(design)
    return [*sentences, describe_times(design)]


def _judged(design: Design) -> list[str]:
    """How well the additive model holds, and how far what is chosen by it is too good."""
    predictor = design.offers.predictor
    assert predictor is not None
    held, ranked = predictor.fit.held_out, predictor.rank_correlation()
    sentences = []
    if held.error is None:
        sentences.append(
            f"{counted(len(held.measured), 'combination')} of operations: too few to tell whether "
            "effects add up."
        )
    else:
        rank = "" if ranked is None else f", Kendall's tau {ranked[0]:.2f}"
        if ranked is not None and ranked[1] > 1 - CONFIDENCE:
            rank += ", not distinguishable from 0"
        sentences.append(
            f"{len(held.measured)} combinations, each predicted from all other variants: off by "
            f"{held.error:.2f} points (root mean square){rank}."
        )
    if predictor.fit.variance is None:
        sentences.append(
            "Nothing tells how sure the effects are: train more seeds, or combinations."
        )
    if design.optimism is not None and round(design.optimism, 2) > 0:
        sentences.append(
            "As the best of uncertain predictions is taken, it is too good by about "
            f"{design.optimism:.2f} points."
        )
    return sentences


def describe_times(design: Design) -> str:
    """Say on which device times are, and how well they are predicted."""
    table, error = design.table, design.table.relative_error
    setting = complete_setting(table.setting)
    sure = (
        "how well it predicts mixed networks was not measured"
        if error is None
        else f"{counted(len(table.held_out), 'mixed network')} measured beside it give ±"
        f"{100 * error:.1f} %"
    )
    whose = "" if design.is_here else ", which is another machine than this one"
    return (
        f"Times relative to the unsubstituted backbone, by the block table of "
        f"{describe_setting(setting)} (host {setting['host']}{whose}); {sure}."
    )


def list_slower(design: Design) -> list[str]:
    """Say of every operation at which sites it takes longer than the original."""
    sentences = []
    for label, ratios in slower_sites(design.offers, design.table).items():
        offered = [
            address
            for address, options in design.offers.options.items()
            if any(option.label == label for option in options)
        ]
        least, most = min(ratios.values()), max(ratios.values())
        times = f"{most:.2f}" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f} to {most:.2f}"
        where = "" if len(ratios) == len(offered) else f": {summary(list(ratios))}"
        sentences.append(
            f"{label} takes longer than the original at {len(ratios)} of "
            f"{counted(len(offered), 'site')} ({times} times{where})."
        )
    return sentences


def describe_network(design: Design, network: Network) -> str:
    """Say in one line what is predicted of a network."""
    latency = f"{write_figure(network.latency, 3)} of the backbone's time"
    worth = f"{_WORTH[design.offers.worth]} {write_figure(network.worth, 2)}"
    return f"predicted: {latency}, {worth}"


def design_data(design: Design) -> dict[str, Any]:
    """A design as plain data, for programs."""
    offers, predictor = design.offers, design.offers.predictor
    held = None
    if predictor is not None:
        ranked = predictor.rank_correlation()
        held = {
            "number": len(predictor.fit.held_out.measured),
            "error_points": predictor.fit.held_out.error,
            "kendall_tau": ranked[0] if ranked else None,
            "kendall_tau_p_value": ranked[1] if ranked else None,
        }
    chosen = None
    if design.chosen is not None:
        chosen = _network_data(design, design.chosen) | {
            "sites": [
                {
                    **asdict(place.option.setting),
                    "label": place.option.label,
                    **_figure_data("effect", place.effect),
                    "time_share": place.share,
                    "time_share_before": place.share_before,
                    "share_of_draws": place.share_of_draws,
                }
                for place in design.places
            ]
        }
    return {
        "model": offers.config.model.name,
        "data": offers.config.data.name,
        "worth": offers.worth,
        "origin": offers.origin,
        "num_seeds": offers.num_seeds,
        "latency": design.latency,
        "fastest": design.fastest,
        "chosen": chosen,
        "baseline": _network_data(design, design.baseline) if design.baseline else None,
        "curve": [_network_data(design, network) for network in design.curve],
        "held_out": held,
        "optimism_points": design.optimism,
        "assumptions": list_assumptions(design),
        "remarks": [*offers.remarks, *list_slower(design)],
        "table": {
            "setting": dict(design.table.setting),
            "relative_error": design.table.relative_error,
            "num_held_out": len(design.table.held_out),
            "speed_mark": speed_mark(vars(design.table)),
            "is_here": design.is_here,
        },
    }


def _network_data(design: Design, network: Network) -> dict[str, Any]:
    worth = "log_probability" if design.offers.worth == "preference" else "val_top1_percent"
    data = {
        "label": network.label,
        "operations": network.operations,
        **_figure_data("relative_latency", network.latency),
        **_figure_data(worth, network.worth),
    }
    if network.difference is not None:
        data |= _figure_data("difference_points", network.difference)
    return data


def _figure_data(key: str, figure: Figure) -> dict[str, float | None]:
    return {key: figure.value, f"{key}_low": figure.low, f"{key}_high": figure.high}


def _some(design: Design) -> Sequence[Network]:
    """So many networks of the curve that a person reads them, evenly spaced."""
    curve = design.curve
    if len(curve) <= _LINES:
        return curve
    numbers = {round(i * (len(curve) - 1) / (_LINES - 1)) for i in range(_LINES)}
    chosen = design.chosen.operations if design.chosen else None
    return [n for i, n in enumerate(curve) if i in numbers or n.operations == chosen]


def write_figure(figure: Figure, digits: int, sign: str = "") -> str:
    """Write a figure with half of its interval, where that is known."""
    spread = "" if figure.half_width is None else f" +- {figure.half_width:.{digits}f}"
    value = round(figure.value, digits) + 0.0  # never -0.00
    return f"{value:{sign}.{digits}f}{spread}"
