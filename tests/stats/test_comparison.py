from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.comparison import Comparison, compare_family

BASE = "original"


def correct_of(**images: Sequence[int]) -> dict[str, np.ndarray]:
    return {name: np.array(each, bool) for name, each in images.items()}


class TestSeveralSeeds:
    SAMPLES: Mapping[str, Sequence[float]] = {
        BASE: [98.0, 98.2, 98.4],
        "worse": [95.0, 95.3, 95.1],
        "alike": [98.1, 98.3, 98.0],
        "better": [99.5, 99.4, 99.7],
    }

    def test_differences_have_verdicts(self) -> None:
        found = compare_family(self.SAMPLES, BASE)
        assert {name: c.verdict for name, c in found.items()} == {
            "worse": "worse",
            "alike": "not distinguishable",
            "better": "better",
        }
        assert {c.test for c in found.values()} == {"dunnett"}

    def test_intervals_and_p_values_are_those_of_scipy(self) -> None:
        names = [name for name in self.SAMPLES if name != BASE]
        expected = stats.dunnett(
            *(self.SAMPLES[name] for name in names),
            control=self.SAMPLES[BASE],
            rng=np.random.default_rng(0),
        )
        interval = expected.confidence_interval(0.95)
        found = compare_family(self.SAMPLES, BASE)
        for index, name in enumerate(names):
            assert found[name].p_value == pytest.approx(expected.pvalue[index], abs=1e-3)
            assert found[name].low == pytest.approx(interval.low[index], abs=5e-3)
            assert found[name].high == pytest.approx(interval.high[index], abs=5e-3)

    def test_a_variant_of_one_seed_borrows_the_spread_of_the_others(self) -> None:
        found = compare_family({**self.SAMPLES, "single": [95.0]}, BASE)
        assert found["single"].verdict == "worse"
        single, worse = found["single"], found["worse"]
        assert single.low is not None
        assert single.high is not None
        assert worse.low is not None
        assert worse.high is not None
        assert single.high - single.low > worse.high - worse.low

    def test_variances_that_differ_clearly_are_not_pooled(self) -> None:
        generator = np.random.default_rng(0)
        samples = {
            BASE: generator.normal(98, 0.05, 5),
            "steady": generator.normal(97.5, 0.05, 5),
            "wild": generator.normal(97.5, 3.0, 5),
        }
        found = compare_family({name: s.tolist() for name, s in samples.items()}, BASE)
        assert {c.test for c in found.values()} == {"welch"}
        assert found["steady"].verdict == "worse"
        assert found["wild"].verdict == "not distinguishable"
        expected = stats.ttest_ind(samples["steady"], samples[BASE], equal_var=False)
        assert found["steady"].p_value == pytest.approx(2 * expected.pvalue)
        interval = expected.confidence_interval(0.975)  # Bonferroni's, of two
        assert found["steady"].low == pytest.approx(interval.low)
        assert found["steady"].high == pytest.approx(interval.high)

    def test_seeds_that_all_agree_tell_nothing(self) -> None:
        found = compare_family({BASE: [98.0, 98.0], "x": [97.0, 97.0]}, BASE)
        assert found["x"] == Comparison(-1.0)

    def test_a_spread_below_the_resolution_is_not_believed(self) -> None:
        samples = {BASE: [98.0, 98.0, 98.0], "x": [97.8, 97.8, 97.8]}
        found = compare_family(samples, BASE, resolution=0.2)
        assert found["x"].verdict is not None
        assert found["x"].low is not None
        assert found["x"].low < -0.2

    def test_of_true_nulls_one_family_in_twenty_has_a_finding(self) -> None:
        generator = np.random.default_rng(1)
        wrong = 0
        for _ in range(400):
            samples = {f"v{i}": generator.normal(98, 0.3, 3).tolist() for i in range(5)}
            found = compare_family({BASE: generator.normal(98, 0.3, 3).tolist(), **samples}, BASE)
            wrong += any(c.verdict != "not distinguishable" for c in found.values())
        assert 0.02 < wrong / 400 < 0.085


class TestOneSeed:
    def test_the_test_images_are_compared(self) -> None:
        images = correct_of(original=[1] * 60 + [0] * 40, maxpool=[1] * 40 + [0] * 60)
        found = compare_family({BASE: [60.0], "maxpool": [40.0]}, BASE, images.get)["maxpool"]
        assert found.test == "mcnemar"
        assert found.difference == -20
        assert found.p_value == pytest.approx(stats.binomtest(0, 20).pvalue)
        assert found.verdict == "worse"
        assert found.low is not None
        assert found.high is not None
        assert found.low < -20 < found.high < 0

    def test_the_p_value_is_corrected_for_the_number_of_variants(self) -> None:
        images = correct_of(
            original=[1] * 10 + [0] * 90, a=[1] * 16 + [0] * 84, b=[1] * 10 + [0] * 90
        )
        found = compare_family({BASE: [10.0], "a": [16.0], "b": [10.0]}, BASE, images.get)
        assert found["a"].p_value == pytest.approx(2 * stats.binomtest(6, 6).pvalue)
        assert found["a"].verdict == "not distinguishable"
        assert found["b"].p_value == 1

    def test_without_predictions_nothing_is_said(self) -> None:
        found = compare_family({BASE: [60.0], "maxpool": [40.0]}, BASE)
        assert found["maxpool"] == Comparison(-20.0)

    def test_intervals_cover(self) -> None:
        generator = np.random.default_rng(2)
        covered = 0
        for _ in range(300):
            both = generator.random(500)
            images = {
                BASE: both < 0.9,
                "x": np.where(generator.random(500) < 0.1, generator.random(500) < 0.6, both < 0.9),
            }
            true = 100 * (0.1 * 0.6 + 0.9 * 0.9 - 0.9)
            samples = {name: [100 * float(each.mean())] for name, each in images.items()}
            found = compare_family(samples, BASE, images.get)["x"]
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= true <= found.high
        assert 0.91 < covered / 300 <= 1

    @pytest.mark.parametrize("num_others", [1, 4])
    def test_the_interval_and_the_verdict_agree(self, num_others: int) -> None:
        for gained in range(0, 25):
            for lost in range(0, 40, 3):
                images = {BASE: np.arange(500) < 400}
                other = images[BASE].copy()
                other[:lost] = False
                other[400 : 400 + gained] = True
                images |= {f"v{i}": other for i in range(num_others)}
                samples = {name: [100 * float(each.mean())] for name, each in images.items()}
                found = compare_family(samples, BASE, images.get)["v0"]
                assert found.low is not None
                assert found.high is not None
                assert found.low <= found.difference <= found.high
                excludes = found.low > 0 or found.high < 0
                assert excludes == (found.verdict != "not distinguishable")


def test_a_baseline_alone_is_compared_with_nothing() -> None:
    assert compare_family({BASE: [98.0, 97.0]}, BASE) == {}
