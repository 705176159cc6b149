"""Networks of a design after training: what was predicted beside what was measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.speed.setting import ALL_KEYS, complete_setting
from pfstudy.tables.columns import ACCURACY, BY_KEY, write_points
from pfstudy.tables.design import Design, Figure, Network
from pfstudy.tables.designed import write_figure
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.tables.offers import VALIDATION
from pfstudy.words import counted

Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Proved:
    """A network that was predicted and trained.

    Attributes:
        network: The prediction.
        worth: That of its validation accuracy as the mean of its seeds; ``None`` if none was made.
        num_seeds: How many seeds are done.
        val_top1_percent: Its mean validation accuracy.
        test_top1_percent: Its mean test accuracy.
        measured: The measurement of its speed on the device and in the setting of the prediction;
            empty without one.
    """

    network: Network
    worth: Figure | None
    num_seeds: int
    val_top1_percent: float | None
    test_top1_percent: float | None
    measured: Mapping[str, Any]

    @property
    def latency_holds(self) -> bool | None:
        """Whether the measured time is within the interval; ``None`` if that cannot be said."""
        return _within(self.network.latency, self.measured.get("relative_latency"))

    @property
    def accuracy_holds(self) -> bool | None:
        """Whether the validation accuracy is, likewise."""
        return None if self.worth is None else _within(self.worth, self.val_top1_percent)


def _within(figure: Figure, value: float | None) -> bool | None:
    if value is None or figure.low is None or figure.high is None:
        return None
    return bool(figure.low <= value <= figure.high)


def prove(design: Design, records: Records) -> list[Proved]:
    """Set what was measured beside what was predicted.

    Args:
        design: The best networks within the budget.
        records: Of the runs that were trained for it; some may be missing.

    Returns:
        The networks in their order, the unsubstituted backbone last.
    """
    last = [design.baseline] if design.baseline else []
    listed = {str(network.operations): network for network in (*design.best, *last)}
    return [_proved(design, network, records) for network in listed.values()]


def _proved(design: Design, network: Network, records: Records) -> Proved:
    seeds = [r for r in records if r["variant"].get("operations") == network.operations]
    predictor, worth = design.offers.predictor, None
    if design.offers.worth == "accuracy" and predictor is not None and seeds:
        predicted = predictor.predict([network.operations], len(seeds))
        halves = predicted.half_widths_V
        half = None if halves is None else float(halves[0])
        worth = Figure(float(predicted.values_V[0]), half)
    wanted = complete_setting(design.table.setting)
    speeds = [speed for record in seeds for speed in record["speed"]]
    same = [s for s in speeds if all(complete_setting(s)[k] == wanted[k] for k in ALL_KEYS)]
    return Proved(
        network,
        worth,
        len(seeds),
        _mean([record["metrics"].get(VALIDATION) for record in seeds]),
        _mean([record["metrics"][ACCURACY] for record in seeds]),
        same[-1] if same else {},
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def proof_table(design: Design, proved: Sequence[Proved]) -> Table:
    """Write predictions and measurements for the terminal."""
    table = Table(
        title=escape(f"{design.offers.config.model.name}: predicted and measured"),
        caption=escape(describe_proof(proved)),
        box=box.SIMPLE_HEAD,
        caption_justify="left",
    )
    is_accuracy = design.offers.worth == "accuracy"
    table.add_column("network", overflow="fold")
    headers = ["rel. time, predicted", "measured"]
    if is_accuracy:
        headers.append("val. top-1 (%), predicted")
    headers += ["measured" if is_accuracy else BY_KEY[VALIDATION].label, BY_KEY[ACCURACY].label]
    for header in [*headers, "seeds"]:
        table.add_column(header, justify="right")
    for each in proved:
        cells = [each.network.label, write_figure(each.network.latency, 3)]
        cells.append(_measured(each.measured, each.latency_holds))
        if is_accuracy:
            cells.append("" if each.worth is None else write_figure(each.worth, 2))
        cells.append(_checked(each.val_top1_percent, 2, each.accuracy_holds))
        cells += [_checked(each.test_top1_percent, 2, None), str(each.num_seeds)]
        table.add_row(*map(escape, cells))
    return table


def describe_proof(proved: Sequence[Proved]) -> str:
    """Say how many measurements lie in their intervals."""
    parts = []
    for what, found in (
        ("measured times", [each.latency_holds for each in proved]),
        ("validation accuracies", [each.accuracy_holds for each in proved]),
    ):
        known = [holds for holds in found if holds is not None]
        if known:
            parts.append(f"{sum(known)} of {len(known)} {what}")
    sentences = []
    if parts:
        sentences.append(
            f"In their predicted 95 % intervals: {' and '.join(parts)}; !: those that are not."
        )
    pairs = [
        (each.worth.value, each.val_top1_percent)
        for each in proved
        if each.worth is not None and each.val_top1_percent is not None
    ]
    if pairs:
        off = statistics.fmean(measured - predicted for predicted, measured in pairs)
        sentences.append(
            f"Validation accuracy: {write_points(off)} points beside the prediction, on average."
        )
    sentences.append(
        "The validation split was used for choosing, so it flatters what was chosen; the test "
        "accuracy does not."
    )
    lacking = [each for each in proved if not each.num_seeds]
    if lacking:
        sentences.append(f"{counted(len(lacking), 'network')} could not be trained.")
    return " ".join([*sentences, *explain_marks([each.measured for each in proved])])


def proof_data(proved: Sequence[Proved]) -> list[dict[str, Any]]:
    """Predictions and measurements as plain data, for programs."""
    return [
        {
            "label": each.network.label,
            "operations": each.network.operations,
            "num_seeds": each.num_seeds,
            **_predicted("relative_latency", each.network.latency),
            "relative_latency": each.measured.get("relative_latency"),
            "speed_mark": speed_mark(each.measured),
            **(_predicted(VALIDATION, each.worth) if each.worth is not None else {}),
            VALIDATION: each.val_top1_percent,
            ACCURACY: each.test_top1_percent,
            "latency_holds": each.latency_holds,
            "accuracy_holds": each.accuracy_holds,
        }
        for each in proved
    ]


def _predicted(key: str, figure: Figure) -> dict[str, float | None]:
    ends = {"predicted": figure.value, "predicted_low": figure.low, "predicted_high": figure.high}
    return {f"{name}_{key}": value for name, value in ends.items()}


def _measured(measured: Mapping[str, Any], holds: bool | None) -> str:
    return _checked(measured.get("relative_latency"), 3, holds) + speed_mark(measured)


def _checked(value: float | None, digits: int, holds: bool | None) -> str:
    if value is None:
        return ""
    return f"{value:.{digits}f}" + (" !" if holds is False else "")
