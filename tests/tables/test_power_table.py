from __future__ import annotations

import json
import re
from typing import Any

import pytest
from rich.console import Console

from pfstudy.errors import PfstudyError
from pfstudy.stats.power import seeds_needed
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.power import make_power, power_data, power_table
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.statistics import pooled


def rows_of(record: Any, **samples: list[float]) -> Rows:
    return make_rows(
        record(label, accuracy, seed=seed)
        for label, accuracies in samples.items()
        for seed, accuracy in enumerate(accuracies)
    )


def test_the_spread_is_pooled_over_variants(record: Any) -> None:
    rows = rows_of(record, original=[1.0, 3.0], maxpool=[5.0, 5.0, 8.0], avgpool=[2.0])
    deviation, df = pooled(rows.frame)
    assert df == 3
    assert deviation == pytest.approx(((2 + 6) / 3) ** 0.5)
    assert pooled(rows_of(record, original=[1.0], maxpool=[2.0]).frame) == (0.0, 0)
    assert rows.frame[f"{ACCURACY}_std"].isna().tolist() == [False, False, True]


def test_every_difference_has_its_number_of_seeds(record: Any) -> None:
    rows = rows_of(record, original=[97.0, 97.4], maxpool=[96.0, 96.4], avgpool=[97.0, 97.6])
    made = make_power(rows, 0.8, None)
    deviation, _ = pooled(rows.frame)
    assert [(need.name, round(need.difference, 2)) for need in made.needs] == [
        ("maxpool", -1.0),
        ("avgpool", 0.1),
    ]
    for need in made.needs:
        assert need.num_seeds == seeds_needed(need.difference, deviation, 2, 0.8)
        assert need.num_seeds_safe is None or need.num_seeds_safe >= need.num_seeds
        assert need.seeds_now == 2


def test_backbones_have_a_spread_of_their_own(record: Any) -> None:
    records = [
        record(label, 97.0 + offset + spread * seed, seed=seed, family=family, model=family)
        for family, spread in (("quiet", 0.1), ("noisy", 1.0))
        for label, offset in (("original", 0.0), ("maxpool", -0.5))
        for seed in (0, 1)
    ]
    quiet, noisy = make_power(make_rows(records), 0.8, None).needs
    assert noisy.deviation == pytest.approx(10 * quiet.deviation)
    assert quiet.num_seeds is not None
    assert noisy.num_seeds is not None
    assert quiet.num_seeds < noisy.num_seeds


def test_a_difference_can_be_given(record: Any) -> None:
    rows = rows_of(record, original=[97.0, 97.4], maxpool=[96.0, 96.4, 96.3])
    (need,) = make_power(rows, 0.8, 0.5).needs
    assert (need.difference, need.seeds_now) == (0.5, 3)


def test_one_seed_each_tells_nothing(record: Any) -> None:
    with pytest.raises(PfstudyError, match="no variant that is compared has two seeds"):
        make_power(rows_of(record, original=[97.0], maxpool=[96.0]), 0.8, None)


def test_the_table_and_the_data_say_the_same(record: Any) -> None:
    rows = rows_of(record, original=[97.0, 97.4], maxpool=[96.0, 96.4], avgpool=[97.0, 97.4])
    made = make_power(rows, 0.8, None)
    console = Console(width=120, record=True)
    console.print(power_table(made))
    text = console.export_text()
    data = json.loads(json.dumps(power_data(made)))
    assert [need["name"] for need in data["needs"]] == ["maxpool", "avgpool"]
    assert re.search(rf"maxpool +-1.00 +0.28 +2 +{data['needs'][0]['num_seeds']} ", text)
    assert "over 1000" in text
    assert "probability of 80 %" in text
