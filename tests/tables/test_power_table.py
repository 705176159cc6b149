from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pfstudy.errors import PfstudyError
from pfstudy.sources import gather
from pfstudy.stats.power import Spread, seeds_needed
from pfstudy.tables.power import USUAL_MARGIN, make_power, power_data, power_table
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.statistics import Criteria
from records import draw_study, leave_study


def rows_of(record: Any, criteria: Criteria | None = None, **samples: list[float]) -> Rows:
    records = [
        record(label, accuracy, seed=seed)
        for label, accuracies in samples.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    return make_rows(records, criteria)


SAMPLES = {"original": [97.0, 97.4], "maxpool": [96.0, 96.8], "avgpool": [97.0, 97.7]}


def text_of(table: Any) -> str:
    console = Console(width=140, record=True)
    console.print(table)
    return " ".join(console.export_text().split())


def test_every_variant_has_its_number_of_seeds(record: Any) -> None:
    rows = rows_of(record, **SAMPLES)
    made = make_power(rows, 0.8)
    assert (made.margin, made.difference) == (USUAL_MARGIN, None)
    for need, label in zip(made.needs, ("maxpool", "avgpool"), strict=True):
        row = rows.frame.set_index("label").loc[label]
        assert need.name == label
        assert (need.difference, need.low) == (row["difference_points"], row["difference_low"])
        assert need.num_seeds == seeds_needed(USUAL_MARGIN, Spread(need.deviation, 0.0, 2), 0.8)
        assert need.num_seeds_safe is None or need.num_seeds_safe >= (need.num_seeds or 0)
        assert need.seeds_now == 2


def test_the_observed_difference_plans_nothing(record: Any) -> None:
    """Of few seeds it is noise, and the seeds for it ranged from 7 to over 1,000."""
    lucky = {**SAMPLES, "maxpool": [value + 0.9 for value in SAMPLES["maxpool"]]}
    plans = [
        [need.num_seeds for need in make_power(rows_of(record, **samples), 0.8).needs]
        for samples in (SAMPLES, lucky)
    ]
    assert plans[0] == plans[1]


def test_a_margin_or_a_difference_is_asked_for(record: Any) -> None:
    rows = rows_of(record, **SAMPLES)
    wide, narrow = (make_power(rows, 0.8, margin=m).needs[0].num_seeds for m in (2.0, 0.3))
    assert wide is not None
    assert narrow is not None
    assert wide < narrow
    found = make_power(rows, 0.8, difference=-0.3)
    assert (found.margin, found.difference) == (None, -0.3)
    assert found.needs[0].num_seeds == narrow
    chosen = make_power(rows_of(record, Criteria(margin=2.0), **SAMPLES), 0.8)
    assert chosen.margin == 2.0


def test_backbones_have_a_spread_of_their_own(record: Any) -> None:
    records = [
        record(label, 97.0 + offset + spread * seed, seed=seed, family=family, model=family)
        for family, spread in (("quiet", 0.1), ("noisy", 1.0))
        for label, offset, spread in (("original", 0.0, 0.0), ("maxpool", -0.5, spread))
        for seed in (0, 1)
    ]
    quiet, noisy = make_power(make_rows(records), 0.8, margin=5.0).needs
    assert quiet.num_seeds is not None
    assert noisy.num_seeds is not None
    assert quiet.deviation < noisy.deviation
    assert quiet.num_seeds < noisy.num_seeds


def test_too_few_images_are_said(tmp_path: Path) -> None:
    """No number of seeds shows 0.1 points on 400 images."""
    leave_study(tmp_path, draw_study(maxpool=0.01, avgpool=0.02))
    rows = make_rows(gather([tmp_path]).records)
    made = make_power(rows, 0.8, margin=0.1)
    assert all(need.is_limited_by_images and need.num_seeds is None for need in made.needs)
    least = min(need.least_distance for need in made.needs)
    text = text_of(power_table(made))
    assert "more images" in text
    assert f"no less than {least:.2f} points" in text
    enough = make_power(rows, 0.8, margin=3 * max(need.least_distance for need in made.needs))
    assert all(need.num_seeds is not None for need in enough.needs)


def test_one_seed_each_tells_nothing(record: Any) -> None:
    with pytest.raises(PfstudyError, match="no variant that is compared has two seeds"):
        make_power(rows_of(record, original=[97.0], maxpool=[96.0]), 0.8)


def test_the_table_and_the_data_say_the_same(record: Any) -> None:
    rows = rows_of(record, **SAMPLES)
    made = make_power(rows, 0.8, margin=5.0)
    text = text_of(power_table(made))
    data = json.loads(json.dumps(power_data(made)))
    assert [need["name"] for need in data["needs"]] == ["maxpool", "avgpool"]
    for need in data["needs"]:
        assert f"{need['deviation']:.2f} 2 {need['num_seeds']} {need['num_seeds_safe']}" in text
    assert "as accurate as the baseline loses no more than 5 points" in text
    assert "with a probability of 80 %" in text
