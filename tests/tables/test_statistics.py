"""What tables say of variants, where it is easy to say too much."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfstudy.errors import PfstudyError
from pfstudy.sources import Incomplete, gather
from pfstudy.store import Looks
from pfstudy.tables.caption import write_caption
from pfstudy.tables.columns import BY_KEY
from pfstudy.tables.content import make_content
from pfstudy.tables.latex import latex
from pfstudy.tables.power import make_power
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.statistics import POPULATIONS, Criteria
from records import draw_study, leave_study

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
    assert "2 differences could not be tested: a, b." in write_caption(
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


def several(record: Any, num_seeds: int = 3, **offsets: float) -> list[Any]:
    """Records of seeds that share most of their noise."""
    noise = np.random.default_rng(0).normal(0, 0.3, (len(offsets) + 1, num_seeds))
    return [
        record(label, 97.0 + offset + noise[0, seed] + 0.3 * noise[index, seed], seed=seed)
        for index, (label, offset) in enumerate({"original": 0.0, **offsets}.items())
        for seed in range(num_seeds)
    ]


def failed(label: str, seed: int, state: str = "failed") -> Incomplete:
    return Incomplete(f"{label} seed{seed}", state, (f"base-{label}", seed), "diverged")


class TestFailedRuns:
    @pytest.mark.parametrize("state", ["failed", "crashed"])
    def test_they_flatter_no_variant(self, record: Any, state: str) -> None:
        records = several(record, better=3.0, worse=-3.0)
        before = make_rows(records)
        rows = make_rows(
            records, incomplete=[failed("better", 3, state), failed("worse", 3, state)]
        )
        assert column(before, "verdict") == [None, "better", "worse"]
        assert column(rows, "verdict") == [None, "undecided", "worse"]
        assert column(rows, "num_failed_seeds") == [0, 1, 1]
        assert column(rows, "difference_low") == pytest.approx(
            column(before, "difference_low"), nan_ok=True
        )
        assert column(before, "is_most_accurate") == [False, True, False]
        assert not any(column(rows, "is_most_accurate"))
        assert (column(before, "front")[1], column(rows, "front")[1]) == ("yes", "perhaps")

    def test_they_stand_in_the_caption(self, record: Any) -> None:
        incomplete = [failed("maxpool", 3), failed("maxpool", 4)]
        caption = make_content(
            make_rows(several(record, maxpool=-1), incomplete=incomplete)
        ).caption
        assert "Runs that failed: maxpool (2 runs). No verdict favours it" in caption
        assert "2 failed" in caption

    @pytest.mark.parametrize("state", ["running", "pending", "interrupted"])
    def test_runs_that_have_not_ended_are_no_outcome(self, record: Any, state: str) -> None:
        records = several(record, better=3.0)
        rows = make_rows(records, incomplete=[failed("better", 3, state)])
        assert column(rows, "verdict") == [None, "better"]

    def test_a_variant_that_lost_all_still_counts(self, record: Any) -> None:
        """What diverges makes the others look no better."""
        records = several(record, worse=-0.4, other=0.1)
        lost = [
            Incomplete(f"gone seed{seed}", "failed", ("base-gone", seed), "diverged", "base")
            for seed in range(3)
        ]
        before, rows = make_rows(records), make_rows(records, incomplete=lost)
        widths = [
            each.frame["difference_high"] - each.frame["difference_low"] for each in (before, rows)
        ]
        assert (widths[1][1:] > widths[0][1:]).all()
        assert "All runs of 1 variant failed" in make_content(rows).caption

    def test_a_baseline_that_lost_all_is_said(self, record: Any) -> None:
        lost = [Incomplete("original seed0", "failed", ("base", 0), "diverged", "base")]
        records = [r for r in several(record, maxpool=-1) if not r["variant"]["is_baseline"]]
        assert make_rows(records, incomplete=lost).has_failed_baseline
        assert not make_rows(records).has_failed_baseline

    def test_nobody_is_off_the_front_because_of_what_is_left(self, record: Any) -> None:
        records = several(record, a=0.0, lucky=4.0)
        for made in records:
            made["cost"]["macs"] = {"original": 3, "a": 2, "lucky": 1}[made["variant"]["label"]]
        assert column(make_rows(records), "front") == ["no", "no", "yes"]
        rows = make_rows(records, incomplete=[failed("lucky", 3)])
        assert column(rows, "front")[1:] == ["perhaps", "perhaps"]

    def test_a_baseline_that_lost_runs_is_not_flattered(self, record: Any) -> None:
        incomplete = [Incomplete("original seed3", "failed", ("base", 3), "diverged")]
        rows = make_rows(several(record, worse=-3.0), incomplete=incomplete)
        assert column(rows, "verdict") == [None, "undecided"]


class TestSeeds:
    def test_differences_are_of_the_seeds_that_both_have(self, record: Any) -> None:
        records = several(record, 5, maxpool=-1.0)
        kept = [r for r in records if r["variant"]["is_baseline"] or r["seed"] < 3]
        paired = make_rows([r for r in kept if r["seed"] < 3])
        rows = make_rows(kept)
        for key in ("difference_points", "difference_low", "difference_high"):
            assert column(rows, key)[1] == pytest.approx(column(paired, key)[1])
        caption = make_content(rows).caption
        assert "Differences are over the seeds that both have, accuracies over all." in caption
        assert "over the seeds" not in make_content(paired).caption

    def test_the_front_is_of_these_differences(self, record: Any) -> None:
        """Four lucky seeds of the baseline do not take a variant off it."""
        records = [
            record("original", accuracy, seed=seed, macs=2)
            for seed, accuracy in enumerate((97.0, 97.1, 99.0, 99.1, 99.0, 99.1))
        ]
        records += [record("a", 98.0 + 0.1 * seed, seed=seed, macs=1) for seed in range(2)]
        rows = make_rows(records)
        assert column(rows, "difference_points")[1] == pytest.approx(1)
        assert column(rows, "front_probability")[0] < 0.5

    def test_runs_that_share_no_seed_are_compared_all_the_same(self, record: Any) -> None:
        records = several(record, maxpool=-3.0)
        for made in records:
            made["seed"] += 0 if made["variant"]["is_baseline"] else 10
        rows = make_rows(records)
        assert column(rows, "verdict") == [None, "worse"]
        assert "Paired in order, as they share no seeds" in make_content(rows).caption

    def test_one_seed_that_is_shared_is_no_pairing(self, record: Any) -> None:
        records = several(record, maxpool=-3.0)
        for made in records:
            made["seed"] += 0 if made["variant"]["is_baseline"] else 2
        assert column(make_rows(records), "verdict") == [None, "worse"]

    def test_a_variant_of_one_seed_is_judged_by_the_spread_of_the_others(self, record: Any) -> None:
        records = several(record, a=-1, b=-1, c=-1, single=-30)
        kept = [r for r in records if r["variant"]["label"] != "single" or r["seed"] == 0]
        rows = make_rows(kept)
        widths = rows.frame["difference_high"] - rows.frame["difference_low"]
        assert widths[4] > widths[1]
        assert column(rows, "verdict")[4] is not None


class TestPopulation:
    @pytest.mark.parametrize(
        ("num_seeds", "has_predictions", "expected"),
        [
            pytest.param(3, True, "both", id="several seeds"),
            pytest.param(3, False, "seeds", id="several seeds without predictions"),
            pytest.param(1, True, "images", id="one seed"),
            pytest.param(1, False, None, id="one seed without predictions"),
        ],
    )
    def test_it_is_the_widest_that_is_known(
        self, tmp_path: Path, num_seeds: int, has_predictions: bool, expected: str | None
    ) -> None:
        leave_study(tmp_path, draw_study(num_seeds=num_seeds, maxpool=0.05))
        if not has_predictions:
            for path in tmp_path.rglob("predictions.npz"):
                path.unlink()
        rows = make_rows(gather([tmp_path]).records)
        assert column(rows, "population") == [None, expected]
        caption = make_content(rows).caption
        for name, about in POPULATIONS.items():
            assert (f"are for {about}." in caption) is (name == expected)

    def test_a_run_without_predictions_is_named(self, tmp_path: Path) -> None:
        members = leave_study(tmp_path, draw_study(maxpool=0.05))
        (tmp_path / members[-1] / "predictions.npz").unlink()
        rows = make_rows(gather([tmp_path]).records)
        assert column(rows, "population") == [None, "seeds"]
        caption = make_content(rows).caption
        assert "predictions.npz is missing or of other images: maxpool seed2" in caption

    def test_images_in_another_order_are_not_compared(self, tmp_path: Path) -> None:
        members = leave_study(tmp_path, draw_study(maxpool=0.05))
        path = tmp_path / members[-1] / "predictions.npz"
        with np.load(path) as kept:
            arrays = {key: kept[key] for key in kept}
        arrays["labels"][0] = 1
        np.savez(path, **arrays)
        rows = make_rows(gather([tmp_path]).records)
        assert column(rows, "population") == [None, "seeds"]
        assert "of other images: maxpool seed2" in make_content(rows).caption

    def test_of_several_the_caption_says_which_is_whose(self, record: Any, tmp_path: Path) -> None:
        leave_study(tmp_path, draw_study(maxpool=0.05))
        others = several(record, maxpool=-1.0)
        for made in others:
            made["variant"]["model"] = "other"
            for key in ("hash", "baseline"):
                made["identity"][key] = made["identity"][key].replace("base", "other")
        caption = make_content(make_rows([*gather([tmp_path]).records, *others])).caption
        assert f"Intervals of resnet_digits are for {POPULATIONS['both']}." in caption
        assert f"Intervals of other are for {POPULATIONS['seeds']}." in caption


class TestLooks:
    def caption(self, record: Any, looks: Looks) -> str:
        rows = make_rows(several(record, maxpool=-1.0), Criteria(looks=looks))
        return make_content(rows).caption

    def test_the_level_is_spent_over_those_declared(self, record: Any) -> None:
        records = several(record, maxpool=-1.0)
        usual = make_rows(records)
        looks = make_rows(records, Criteria(looks=Looks((3, 5, 10), (3,))))
        assert looks.criteria.confidence == pytest.approx(1 - 0.05 / 3)
        assert column(looks, "difference_low")[1] < column(usual, "difference_low")[1]
        caption = self.caption(record, Looks((3, 5, 10), (3,)))
        assert "hold at 98.3 %" in caption
        assert "Declared looks: at 3, 5 and 10 seeds, 5 % divided by 3 for each." in caption
        assert "not declared" not in caption

    def test_those_that_were_not_declared_are_counted(self, record: Any) -> None:
        caption = self.caption(record, Looks((), (3, 5)))
        assert "Judged at 3 and 5 seeds: these 2 looks were not declared" in caption
        caption = self.caption(record, Looks((3, 5), (3, 4)))
        assert "Judged at 4 seeds, too: that look was not declared" in caption

    def test_p_values_share_the_level_as_well(self, record: Any) -> None:
        records = several(record, a=-0.6, b=0.2)
        usual = make_rows(records).frame["p_value"]
        rows = make_rows(records, Criteria(looks=Looks((3, 5, 10), (3,))))
        assert rows.frame["p_value"][1:].tolist() == pytest.approx(
            np.minimum(3 * usual[1:], 1).tolist()
        )
        is_found = rows.frame["verdict"][1:] != "undecided"
        assert ((rows.frame["p_value"][1:] < 0.05) == is_found).all()

    def test_those_of_other_studies_are_said(self, record: Any) -> None:
        rows = make_rows(several(record, a=-1.0), Criteria(other_looks=("pooling",)))
        assert "declared for pooling are not taken into account" in make_content(rows).caption

    def test_the_first_look_is_no_news(self, record: Any) -> None:
        caption = self.caption(record, Looks((), (3,)))
        assert "not declared" not in caption


def test_what_is_gained_at_equal_latency_has_an_interval(record: Any) -> None:
    """With the errors of both ends of the line, and of times that were measured apart."""
    records = [
        record(label, accuracy + 0.1 * seed, seed=seed, family=model, model=model, **timed)
        for model, label, accuracy, timed in (
            ("small", "original", 96.0, {"speed": (2.0, 1.0), **TIMED}),
            ("big", "original", 98.0, {"speed": (4.0, 1.0), **TIMED}),
            ("big", "dwconv", 97.5, {"speed": (3.0, 0.75), **TIMED}),
        )
        for seed in range(3)
    ]
    frame = make_rows(records).frame.set_index(["model", "label"])
    row = frame.loc[("big", "dwconv")]
    assert row["equal_latency_low"] < row["equal_latency_points"] < row["equal_latency_high"]
    assert math.isnan(frame.loc[("big", "original")]["equal_latency_low"])


def test_the_front_of_one_seed_is_paired_over_images(tmp_path: Path) -> None:
    """A variant that loses 25 images, and never wins one, was perhaps as accurate."""
    right = draw_study(num_seeds=1, num_images=500)["original"]
    worse = right.copy()
    worse[0, np.flatnonzero(right[0])[:12]] = False
    leave_study(tmp_path, {"original": right, "dwconv": worse}, macs=1)
    rows = make_rows(gather([tmp_path]).records)
    assert column(rows, "front") == ["yes", "no"]
