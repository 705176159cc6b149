from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.comparison import (
    Estimate,
    Population,
    decide,
    deviation_of,
    estimate,
    moderate,
    moderated_df,
    withhold,
)

FAR = 1e-9
R = json.loads(Path(__file__).with_name("multcomp.json").read_text())


def family(*rows: list[float]) -> np.ndarray:
    return np.array(rows, float)


def noise(generator: np.random.Generator, *shape: int, correlation: float = 0.6) -> np.ndarray:
    """Errors of variants, which share a part for each seed."""
    shared = generator.standard_normal((*shape[:-2], 1, shape[-1]))
    own = generator.standard_normal(shape)
    return correlation**0.5 * shared + (1 - correlation) ** 0.5 * own


def draw_images(
    generator: np.random.Generator, families: int, variants: int, seeds: int, images: int
) -> np.ndarray:
    """Which images are right: difficulty, what variants find hard, what each training does."""
    logits = 1.2 + generator.normal(0, 1, (families, 1, 1, images))
    logits = logits + generator.normal(0, 0.5, (families, variants + 1, 1, images))
    logits = logits + generator.normal(0, 0.05, (families, variants + 1, seeds, 1))
    right: np.ndarray = generator.normal(0, 0.7, (*logits.shape[:3], images)) < logits
    return right


class TestSeeds:
    def test_one_variant_has_the_paired_t_test(self) -> None:
        generator = np.random.default_rng(0)
        base, other = generator.normal(98, 0.3, 5), generator.normal(97.6, 0.3, 5)
        made = estimate(family(base, other), None, "seeds")
        expected = stats.ttest_rel(other, base)
        low, high = made.ends(1)
        interval = expected.confidence_interval(0.95)
        assert [low[0], high[0]] == pytest.approx([interval.low, interval.high])
        assert made.p_values(1)[0] == pytest.approx(expected.pvalue)

    def test_what_seeds_share_is_no_error(self) -> None:
        shared = np.array([0.0, 1.0, -2.0, 3.0])
        made = estimate(family(97 + shared, 96.5 + shared + [0, 0.1, 0, -0.1]), None, "seeds")
        low, high = made.ends(1)
        assert high[0] < 0
        assert high[0] - low[0] < 0.3

    @pytest.mark.parametrize("data", R["comparisons"], ids=lambda data: data["name"])
    def test_intervals_are_those_of_r(self, data: dict[str, Any]) -> None:
        """multcomp where it takes the degrees of freedom, and R's own integration elsewhere."""
        expected = data["moderated"]
        made = estimate(np.array(data["accuracies"]), None, "seeds", data["step"])
        number = data["num_variants"]
        low, high = made.ends(number)
        assert made.differences_V == pytest.approx(np.array(expected["difference"]), abs=1e-8)
        assert made.errors == pytest.approx(np.array(expected["standard_error"]), rel=1e-7)
        assert made.df == pytest.approx(np.full(number, expected["df"]))
        for name, tolerance in (("integration", 1e-5), ("glht", 1e-3)):
            if name in expected:
                of_r = expected[name]
                assert low == pytest.approx(np.array(of_r["low"]), abs=tolerance)
                assert high == pytest.approx(np.array(of_r["high"]), abs=tolerance)
                assert made.p_values(number) == pytest.approx(np.array(of_r["p_value"]), abs=1e-3)

    def test_the_variance_is_between_its_own_and_the_familys(self) -> None:
        variances, df = moderate(np.array([1.0, 4.0]), np.array([4, 4]))
        # d0 = 4 / 2 * 1 / 2 = 1, and the mean is 2.5
        assert variances == pytest.approx([(2.5 + 4) / 5, (2.5 + 16) / 5])
        assert df == pytest.approx([5, 5])
        assert float(moderated_df(4, 2)) == 5

    def test_the_family_counts_as_two_seeds_at_most(self) -> None:
        """With many seeds, the own variance of each is what counts."""
        variances, df = moderate(np.array([1.0, 25.0]), np.array([99, 99]))
        assert variances == pytest.approx([1, 25], rel=0.15)
        assert df == pytest.approx([100, 100])

    def test_a_variant_of_one_seed_borrows_the_spread_of_the_others(self) -> None:
        base = [98.0, 98.2, 98.4]
        rows = family(base, [95.0, 95.3, 95.1], [98.1, 98.3, 98.0], [94.0, np.nan, np.nan])
        made = estimate(rows, None, "seeds")
        low, high = made.ends(3)
        assert made.num_seeds_V.tolist() == [3, 3, 1]
        assert 0 < made.df[2] < made.df[0]
        assert high[2] - low[2] > high[0] - low[0]
        assert np.isfinite(made.p_values(3)).all()

    def test_differences_are_of_the_seeds_that_both_have(self) -> None:
        base = [98.0, 97.0, 99.0, 90.0, 90.0]
        made = estimate(family(base, [97.0, 96.5, 97.5, np.nan, np.nan]), None, "seeds")
        assert made.differences_V[0] == pytest.approx(-1)
        assert made.df[0] == 2

    def test_seeds_that_all_agree_tell_nothing(self) -> None:
        made = estimate(family([98.0, 98.0], [97.0, 97.0]), None, "seeds")
        low, high = made.ends(1)
        assert np.isnan([low, high, made.p_values(1)]).all()
        assert decide(float(low[0]), float(high[0])) is None

    def test_a_spread_below_the_resolution_is_not_believed(self) -> None:
        made = estimate(family([98.0] * 3, [97.8] * 3), None, "seeds", 0.2)
        low, high = made.ends(1)
        assert low[0] < -0.4 < 0 < high[0]
        assert made.errors[0] == pytest.approx(0.2 / 18**0.5)  # of two rounded figures

    @pytest.mark.parametrize("ratio", [1, 5], ids=["alike", "the baseline varies more"])
    @pytest.mark.parametrize(("variants", "seeds"), [(4, 3), (10, 5)], ids=["4x3", "10x5"])
    def test_of_true_nulls_few_families_have_a_finding(
        self, variants: int, seeds: int, ratio: float
    ) -> None:
        """A pre-test for equal variances had found something in up to 21 % of them."""
        errors = noise(np.random.default_rng(1), 4000, variants + 1, seeds)
        errors[:, 0] *= ratio
        made = estimate(errors, None, "seeds")
        low, high = made.ends(variants)
        wrong = ((low > 0) | (high < 0)).any(axis=1).mean()
        assert wrong < (0.07 if ratio == 1 or seeds == 5 else 0.095)

    def test_shared_seeds_find_what_separate_ones_do_not(self) -> None:
        errors = noise(np.random.default_rng(2), 4000, 5, 5)
        errors[:, 1] -= 1.5
        _, high = estimate(errors, None, "seeds").ends(4)
        pooled = errors.var(axis=2, ddof=1).mean(axis=1) * 2 / 5
        distance = errors[:, 1].mean(axis=1) - errors[:, 0].mean(axis=1)
        dunnett = distance / np.sqrt(pooled) < -2.651  # Dunnett 1964: 4 treatments, 20 df
        assert np.mean(high[:, 0] < 0) > 1.4 * np.mean(dunnett)


class TestImages:
    IMAGES = 500

    def one(self, gained: int, lost: int, number: int = 1) -> tuple[Estimate, int]:
        base = np.arange(self.IMAGES) < 400
        other = base.copy()
        other[:lost] = False
        other[400 : 400 + gained] = True
        right = [[base], *[[other]] * number]
        return estimate(self.accuracies(right), right, "images"), number

    @staticmethod
    def accuracies(right: Any) -> np.ndarray:
        return np.array([[100 * each.mean() for each in runs] for runs in right])

    @pytest.mark.parametrize("number", [1, 4])
    def test_the_interval_and_the_p_value_agree(self, number: int) -> None:
        for gained in range(0, 25):
            for lost in range(0, 40, 3):
                made, _ = self.one(gained, lost, number)
                low, high = made.ends(number)
                assert low[0] <= made.differences_V[0] <= high[0]
                excludes = low[0] > FAR or high[0] < -FAR
                assert excludes == (made.p_values(number)[0] < 0.05)

    def test_without_predictions_nothing_is_said(self) -> None:
        made = estimate(family([60.0], [40.0]), None, "images")
        assert made.differences_V[0] == -20
        assert np.isnan(made.ends(1)).all()
        assert np.isnan(made.p_values(1)).all()

    def test_several_seeds_of_trained_networks_are_averaged(self) -> None:
        right = draw_images(np.random.default_rng(3), 1, 1, 3, 2000)[0]
        made = estimate(self.accuracies(right), [list(runs) for runs in right], "images")
        gain = 100 * (right[1].mean(axis=0) - right[0].mean(axis=0))
        low, high = made.ends(1)
        half = 1.96 * gain.std(ddof=1) / 2000**0.5
        assert (high[0] - low[0]) / 2 == pytest.approx(half, rel=0.02)


class TestBoth:
    def test_it_is_wider_than_either_alone(self) -> None:
        generator = np.random.default_rng(4)
        for _ in range(50):
            right = draw_images(generator, 1, 4, 3, 300)[0]
            accuracies = 100 * right.mean(axis=2)
            widths = {}
            for population in ("both", "seeds", "images"):
                made = estimate(accuracies, list(map(list, right)), population, 1 / 3)
                low, high = made.ends(4)
                widths[population] = high - low
            assert (widths["both"] >= widths["seeds"] - FAR).all()
            assert (widths["both"] >= 0.97 * widths["images"]).all()

    def test_the_residual_is_counted_once(self) -> None:
        """Independent errors of every run: images add nothing to the spread between seeds."""
        right = np.random.default_rng(5).random((2, 10, 4000)) < 0.8
        made = estimate(100 * right.mean(axis=2), list(map(list, right)), "both")
        assert made.image_errors_V[0] < 0.5 * made.seed_errors_V[0]

    def test_a_difference_of_one_image_is_no_finding(self) -> None:
        """98.0 three times against 98.2 three times was better, p = 0.013, by the seeds alone."""
        base = np.arange(500) < 490
        other = np.arange(500) < 491
        right = [[base] * 3, [other] * 3]
        made = estimate(TestImages.accuracies(right), right, "both", 0.2)
        low, high = made.ends(1)
        assert decide(float(low[0]), float(high[0])) == "undecided"
        assert made.p_values(1)[0] > 0.05

    @pytest.mark.parametrize("population", ["both", "seeds"])
    def test_new_images_are_covered_by_both_alone(self, population: Population) -> None:
        right = draw_images(np.random.default_rng(6), 1000, 1, 5, 300)
        made = estimate(100 * right.mean(axis=3), right, population, 1 / 3)
        low, high = made.ends(1)
        covered = float(np.mean((low <= 0) & (high >= 0)))
        assert covered >= 0.94 if population == "both" else covered < 0.9

    def test_many_families_are_those_of_each(self) -> None:
        right = draw_images(np.random.default_rng(7), 3, 2, 3, 200)
        accuracies = 100 * right.mean(axis=3)
        together = np.array(estimate(accuracies, right, "both", 0.5).ends(2))
        for index in range(3):
            alone = estimate(accuracies[index], list(map(list, right[index])), "both", 0.5).ends(2)
            assert together[:, index] == pytest.approx(np.array(alone))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("low", "high", "margin", "expected"),
        [
            pytest.param(0.1, 0.9, 0.0, "better", id="above"),
            pytest.param(-0.9, -0.1, 0.0, "worse", id="below"),
            pytest.param(-0.4, 0.9, 0.0, "undecided", id="around"),
            pytest.param(0.1, 0.9, 0.5, "better", id="above, with a margin"),
            pytest.param(-0.4, 0.9, 0.5, "not worse", id="within the margin"),
            pytest.param(-0.4, -0.1, 0.5, "not worse", id="below, within the margin"),
            pytest.param(-0.9, -0.1, 0.5, "worse", id="below, perhaps beyond the margin"),
            pytest.param(-0.9, 0.1, 0.5, "undecided", id="around the margin"),
            pytest.param(-0.5, 0.1, 0.5, "undecided", id="at the margin"),
            pytest.param(math.nan, math.nan, 0.5, None, id="without an interval"),
        ],
    )
    def test_they_are_read_off_the_interval(
        self, low: float, high: float, margin: float, expected: str | None
    ) -> None:
        assert decide(low, high, margin) == expected

    @pytest.mark.parametrize(
        ("verdict", "lost", "baseline_lost", "expected"),
        [
            pytest.param("better", True, False, "undecided", id="better without a failed run"),
            pytest.param("not worse", True, False, "undecided", id="not worse without it"),
            pytest.param("worse", True, False, "worse", id="worse even so"),
            pytest.param("worse", False, True, "undecided", id="baseline without a failed run"),
            pytest.param("better", False, True, "better", id="better even so"),
            pytest.param(None, True, True, None, id="none"),
        ],
    )
    def test_failed_runs_flatter_nobody(
        self, verdict: Any, lost: bool, baseline_lost: bool, expected: str | None
    ) -> None:
        assert withhold(verdict, lost=lost, baseline_lost=baseline_lost) == expected


def test_the_spread_between_seeds_is_of_one_variant() -> None:
    errors = noise(np.random.default_rng(8), 41, 2000, correlation=0.0)
    deviation, df = deviation_of(estimate(0.3 * errors, None, "seeds"))
    assert deviation == pytest.approx(0.3, rel=0.05)
    assert df == pytest.approx(1999 * 4 * 40 / 43)
    assert deviation_of(estimate(errors[:, :1], None, "seeds")) == (0.0, 0.0)
