"""Choices under a budget of time, from runs whose truth is planted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from configs import compose
from pfstudy import files
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import SiteSetting
from pfstudy.speed.blocktable import BlockTable
from pfstudy.tables.choosing import make_design
from pfstudy.tables.design import Design, Figure
from pfstudy.tables.designed import curve_table, design_data, list_slower, places_table
from pfstudy.tables.offers import Offers, offers_of_runs
from pfstudy.tables.proof import describe_proof, prove
from studies import (
    ALL,
    COMBINED,
    EFFECTS,
    SINGLES,
    SITES,
    TIMES,
    accuracy_of,
    best_within,
    label,
    leave_run,
    leave_study,
    make_block_table,
    overrides_of,
    record_of,
    time_of,
)

Make = Callable[..., Design]


@pytest.fixture(scope="module")
def offers(tmp_path_factory: pytest.TempPathFactory) -> Offers:
    """Exactly additive runs, one seed each."""
    root = tmp_path_factory.mktemp("runs")
    leave_study(root)
    return offers_of_runs([root])


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Offers:
    """Three seeds that differ."""
    root = tmp_path_factory.mktemp("noisy")
    leave_study(root, num_seeds=3, noise=0.3)
    return offers_of_runs([root])


def text_of(table: object) -> str:
    console = Console(width=150, record=True)
    console.print(table)
    return " ".join(console.export_text().split())


def operations_of(design: Design) -> tuple[str, ...]:
    assert design.chosen is not None
    return tuple(design.chosen.operations.values())


class TestOffers:
    def test_effects_are_those_on_the_validation_split(self, offers: Offers) -> None:
        assert offers.points[SITES[2], "maxpool"] == pytest.approx(-2.3)
        assert offers.points[SITES[0], "original"] == 0
        assert offers.num_seeds == 1
        assert offers.origin == (
            "13 variants of resnet_digits on digits, recipe digits, 1 seed each"
        )
        assert not offers.remarks

    def test_the_settings_behind_a_label_are_those_of_the_runs(self, tmp_path: Path) -> None:
        leave_run(tmp_path, val=90)
        site = "block.stage1.block1"
        decorated = (f"{site}.spatial=maxpool", f"{site}.kernel_size=5", f"{site}.norm_act=keep")
        leave_run(tmp_path, *decorated, val=91)
        leave_run(tmp_path, f"{site}.spatial=conv", f"{site}.norm_act=drop", val=89)
        made = offers_of_runs([tmp_path])
        original, *others = made.options["stage1.block1"]
        assert original.label == "original"
        assert {option.label: option.setting for option in others} == {
            "maxpool5x5+norm": SiteSetting("stage1.block1", "maxpool", 5, "keep"),
            "conv-norm": SiteSetting("stage1.block1", "conv", None, "drop"),
        }
        assert all(option.key == option.label for option in others)

    def test_the_largest_family_is_taken_and_named(self, tmp_path: Path) -> None:
        leave_study(tmp_path)
        leave_run(tmp_path, "recipe.epochs=2", val=10)
        made = offers_of_runs([tmp_path])
        assert made.points[SITES[2], "maxpool"] == pytest.approx(-2.3)
        (remark,) = made.remarks
        assert "2 families" in remark
        assert "13 of 14 variants" in remark
        assert "--study" in remark

    def test_a_study_is_its_members(self, tmp_path: Path) -> None:
        leave_study(tmp_path, SINGLES)
        leave_run(tmp_path, *overrides_of(COMBINED[0]), val=10)
        assert len(offers_of_runs([tmp_path], "blocks").measured) == 9
        assert len(offers_of_runs([tmp_path]).measured) == 10

    def test_what_never_stood_alone_is_left_out(self, tmp_path: Path) -> None:
        leave_study(tmp_path)
        leave_run(tmp_path, "block.spatial=avgpool", val=80)
        made = offers_of_runs([tmp_path])
        assert made.remarks == (
            "Left out, as they have operations that never stand without another one: avgpool.",
        )
        assert all(option.label != "avgpool" for row in made.options.values() for option in row)

    def test_the_step_between_accuracies_is_the_least_that_seeds_differ_by(
        self, tmp_path: Path
    ) -> None:
        leave_study(tmp_path, num_seeds=2)
        made = offers_of_runs([tmp_path])
        assert made.num_seeds == 2
        assert made.predictor is not None
        assert made.predictor.noise == pytest.approx((100 / 150) ** 2 / 12)

    @pytest.mark.parametrize(
        ("source", "sentence"),
        [
            ("wandb:me/mine", "is no directory of runs; its run directories are needed"),
            ("nowhere", "there is no directory nowhere"),
        ],
    )
    def test_sources_that_are_none(self, source: str, sentence: str) -> None:
        with pytest.raises(PfstudyError, match=sentence):
            offers_of_runs([source])

    def test_too_few_runs(self, tmp_path: Path) -> None:
        (tmp_path / "runs").mkdir()
        with pytest.raises(PfstudyError, match="there are no finished runs"):
            offers_of_runs([tmp_path / "runs"])
        leave_run(tmp_path / "runs", val=90)
        with pytest.raises(
            PfstudyError, match=r"1 variant of .* cannot tell .*one_at_a_time,random"
        ):
            offers_of_runs([tmp_path / "runs"])

    def test_nothing_is_chosen_by_test_accuracy(self, tmp_path: Path) -> None:
        leave_run(tmp_path, val=None, test=99)
        with pytest.raises(PfstudyError, match="nothing is chosen by test accuracy"):
            offers_of_runs([tmp_path])

    def test_an_operation_that_has_changed_is_another_one(self, tmp_path: Path) -> None:
        leave_study(tmp_path, SINGLES)
        (path,) = tmp_path.glob("*stage1.block1=maxpool*/seed0/record.json")
        record = files.read_json(path)
        record["identity"]["canonical"]["sites"]["layer1.0.conv2"]["source"] = "other"
        files.write_json(path, record)
        with pytest.raises(PfstudyError, match="the source of an operation has changed"):
            offers_of_runs([tmp_path])


class TestDesign:
    @pytest.mark.parametrize("latency", [0.7, 0.75, 0.8, 0.9, 1.0, 1.5])
    def test_the_best_of_all_networks_is_chosen(self, offers: Offers, latency: float) -> None:
        design = make_design(offers, make_block_table(), latency, 5)
        best = best_within(latency)
        assert operations_of(design) == best[0]
        assert [n.worth.value for n in design.best] == pytest.approx(
            [accuracy_of(network) for network in best[:5]]
        )
        assert design.chosen is not None
        assert design.chosen.label == label(best[0])
        assert design.chosen.latency.value == pytest.approx(time_of(best[0]))
        assert design.chosen.latency.value <= latency

    def test_the_curve_goes_from_the_fastest_to_the_best(self, offers: Offers) -> None:
        curve = make_design(offers, make_block_table(), None).curve
        assert curve[0].latency.value == pytest.approx(min(map(time_of, ALL)))
        assert curve[-1].worth.value == pytest.approx(max(map(accuracy_of, ALL)))
        worths = [network.worth.value for network in curve]
        assert worths == sorted(worths)
        for network in curve:  # nothing is as fast and better
            best = accuracy_of(best_within(network.latency.value)[0])
            assert network.worth.value == pytest.approx(best)

    def test_the_interval_of_a_time_is_that_of_the_table(self, offers: Offers) -> None:
        table = make_block_table(error=0.02)
        design = make_design(offers, table, 0.8)
        assert design.chosen is not None
        assert table.relative_error is not None
        latency = design.chosen.latency
        assert latency.half_width == pytest.approx(latency.value * table.relative_error)
        bare = make_design(offers, replace(table, held_out=()), 0.8)
        assert bare.chosen is not None
        assert bare.chosen.latency.half_width is None

    def test_every_site_says_what_it_has_and_takes(self, offers: Offers) -> None:
        design = make_design(offers, make_block_table(), 0.8)
        for index, (place, name) in enumerate(zip(design.places, best_within(0.8)[0], strict=True)):
            assert (place.address, place.option.label) == (SITES[index], name)
            assert place.share == pytest.approx(TIMES[name][index])
            assert place.share_before == pytest.approx(TIMES["original"][index])
            expected = 0 if name == "original" else EFFECTS[name][index]
            assert place.effect.value == pytest.approx(expected, abs=1e-9)
        assert design.baseline is not None
        assert design.baseline.latency.value == 1
        assert design.baseline.worth.value == pytest.approx(90)

    def test_draws_say_which_sites_noise_decides(self, noisy: Offers) -> None:
        design = make_design(noisy, make_block_table(), 0.8)
        shares = [place.share_of_draws for place in design.places]
        assert all(share is not None and 0 <= share <= 1 for share in shares)
        assert design.places[2].share_of_draws == 1  # 2.3 points
        assert min(share for share in shares if share is not None) < 1
        assert design.optimism is not None
        assert 0 <= design.optimism < 0.6
        again = make_design(noisy, make_block_table(), 0.8)
        assert shares == [place.share_of_draws for place in again.places]

    def test_a_budget_that_nothing_keeps(self, offers: Offers) -> None:
        table = make_block_table()
        with pytest.raises(PfstudyError, match=r"0.5 cannot be reached: the fastest .* 0\.680 of"):
            make_design(offers, table, 0.5)
        assert operations_of(make_design(offers, table, 0.68)) == ("maxpool",) * 4
        for latency in (0.0, -1.0, float("nan")):
            with pytest.raises(PfstudyError, match=r"share of the unsubstituted .* takes 0\.680"):
                make_design(offers, table, latency)

    def test_operations_that_are_slower_here_are_named(self, offers: Offers) -> None:
        design = make_design(offers, make_block_table(), None)
        assert list_slower(design) == [
            "dwconv takes longer than the original at 2 of 4 sites (1.24 to 1.30 times: "
            "stage1.block2, stage2.block1)."
        ]

    def test_nothing_tells_how_sure_a_saturated_model_is(self, tmp_path: Path) -> None:
        leave_study(tmp_path, SINGLES)
        design = make_design(offers_of_runs([tmp_path]), make_block_table(), 0.8)
        assert operations_of(design) == best_within(0.8)[0]
        assert design.chosen is not None
        assert design.chosen.worth.half_width is None
        assert design.places[0].share_of_draws is None
        assert design.optimism is None
        text = text_of(curve_table(design))
        assert "Nothing tells how sure the effects are" in text
        assert "0 combinations of operations: too few" in text
        assert "draws" not in text_of(places_table(design))


class TestText:
    def test_the_curve_and_what_it_rests_on(self, noisy: Offers) -> None:
        design = make_design(noisy, make_block_table(), 0.8)
        text = text_of(curve_table(design))
        assert "resnet_digits on Some CPU: the best for every budget of time" in text
        assert "the mean of 3 seeds. No test accuracy was looked at." in text
        assert "adds up over the sites" in text
        assert "4 combinations, each predicted from all other variants: off by 0." in text
        assert "Kendall's tau" in text
        assert "it is too good by about" in text
        assert "Some CPU, 1 thread, batch 1, contiguous, float32, eager (host" in text
        assert "4 mixed networks measured beside it give ±2." in text
        elsewhere = make_design(noisy, make_block_table(host="there"), 0.8, is_here=False)
        assert "(host there, which is another machine than this one)" in text_of(
            curve_table(elsewhere)
        )

    def test_a_long_curve_is_thinned_and_keeps_what_was_chosen(self, offers: Offers) -> None:
        design = make_design(offers, make_block_table(), 0.8)
        values = np.linspace(0.7, 1.2, 40)
        assert design.chosen is not None
        others = [replace(design.chosen, latency=Figure(v, None), options={}) for v in values]
        long = replace(design, curve=(*others[:20], design.chosen, *others[20:]))
        text = text_of(curve_table(long))
        shown = [v for v in values if f" {v:.3f} " in text]
        assert len(shown) in (11, 12)
        assert shown[0] == 0.7
        assert shown[-1] == 1.2
        assert f" {design.chosen.latency.value:.3f} " in text

    def test_plain_data_has_all_of_it(self, noisy: Offers) -> None:
        import json

        design = make_design(noisy, make_block_table(), 0.8)
        data = json.loads(json.dumps(design_data(design)))
        assert data["chosen"]["operations"] == dict(zip(SITES, operations_of(design), strict=True))
        assert data["chosen"]["sites"][0].keys() >= {
            *("address", "operation", "kernel_size", "norm_act", "share_of_draws", "effect"),
        }
        assert data["curve"][0]["relative_latency"] == pytest.approx(0.68)
        assert data["held_out"]["number"] == 4
        assert data["table"]["setting"]["device"] == "Some CPU"
        assert data["assumptions"]


class TestProof:
    def test_what_was_predicted_beside_what_was_measured(self, noisy: Offers) -> None:
        table = make_block_table()
        design = make_design(noisy, table, 0.8, 2)
        records = []
        for number, network in enumerate(best_within(0.8)[:2]):
            variant = compose(*overrides_of(network))
            from pfstudy.variant import make_variant

            record = record_of(make_variant(variant, "content"), accuracy_of(network), 88.0)
            if number:
                record["metrics"]["val_top1_percent"] = 50.0
            measured = {"relative_latency": time_of(network), "others_load": 0.0, "max_load": 1.0}
            record["speed"] = [
                {**table.setting, "batch_size": 64, "relative_latency": 9.0},
                {**table.setting, **measured},
            ]
            records.append(record)
        first, second, baseline = prove(design, records)
        assert (first.latency_holds, first.accuracy_holds) == (True, True)
        assert (second.latency_holds, second.accuracy_holds) == (True, False)
        assert baseline.num_seeds == 0
        assert first.test_top1_percent == 88
        text = describe_proof([first, second, baseline])
        assert "2 of 2 measured times and 1 of 2 validation accuracies" in text
        assert "1 network could not be trained" in text


def test_a_table_of_the_planted_times() -> None:
    table: BlockTable = make_block_table()
    assert table.baseline == pytest.approx(1)
