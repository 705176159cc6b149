"""Rows in, additive models of what each place contributes out, and their tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.effects import LEVELS, Additive, Effect, Level, fit_additive
from pfstudy.tables.columns import write_points
from pfstudy.tables.rows import Rows
from pfstudy.tables.statistics import effects_family

_EACH = {"block": "every block", "stage": "every stage", "operation": "every operation"}


def fit_effects(rows: Rows, level: Level) -> Additive | None:
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
    if model is None or len(rows.families) < 2:
        return model
    name = rows.frame.loc[rows.frame["hash"] == largest.control, "model"].iloc[0]
    return replace(model, of=str(name))


def fit_levels(rows: Rows) -> list[Additive]:
    """Fit the models of all levels that the variants can tell apart; there may be none."""
    return [model for level in LEVELS if (model := fit_effects(rows, level)) is not None]


def fit_all(rows: Rows) -> list[Additive]:
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


def in_order(places: Sequence[str]) -> list[str]:
    """Places in the order of the network: ``stage2.block10`` after ``stage2.block9``."""
    return sorted(set(places), key=lambda place: list(map(int, re.findall(r"\d+", place))))


def effects_table(model: Additive) -> Table:
    """Table for the terminal: a line for each place, a column for each operation."""
    table = Table(
        box=box.SIMPLE_HEAD, caption=escape(describe_model(model)), caption_justify="left"
    )
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
            cells.append(write_points(effect.points) + write_ends(effect, " (", ")"))
        table.add_row(escape(place), *cells)
    return table


def write_ends(effect: Effect, before: str, after: str) -> str:
    """Write the interval of an effect; nothing if nothing tells it."""
    if effect.low is None or effect.high is None:
        return ""
    return f"{before}{write_points(effect.low)} to {write_points(effect.high)}{after}"


def effects_data(models: Sequence[Additive]) -> list[dict[str, Any]]:
    """The models as plain data, for programs."""
    return [asdict(model) for model in models]
