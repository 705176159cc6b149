from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.looks import familywise_error, level_of_each

UNEQUAL = [
    pytest.param([3, 5, 10], id="three"),
    pytest.param([2, 3], id="two"),
    pytest.param([1, 2, 50, 51], id="far and near"),
    pytest.param([1000, 1001, 1002], id="almost the same"),
]


def error_of_scipy(looks: Sequence[int], level: float) -> float:
    """One minus the probability that the statistics all lie within the limits."""
    numbers = np.asarray(looks, float)
    correlations = np.sqrt(np.minimum.outer(numbers, numbers) / np.maximum.outer(numbers, numbers))
    limits = np.full(len(looks), stats.norm.isf(level / 2))
    normal = stats.multivariate_normal(cov=correlations, abseps=1e-6, releps=1e-6, seed=0)
    return 1 - float(normal.cdf(limits, lower_limit=-limits))


def errors_at_looks(looks: Sequence[int], level: float, generator: np.random.Generator) -> float:
    """Share of simulated studies without a difference that reject at one look at least."""
    added = np.diff([0, *looks])
    steps = generator.normal(size=(400_000, len(looks))) * np.sqrt(added)
    statistics = np.cumsum(steps, axis=1) / np.sqrt(looks)
    return float((np.abs(statistics) >= stats.norm.isf(level / 2)).any(axis=1).mean())


class TestLevelOfEach:
    @pytest.mark.parametrize(
        ("num_looks", "published"),
        [(2, 0.0294), (3, 0.0221), (4, 0.0182), (5, 0.0158), (10, 0.0106)],
    )
    def test_equal_steps_are_pocock_s(self, num_looks: int, published: float) -> None:
        looks = [4 * number for number in range(1, num_looks + 1)]
        assert level_of_each(looks) == pytest.approx(published, abs=5e-5)

    @pytest.mark.parametrize("looks", UNEQUAL)
    @pytest.mark.parametrize("level", [0.05, 0.01])
    def test_looks_together_have_the_level(self, looks: list[int], level: float) -> None:
        each = level_of_each(looks, level)
        assert level / len(looks) < each < level
        assert error_of_scipy(looks, each) == pytest.approx(level, abs=1e-5)

    def test_simulation(self) -> None:
        looks = [3, 5, 10]
        generator = np.random.default_rng(0)
        assert errors_at_looks(looks, level_of_each(looks), generator) == pytest.approx(
            0.05, abs=0.0015
        )

    @pytest.mark.parametrize("looks", [[], [7]], ids=["none", "one"])
    def test_one_look_has_the_level_itself(self, looks: list[int]) -> None:
        assert level_of_each(looks) == 0.05
        assert level_of_each(looks, 0.01) == 0.01

    def test_depends_on_ratios_alone(self) -> None:
        assert level_of_each([3, 5, 10]) == pytest.approx(level_of_each([30, 50, 100]), rel=1e-9)

    def test_is_the_same_for_every_kind_of_sequence(self) -> None:
        assert level_of_each([3, 5, 10]) == level_of_each((3, 5, 10))

    def test_many_looks_far_beyond_any_study(self) -> None:
        looks = [*range(1, 101), 10**6, 10**6 + 1]
        assert 0.05 / len(looks) <= level_of_each(looks) < level_of_each(looks[:5])


class TestFamilywiseError:
    @pytest.mark.parametrize("looks", UNEQUAL)
    def test_is_that_of_scipy(self, looks: list[int]) -> None:
        assert familywise_error(looks) == pytest.approx(error_of_scipy(looks, 0.05), abs=1e-5)

    def test_simulation(self) -> None:
        generator = np.random.default_rng(1)
        found = errors_at_looks([3, 5, 10], 0.05, generator)
        assert familywise_error([3, 5, 10]) == pytest.approx(found, abs=0.002)

    @pytest.mark.parametrize(("looks", "error"), [([], 0.0), ([7], 0.05)], ids=["none", "one"])
    def test_fewer_than_two_looks(self, looks: list[int], error: float) -> None:
        assert familywise_error(looks) == error
