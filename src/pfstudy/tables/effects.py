"""Rows in, additive models of what each place contributes out, and their tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.additive import LEVELS, Level
from pfstudy.stats.comparison import CONFIDENCE, Population
from pfstudy.stats.effects import Additive, Effect, fit_additive
from pfstudy.tables.columns import write_points
from pfstudy.tables.judging import DIFFERENT, margin_sentence, mark_of, percent
from pfstudy.tables.rows import Rows
from pfstudy.tables.statistics import POPULATIONS, effects_family

_EACH = {"block": "every block", "stage": "every stage", "operation": "every operation"}


@dataclass(frozen=True)
class JudgedEffects(Additive):
    """A fitted model, and what its intervals and verdicts hold for.

    Attributes:
        confidence: That the intervals of all effects hold at once.
        population: What they are about; ``None`` if there are no intervals.
        margin: A loss in points that does not matter; 0 for none.
    """

    confidence: float = CONFIDENCE
    population: Population | None = None
    margin: float = 0.0


def fit_effects(rows: Rows, level: Level) -> JudgedEffects | None:
    """Fit an additive model to the largest family of variants.

    Returns:
        ``None`` if its variants cannot tell the effects apart.
    """
    if not rows.families:
        return None
    largest = max(rows.families, key=lambda family: family.number)
    family = effects_family(rows.frame, largest)
    if len({len(operations) for operations in family.operations}) != 1 or not largest.hashes:
        return None
    criteria = rows.criteria
    model = fit_additive(family, ORIGINAL, level, criteria.confidence, criteria.margin)
    if model is None:
        return None
    found = vars(model)
    if len(rows.families) > 1:
        name = rows.frame.loc[rows.frame["hash"] == largest.control, "model"].iloc[0]
        found = {**found, "of": str(name)}
    has_intervals = any(effect.verdict is not None for effect in model.effects)
    population = family.estimate.population if has_intervals else None
    return JudgedEffects(
        **found,
        confidence=criteria.confidence,
        population=population,
        margin=criteria.margin,
    )


def fit_levels(rows: Rows) -> list[JudgedEffects]:
    """Fit the models of all levels that the variants can tell apart; there may be none."""
    return [model for level in LEVELS if (model := fit_effects(rows, level)) is not None]


def fit_all(rows: Rows) -> list[JudgedEffects]:
    """Fit the models of all levels that the variants can tell apart.

    Raises:
        PfstudyError: There is none.
    """
    found = fit_levels(rows)
    if not found:
        raise PfstudyError(
            "these variants cannot tell effects apart: there must be more of them than effects; "
            "train one place at a time, study=one_block or study=one_stage."
        )
    return found


def describe_model(model: Additive) -> str:
    """Say what an additive model tells apart, and how well it holds."""
    of = f" of {model.of}" if model.of else ""
    name = f"Additive model{of} with an effect of {_EACH[model.level]}"
    if model.is_saturated:
        return f"{name}, as many as there are variants: nothing tells how well it holds."
    parts = [f"{name}: explains {100 * model.r2:.0f} % of the variance between variants."]
    if model.r2_held_out is None:
        parts.append("There are too few combinations of effects to judge it by.")
    else:
        judged = (
            f"{100 * model.r2_held_out:.0f} % of their variance"
            if model.r2_held_out > 0
            else "worse than by their mean"
        )
        parts.append(
            f"{model.num_combinations} combinations, each predicted from all other variants: "
            f"{judged}, off by {model.error_held_out:.2f} points (root mean square)."
        )
    return " ".join(parts)


def describe_intervals(model: JudgedEffects) -> str:
    """Say what the intervals of a model hold for, and what its marks mean."""
    if model.population is None:
        return "Nothing tells how sure these effects are."
    said = (
        f"Intervals hold at {percent(model.confidence)} for all effects of the table at once, for "
        f"{POPULATIONS[model.population]}. {DIFFERENT}: better or worse."
    )
    if model.margin:
        said += f" {margin_sentence(model.margin)}"
    return said


def in_order(places: Sequence[str]) -> list[str]:
    """Places in the order of the network: ``stage2.block10`` after ``stage2.block9``."""
    return sorted(set(places), key=lambda place: list(map(int, re.findall(r"\d+", place))))


def effects_table(model: JudgedEffects) -> Table:
    """Table for the terminal: a line for each place, a column for each operation."""
    caption = f"{describe_model(model)} {describe_intervals(model)}"
    table = Table(box=box.SIMPLE_HEAD, caption=escape(caption), caption_justify="left")
    operations = list(dict.fromkeys(effect.operation for effect in model.effects))
    table.add_column("place", overflow="fold")
    for operation in operations:
        table.add_column(escape(operation), justify="right")
    found = {(effect.place, effect.operation): effect for effect in model.effects}
    for place in in_order([effect.place for effect in model.effects]):
        cells = []
        for operation in operations:
            effect = found.get((place, operation))
            if effect is None:
                cells.append("-")
                continue
            mark = mark_of(effect.verdict) or (" " if effect.verdict else "")
            cells.append(write_points(effect.points) + mark + write_ends(effect, " (", ")"))
        table.add_row(escape(place), *cells)
    return table


def write_ends(effect: Effect, before: str, after: str) -> str:
    """Write the interval of an effect; nothing if nothing tells it."""
    if effect.low is None or effect.high is None:
        return ""
    return f"{before}{write_points(effect.low)} to {write_points(effect.high)}{after}"


def effects_data(models: Sequence[JudgedEffects]) -> list[dict[str, Any]]:
    """The models as plain data, for programs."""
    return [asdict(model) for model in models]
