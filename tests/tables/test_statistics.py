"""What tables say of variants, where it is easy to say too much."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfstudy.errors import PfstudyError
from pfstudy.tables.caption import write_caption
from pfstudy.tables.columns import BY_KEY
from pfstudy.tables.content import make_content
from pfstudy.tables.latex import latex
from pfstudy.tables.power import make_power
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.statistics import Criteria

TIMED = {"relative_latency_low": 0.99, "relative_latency_high": 1.01}


def without_num_test(record: Any) -> Any:
    record["identity"]["canonical"]["data"] = {"fingerprint": "x", "num_test": None}
    return record


def column(rows: Rows, key: str) -> list[Any]:
    return rows.frame[key].tolist()


def test_without_seeds_and_number_of_images_there_is_no_front(record: Any) -> None:
    records = [record("original", 76.2), record("maxpool", 76.19, macs=1_000)]
    assert make_rows(records).front_cost == "macs"
    rows = make_rows(map(without_num_test, records))
    assert rows.front_cost is None
    assert column(rows, "front") == [None, None]
    assert all(map(math.isnan, column(rows, "resolution_points")))


def test_the_number_of_images_of_a_folder_is_that_of_the_predictions(
    record: Any, tmp_path: Path
) -> None:
    made = without_num_test(record("original", 75.0)) | {"directory": str(tmp_path)}
    np.savez(tmp_path / "predictions.npz", labels=np.zeros(40, int), logits=np.ones((40, 2)))
    assert column(make_rows([made]), "resolution_points") == [2.5]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off"], ids=["empty", "truncated"])
def test_damaged_predictions_are_named(record: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "predictions.npz").write_bytes(content)
    made = without_num_test(record()) | {"directory": str(tmp_path)}
    with pytest.raises(PfstudyError, match=r"predictions\.npz is damaged"):
        make_rows([made])


def test_seeds_that_agree_are_no_proof(record: Any) -> None:
    """Two seeds with the same accuracy of 500 images: the spread is that of rounding, not none."""
    records = [
        record(label, accuracy, seed=seed, macs=macs)
        for label, accuracy, macs in (("original", 97.0, 3), ("a", 96.8, 2), ("b", 97.0, 1))
        for seed in (0, 1)
    ]
    rows = make_rows(records)
    assert 0.05 < rows.frame.set_index("label")["front_probability"]["original"] < 0.95
    needed = [need.num_seeds for need in make_power(rows, 0.8, margin=0.05).needs]
    assert all(number is not None and number > 2 for number in needed)


def test_the_line_at_equal_latency_is_of_one_recipe(record: Any) -> None:
    slow = record("original", 92.1, family="slow", lr=0.01, speed=(2.1, 1.0), **TIMED)
    records = [record("original", 97.1, speed=(2.0, 1.0), **TIMED), slow]
    records.append(record("dwconv", 96.1, speed=(2.05, 1.02), **TIMED))
    assert all(map(math.isnan, column(make_rows(records), "equal_latency_points")))
    bigger = record("original", 98.1, family="big", model="big", speed=(4.0, 1.0), **TIMED)
    rows = make_rows([records[0], records[2], bigger])
    (above,) = rows.frame.loc[rows.frame["label"] == "dwconv", "equal_latency_points"]
    assert above == pytest.approx(96.1 - 97.1, abs=0.1)


def test_an_untested_tie_is_counted(record: Any) -> None:
    rows = make_rows([record("original", 97.0), record("a", 96.0), record("b", 97.0)])
    assert "2 differences could not be tested." in write_caption(
        rows, [BY_KEY["difference_points"]]
    )


def test_the_caption_names_another_baseline(record: Any) -> None:
    records = [
        record(label, accuracy + 0.1 * seed, seed=seed)
        for label, accuracy in (("original", 97.0), ("maxpool", 96.0))
        for seed in (0, 1)
    ]
    rows = make_rows(records, Criteria(baseline="maxpool"))
    assert "Differences to maxpool with" in make_content(rows).caption
    assert column(rows, "is_control") == [False, True]


def test_a_spread_of_zero_stands_in_latex(record: Any) -> None:
    records = [record("original", 97.0, seed=seed) for seed in (0, 1)]
    assert r"{$97.00 \pm 0.00$}" in latex(make_content(make_rows(records)))


def test_speed_of_any_seed_is_that_of_the_variant(record: Any) -> None:
    records = [record("original", 97.0), record("original", 97.0, seed=1, speed=(2.0, 1.0))]
    assert column(make_rows(records), "latency_ms") == [2.0]


def test_names_have_nothing_that_a_terminal_obeys(record: Any) -> None:
    rows = make_rows([record("max\x1b[2Jpool\nx")])
    assert column(rows, "variant") == ["max [2Jpool x"]


def test_datasets_are_named_and_digests_short(record: Any) -> None:
    digits, other = record(), record(family="other")
    other["data"] = "cifar10"
    other["identity"]["canonical"]["data"] = {"fingerprint": "f" * 64, "num_test": 500}
    rows = make_rows([digits, other])
    assert rows.settings == ("data",)
    assert column(rows, "data") == ["digits", "cifar10"]
    other["data"] = "digits"
    rows = make_rows([digits, other])
    assert column(rows, "data.fingerprint")[1] == "f" * 10
