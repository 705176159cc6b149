from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from rich.console import Console

from pfstudy.errors import PfstudyError
from pfstudy.tables.effects import effects_data, effects_table, fit_all, in_order
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.statistics import Criteria

ADDRESSES = ("stage1.block1", "stage1.block2", "stage2.block1")
POINTS = dict(zip(ADDRESSES, (-0.2, -0.1, -0.8), strict=True))


def rows_of(
    record: Any, *variants: tuple[str, ...], num_seeds: int = 2, margin: float = 0.0
) -> Rows:
    records = []
    for replaced in variants:
        for seed in range(num_seeds):
            accuracy = 97 + sum(POINTS[address] for address in replaced) + 0.1 * seed
            made = record("+".join(replaced) or "original", accuracy, seed=seed)
            stands = {a: "maxpool" if a in replaced else "original" for a in ADDRESSES}
            made["variant"]["operations"] = stands
            records.append(made)
    return make_rows(records, Criteria(margin=margin))


@pytest.fixture
def rows(record: Any) -> Rows:
    """All combinations, exactly additive."""
    every = [c for n in range(4) for c in itertools.combinations(ADDRESSES, n)]
    return rows_of(record, *every)


def text_of(table: Any) -> str:
    console = Console(width=140, record=True)
    console.print(table)
    return console.export_text()


def test_a_line_for_each_place_in_the_order_of_the_network(rows: Rows) -> None:
    text = text_of(effects_table(fit_all(rows)[0]))
    lines = [line.split() for line in text.splitlines() if ".block" in line]
    assert [line[:2] for line in lines] == [
        ["stage1.block1", "-0.20*"],
        ["stage1.block2", "-0.10*"],
        ["stage2.block1", "-0.80*"],
    ]
    assert "4 combinations, each predicted from all other variants: 100 %" in " ".join(text.split())


def test_all_levels_that_can_be_told_apart(rows: Rows) -> None:
    models = fit_all(rows)
    assert [model.level for model in models] == ["block", "stage", "operation"]
    assert json.loads(json.dumps(effects_data(models)))[0]["level"] == "block"


def test_intervals_come_from_the_seeds_where_the_model_fits_anyhow(record: Any) -> None:
    single = [(), *((address,) for address in ADDRESSES)]
    model = fit_all(rows_of(record, *single))[0]
    assert model.is_saturated
    for effect in model.effects:
        assert effect.low is not None
        assert effect.high is not None
        assert effect.low < effect.points < effect.high
    assert "as many as there are variants" in " ".join(text_of(effects_table(model)).split())
    (alone, *_) = fit_all(rows_of(record, *single, num_seeds=1))
    assert all(effect.low is None for effect in alone.effects)


def test_verdicts_are_marked_and_the_caption_says_what_they_hold_for(record: Any) -> None:
    single = [(), *((address,) for address in ADDRESSES)]
    (model, *_) = fit_all(rows_of(record, *single, margin=0.9))
    text = " ".join(text_of(effects_table(model)).split())
    assert "stage1.block1 -0.20~ (" in text
    assert "stage2.block1 -0.80* (" in text
    assert (
        "Intervals hold at 95 % for all effects of the table at once, for new trainings of these "
        "variants, judged on these test images. *: better or worse. ~: not worse, loses no more "
        "than the margin of 0.9 points."
    ) in text
    (data,) = effects_data([model])
    assert (data["confidence"], data["population"], data["margin"]) == (0.95, "seeds", 0.9)
    (alone, *_) = fit_all(rows_of(record, *single, num_seeds=1))
    assert effects_data([alone])[0]["population"] is None
    assert "Nothing tells how sure" in " ".join(text_of(effects_table(alone)).split())


def test_what_cannot_be_told_apart_is_said(record: Any) -> None:
    with pytest.raises(PfstudyError, match="study=one_block"):
        fit_all(rows_of(record, ()))


def test_places_are_ordered_by_their_numbers() -> None:
    assert in_order(["stage1.block10", "stage1.block9", "stage1.block10", "stage2"]) == [
        "stage1.block9",
        "stage1.block10",
        "stage2",
    ]
