"""How many seeds would tell a difference: rows in, a table out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.errors import PfstudyError
from pfstudy.stats.comparison import pooled_deviation
from pfstudy.stats.power import MOST_SEEDS, seeds_needed, upper_deviation
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.rows import Rows


@dataclass(frozen=True)
class Need:
    """What it takes to tell a difference from none.

    Attributes:
        name: The variant, or nothing where the difference was given.
        difference: In points.
        num_seeds: Seeds per variant, if the variance is what it seems; ``None`` if too many.
        num_seeds_safe: If it is larger, as it is with a probability of 20 %.
        seeds_now: Seeds there are.
    """

    name: str
    difference: float
    num_seeds: int | None
    num_seeds_safe: int | None
    seeds_now: int


@dataclass(frozen=True)
class Power:
    """What it takes to tell the differences of a study.

    Attributes:
        deviation: Standard deviation between seeds in points, pooled.
        df: Degrees of freedom that it is known with.
        num_variants: That are compared with the baseline at once.
        power: Probability with which a difference is to be found.
        needs: By variant.
    """

    deviation: float
    df: int
    num_variants: int
    power: float
    needs: tuple[Need, ...]


def make_power(
    rows: Rows, records: Sequence[Mapping[str, Any]], power: float, difference: float | None
) -> Power:
    """Find out how many seeds would tell the differences of a study, or a given one.

    Raises:
        PfstudyError: No variant has two seeds, so nothing tells how they vary.
    """
    samples: dict[str, list[float]] = {}
    for record in records:
        samples.setdefault(record["identity"]["hash"], []).append(record["metrics"][ACCURACY])
    deviation, df = pooled_deviation(list(samples.values()))
    if not df:
        raise PfstudyError(
            "no variant has two seeds, so nothing tells how they vary; train some more: seeds=3."
        )
    frame = rows.frame[rows.frame["difference_points"].notna()]
    others = frame[frame["test"].notna() | (frame["difference_points"] != 0)]
    number = max(1, len(others))

    def need(name: str, points: float, seeds_now: int) -> Need:
        return Need(
            name,
            points,
            seeds_needed(points, deviation, number, power),
            seeds_needed(points, upper_deviation(deviation, df), number, power),
            seeds_now,
        )

    if difference is not None:
        least = int(rows.frame["num_seeds"].min())
        needs = [need("any", difference, least)]
    else:
        needs = [
            need(str(row["variant"]), float(row["difference_points"]), int(row["num_seeds"]))
            for row in others.to_dict("records")
        ]
    return Power(deviation, df, number, power, tuple(needs))


def power_data(power: Power) -> dict[str, Any]:
    """The same as plain data, for programs."""
    return asdict(power)


def power_table(power: Power) -> Table:
    """Table for the terminal."""
    caption = (
        f"Seeds per variant with which a difference is found with a probability of "
        f"{power.power:.0%}, two-sided at 5 % for {power.num_variants} comparisons at once. "
        f"Standard deviation between seeds: {power.deviation:.2f} points ({power.df} degrees of "
        "freedom); the last column allows for its being larger, as it is in one of five cases."
    )
    table = Table(box=box.SIMPLE_HEAD, caption=escape(caption), caption_justify="left")
    table.add_column("variant", overflow="fold")
    for header in ("diff. (points)", "seeds now", "seeds needed", "to be safe"):
        table.add_column(header, justify="right")
    for need in power.needs:
        cells = (_number(need.num_seeds), _number(need.num_seeds_safe))
        table.add_row(escape(need.name), f"{need.difference:+.2f}", str(need.seeds_now), *cells)
    return table


def _number(value: int | None) -> str:
    return f"over {MOST_SEEDS}" if value is None else str(value)
