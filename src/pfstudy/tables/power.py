"""How many seeds would decide: rows in, a table out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.errors import PfstudyError
from pfstudy.stats.comparison import moderated_df
from pfstudy.stats.power import (
    MOST_SEEDS,
    Spread,
    least_distance,
    seeds_needed,
    upper_deviation,
)
from pfstudy.tables.columns import write_points
from pfstudy.tables.judging import in_points
from pfstudy.tables.rows import Rows
from pfstudy.tables.statistics import JudgedFamily

USUAL_MARGIN = 0.5
"""In points, unless another one was chosen."""


@dataclass(frozen=True)
class Need:
    """What it takes to decide about a variant.

    Attributes:
        name: The variant.
        difference: To the baseline in points, as the table has it.
        low: Lower end of its interval.
        high: Upper end.
        verdict: Read off the interval.
        deviation: Standard deviation of the difference between seeds in points.
        image_error: Standard error from the test images in points that no seed reduces.
        seeds_now: Seeds there are.
        num_seeds: Seeds per variant, if the deviation is what it seems; ``None`` if too many.
        num_seeds_safe: If it is larger, as it is with a probability of 20 %.
        least_distance: Points that many seeds would decide about with these test images.
        is_limited_by_images: Whether that is more than was asked for, so that no number of seeds is
            enough.
    """

    name: str
    difference: float
    low: float
    high: float
    verdict: str
    deviation: float
    image_error: float
    seeds_now: int
    num_seeds: int | None
    num_seeds_safe: int | None
    least_distance: float
    is_limited_by_images: bool


@dataclass(frozen=True)
class Power:
    """What it takes to decide about the variants of a study.

    Attributes:
        power: Probability with which it is to be decided.
        margin: Loss in points that is to be excluded where there is none; ``None`` if a difference
            is to be found.
        difference: True difference in points that is to be found.
        confidence: Of the intervals.
        needs: By variant.
    """

    power: float
    margin: float | None
    difference: float | None
    confidence: float
    needs: tuple[Need, ...]


def make_power(
    rows: Rows, power: float, margin: float | None = None, difference: float | None = None
) -> Power:
    """Find out how many seeds would decide about the variants of a study.

    The difference that was observed is not taken for the true one: of few seeds it is mostly
    noise, and so would be the number of seeds.

    Args:
        rows: The study.
        power: Probability with which it is to be decided.
        margin: Loss in points that is to be excluded where there is none.
        difference: True difference in points that is to be found instead.

    Raises:
        PfstudyError: No variant has two seeds, so nothing tells how they vary.
    """
    if difference is None and margin is None:
        margin = rows.criteria.margin or USUAL_MARGIN
    distance = abs(difference) if difference is not None else margin
    assert distance
    confidence = rows.criteria.confidence
    needs = [
        need
        for family in rows.families
        if family.has_control
        for need in _needs(rows, family, distance, confidence, power)
    ]
    compared = [family for family in rows.families if family.has_control and family.hashes]
    most = max((int(family.estimate.num_seeds_V.max()) for family in compared), default=0)
    if not needs and most > 1:
        raise PfstudyError(
            "power plans seeds, and --population images is about networks that are trained; use "
            "--population both or seeds."
        )
    if not needs:
        raise PfstudyError(
            "no variant that is compared has two seeds, so nothing tells how they vary; train "
            "some more: seeds=3."
        )
    return Power(power, None if difference is not None else margin, difference, confidence,
                 tuple(needs))  # fmt: skip


def _needs(
    rows: Rows, family: JudgedFamily, distance: float, confidence: float, power: float
) -> Iterator[Need]:
    made, number = family.estimate, family.number
    known = {row["hash"]: row for row in rows.frame.to_dict("records")}
    several = rows.frame["model"].nunique() > 1
    if made.population == "images":
        return
    for index, name in enumerate(family.hashes):
        seeds = int(made.num_seeds_V[index])
        if seeds < 2 or not made.df[index]:
            continue
        deviation = float(made.seed_errors_V[index]) * seeds**0.5
        image_error = float(made.lasting_errors_V[index])
        spread = Spread(deviation, image_error, number, confidence)
        larger = upper_deviation(deviation, float(moderated_df(seeds - 1, number)))
        least = least_distance(spread, power)
        row = known[name]
        yield Need(
            f"{row['model']}: {row['variant']}" if several else row["variant"],
            float(row["difference_points"]),
            float(row["difference_low"]),
            float(row["difference_high"]),
            row["verdict"],
            deviation,
            image_error,
            seeds,
            seeds_needed(distance, spread, power),
            seeds_needed(distance, replace(spread, seeds=larger), power),
            least,
            least > distance,
        )


def power_data(power: Power) -> dict[str, Any]:
    """The same as plain data, for programs."""
    return asdict(power)


def power_table(power: Power) -> Table:
    """Table for the terminal."""
    caption = (
        f"Seeds per variant that are needed to {_question(power)}, with a probability of "
        f"{100 * power.power:.6g} %, by intervals that hold at {100 * power.confidence:.3g} % for "
        "all variants of a baseline at once. std: standard deviation between seeds of the "
        "difference, moderated over the variants. To be safe: if the true one is at its upper 80 % "
        "bound."
    )
    least = [need.least_distance for need in power.needs if need.is_limited_by_images]
    if least:
        caption += (
            " More images: by what is seen, no number of seeds is enough, as these test images "
            f"alone decide about no less than {min(least):.2f} points."
        )
    table = Table(box=box.SIMPLE_HEAD, caption=escape(caption), caption_justify="left")
    table.add_column("variant", overflow="fold")
    table.add_column("diff. (points)", justify="right")
    table.add_column("interval", justify="right")
    table.add_column("verdict")
    for header in ("std (points)", "seeds now", "seeds needed", "to be safe"):
        table.add_column(header, justify="right")
    for need in power.needs:
        ends = f"{write_points(need.low)} to {write_points(need.high)}"
        figures = (write_points(need.difference), ends, need.verdict, f"{need.deviation:.2f}")
        seeds = (_seeds(need, need.num_seeds), _seeds(need, need.num_seeds_safe))
        table.add_row(escape(need.name), *figures, str(need.seeds_now), *seeds)
    return table


def _question(power: Power) -> str:
    if power.margin is not None:
        return (
            "show that a variant as accurate as the baseline loses no more than "
            f"{in_points(power.margin)}"
        )
    return f"find a true difference of {in_points(abs(power.difference or 0))}"


def _seeds(need: Need, value: int | None) -> str:
    if value is not None:
        return str(value)
    return "more images" if need.is_limited_by_images else f"over {MOST_SEEDS}"
