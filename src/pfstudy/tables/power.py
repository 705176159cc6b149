"""How many seeds would tell a difference: rows in, a table out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.errors import PfstudyError
from pfstudy.stats.power import MOST_SEEDS, seeds_needed, upper_deviation
from pfstudy.tables.columns import write_points
from pfstudy.tables.rows import Rows
from pfstudy.tables.statistics import pooled


@dataclass(frozen=True)
class Need:
    """What it takes to tell a difference from none.

    Attributes:
        name: The variant, or nothing where the difference was given.
        difference: In points.
        deviation: Standard deviation between seeds in points, pooled over the variants that are
            compared with the same baseline.
        num_seeds: Seeds per variant, if the variance is what it seems; ``None`` if too many.
        num_seeds_safe: If it is larger, as it is with a probability of 20 %.
        seeds_now: Seeds there are.
    """

    name: str
    difference: float
    deviation: float
    num_seeds: int | None
    num_seeds_safe: int | None
    seeds_now: int


@dataclass(frozen=True)
class Power:
    """What it takes to tell the differences of a study.

    Attributes:
        power: Probability with which a difference is to be found.
        needs: By variant.
    """

    power: float
    needs: tuple[Need, ...]


def make_power(rows: Rows, power: float, difference: float | None) -> Power:
    """Find out how many seeds would tell the differences of a study, or a given one.

    Raises:
        PfstudyError: No variant has two seeds, so nothing tells how they vary.
    """
    needs: list[Need] = []
    for _, family in rows.frame.groupby("family", sort=False):
        deviation, df = pooled(family)
        others = family[family["difference_points"].notna() & ~family["is_control"]]
        if not df or others.empty:
            continue
        columns = (others[key].tolist() for key in ("variant", "difference_points", "num_seeds"))
        asked = list(zip(*columns, strict=True))
        if difference is not None:
            asked = [(f"any of {family['model'].iloc[0]}", difference, others["num_seeds"].min())]
        for name, points, seeds_now in asked:
            needed, safe = (
                seeds_needed(points, each, len(others), power)
                for each in (deviation, upper_deviation(deviation, df))
            )
            needs.append(Need(name, points, deviation, needed, safe, int(seeds_now)))
    if not needs:
        raise PfstudyError(
            "no variant that is compared has two seeds, so nothing tells how they vary; train "
            "some more: seeds=3."
        )
    return Power(power, tuple(needs))


def power_data(power: Power) -> dict[str, Any]:
    """The same as plain data, for programs."""
    return asdict(power)


def power_table(power: Power) -> Table:
    """Table for the terminal."""
    caption = (
        "Seeds per variant with which a difference to the baseline is found with a probability of "
        f"{100 * power.power:g} %, two-sided at 5 % for all variants of a baseline at once, given "
        "the standard deviation between seeds. To be safe: if it is larger than it seems, as it is "
        "in one of five cases."
    )
    table = Table(box=box.SIMPLE_HEAD, caption=escape(caption), caption_justify="left")
    table.add_column("variant", overflow="fold")
    for header in ("diff. (points)", "std (points)", "seeds now", "seeds needed", "to be safe"):
        table.add_column(header, justify="right")
    for need in power.needs:
        cells = (_number(need.num_seeds), _number(need.num_seeds_safe))
        spread = f"{need.deviation:.2f}"
        points = write_points(need.difference)
        table.add_row(escape(need.name), points, spread, str(need.seeds_now), *cells)
    return table


def _number(value: int | None) -> str:
    return f"over {MOST_SEEDS}" if value is None else str(value)
