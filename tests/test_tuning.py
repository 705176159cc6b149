from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from configs import compose, refusal, variant_of
from pfstudy import tuning
from pfstudy.errors import PfstudyError
from pfstudy.files import write_json
from pfstudy.schema.recipe import Tune
from pfstudy.tuning import (
    TUNED,
    Point,
    check_tuning,
    choose,
    draw_points,
    is_trial,
    make_trials,
    with_chosen,
)
from pfstudy.variant import make_variant

RECIPE = compose().recipe
OWN = Point(RECIPE.lr, RECIPE.weight_decay)
TUNE = Tune(trials=8)


class TestPoints:
    def test_the_first_is_the_recipes_own(self) -> None:
        assert draw_points(RECIPE, TUNE)[0] == OWN

    def test_are_as_many_as_trials_and_differ(self) -> None:
        assert len(set(draw_points(RECIPE, TUNE))) == 8

    def test_are_the_same_whenever_they_are_drawn(self) -> None:
        first = draw_points(RECIPE, TUNE)
        tuning._draw.cache_clear()
        assert draw_points(RECIPE, TUNE) == first

    def test_another_seed_draws_others_but_for_the_first(self) -> None:
        mine, others = draw_points(RECIPE, TUNE), draw_points(RECIPE, replace(TUNE, seed=1))
        assert mine[0] == others[0]
        assert not set(mine[1:]) & set(others[1:])

    def test_more_trials_begin_with_the_same_ones(self) -> None:
        assert draw_points(RECIPE, replace(TUNE, trials=16))[:8] == draw_points(RECIPE, TUNE)

    def test_lie_within_the_factors(self) -> None:
        tune = Tune(trials=64, lr_factor=3.0, weight_decay_factor=20.0)
        for point in draw_points(RECIPE, tune):
            assert OWN.lr / 3 <= point.lr <= OWN.lr * 3
            assert OWN.weight_decay / 20 <= point.weight_decay <= OWN.weight_decay * 20

    def test_fill_the_range_evenly_by_its_logarithm(self) -> None:
        points = draw_points(RECIPE, Tune(trials=65, lr_factor=10.0))[1:]
        shares = sorted((math.log10(point.lr / OWN.lr) + 1) / 2 for point in points)
        assert max(abs(share - (i + 0.5) / 64) for i, share in enumerate(shares)) < 1.5 / 64

    def test_one_factor_of_1_keeps_that_value(self) -> None:
        points = draw_points(RECIPE, replace(TUNE, weight_decay_factor=1.0))
        assert {point.weight_decay for point in points} == {OWN.weight_decay}
        assert len({point.lr for point in points}) == 8

    def test_a_weight_decay_of_0_stays_0(self) -> None:
        points = draw_points(replace(RECIPE, weight_decay=0.0), TUNE)
        assert {point.weight_decay for point in points} == {0.0}
        assert len({point.lr for point in points}) == 8

    def test_one_trial_is_the_recipe_itself(self) -> None:
        assert draw_points(RECIPE, Tune(trials=1)) == (OWN,)


class TestTrials:
    TUNED = ("tune.trials=4", "tune.epochs=3", "tune.seed=7", "runs_dir=mine")

    def test_are_what_their_configs_say(self) -> None:
        for trial in make_trials(variant_of(*self.TUNED, "block.spatial=maxpool")):
            assert trial.hash == make_variant(trial.config, "content").hash

    def test_share_the_pairs_whatever_the_variant(self) -> None:
        pairs = [
            [(trial.config.recipe.lr, trial.config.recipe.weight_decay) for trial in trials]
            for trials in (
                make_trials(variant_of(*self.TUNED)),
                make_trials(variant_of(*self.TUNED, "block.spatial=maxpool")),
            )
        ]
        assert pairs[0] == pairs[1]

    def test_are_runs_of_their_own(self) -> None:
        trial = make_trials(variant_of(*self.TUNED, "seeds=3"))[1].config
        assert (trial.seed, trial.seeds, trial.runs_dir) == (7, None, "mine/tuning")
        assert (trial.recipe.epochs, trial.tune, trial.trainer.keep) == (3, Tune(), ())
        assert not trial.speed.enabled

    def test_the_first_is_the_untuned_variant(self) -> None:
        tuned, plain = variant_of("tune.trials=2"), variant_of()
        assert make_trials(tuned)[0].hash == plain.hash != tuned.hash

    @pytest.mark.parametrize(
        ("directory", "expected"),
        [
            pytest.param("runs/tuning/x-0123456789/seed0", True, id="trial"),
            pytest.param("runs/x-0123456789/seed0", False, id="run"),
            pytest.param("runs/tuning-0123456789/seed0", False, id="variant of that name"),
        ],
    )
    def test_are_known_by_where_they_lie(self, directory: str, expected: bool) -> None:
        assert is_trial(Path(directory)) is expected


class TestChoice:
    @pytest.mark.parametrize(
        ("accuracies", "chosen"),
        [
            pytest.param((91.0, 93.0, 92.0), 1, id="best"),
            pytest.param((91.0, 93.0, 93.0), 1, id="earliest of a tie"),
            pytest.param((93.0, 93.0, 93.0), 0, id="recipe's own of a tie of all"),
            pytest.param((None, 10.0, 11.0), 2, id="recipe's own failed"),
            pytest.param((None, 0.0, None), 1, id="one is left, and has nothing right"),
        ],
    )
    def test_is_the_best_of_those_that_did_not_fail(
        self, accuracies: tuple[float | None, ...], chosen: int
    ) -> None:
        tune = Tune(trials=3)
        found = choose(RECIPE, tune, accuracies, ("a", "b", "c"))
        assert found is not None
        assert (found["lr"], found["weight_decay"]) == (
            draw_points(RECIPE, tune)[chosen].lr,
            draw_points(RECIPE, tune)[chosen].weight_decay,
        )
        assert found["val_top1_percent"] == list(accuracies)
        assert found["failed"] == accuracies.count(None)
        assert (found["trials"], found["runs"]) == (3, ["a", "b", "c"])

    def test_there_is_none_where_all_failed(self) -> None:
        assert choose(RECIPE, Tune(trials=2), (None, None), ("a", "b")) is None


class TestChosen:
    def test_values_are_trained_with_and_the_identity_stays(self, tmp_path: Path) -> None:
        variant = variant_of("tune.trials=8")
        write_json(tmp_path / TUNED, {"lr": 0.5, "weight_decay": 0.25})
        found = with_chosen(variant, tmp_path)
        assert found.config.recipe == replace(RECIPE, lr=0.5, weight_decay=0.25)
        assert found.hash == variant.hash

    def test_what_is_not_tuned_stays_as_it_is(self, tmp_path: Path) -> None:
        variant = variant_of()
        write_json(tmp_path / TUNED, {"lr": 0.5, "weight_decay": 0.25})
        assert with_chosen(variant, tmp_path) is variant

    def test_without_a_choice_there_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"none of its 8 trials is done; .*/tuning"):
            with_chosen(variant_of("tune.trials=8"), tmp_path / "x")

    def test_a_damaged_choice_is_named(self, tmp_path: Path) -> None:
        write_json(tmp_path / TUNED, {"lr": 0.5})
        with pytest.raises(PfstudyError, match=r"tuned.json is damaged: it has no weight_decay\."):
            with_chosen(variant_of("tune.trials=8"), tmp_path)


class TestRefused:
    def test_factor_below_1(self) -> None:
        assert refusal("tune.trials=8", "tune.lr_factor=0.5") == (
            "tune.lr_factor: input should be greater than or equal to 1, but got 0.5."
        )

    def test_factor_without_an_end(self) -> None:
        assert refusal("tune.weight_decay_factor=inf").startswith("tune.weight_decay_factor: ")

    @pytest.mark.parametrize(
        "overrides",
        [
            pytest.param(("tune.weight_decay_factor=1",), id="both factors are 1"),
            pytest.param(("recipe.weight_decay=0",), id="no weight decay"),
        ],
    )
    def test_nothing_to_choose_from(self, overrides: tuple[str, ...]) -> None:
        config = compose("tune.trials=8", "tune.lr_factor=1", *overrides)
        with pytest.raises(PfstudyError, match=r"^tune\.trials=8 has nothing to choose from"):
            check_tuning(config)

    def test_one_trial_has_nothing_to_choose_from_and_is_allowed(self) -> None:
        check_tuning(compose("tune.trials=1", "tune.lr_factor=1", "tune.weight_decay_factor=1"))

    def test_without_optuna(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tuning, "find_spec", lambda name: None)
        check_tuning(compose())
        sentence = r"^tune\.trials=8 needs Optuna: pip install 'pfstudy\[search\]'\.$"
        with pytest.raises(PfstudyError, match=sentence):
            check_tuning(compose("tune.trials=8"))
