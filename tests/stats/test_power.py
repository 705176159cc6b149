from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.comparison import compare_family
from pfstudy.stats.power import MOST_SEEDS, seeds_needed, upper_deviation


def test_one_comparison_needs_what_textbooks_say() -> None:
    """Cohen 1988, Table 2.4.1: d = 0.8, two-sided 5 %, power 0.80: 26 in each group."""
    assert seeds_needed(0.8, 1.0, 1) == 26
    assert seeds_needed(-0.5, 1.0, 1) == 64


def test_more_variants_and_smaller_differences_need_more() -> None:
    numbers = [seeds_needed(1.0, 1.0, k) for k in (1, 5, 20)]
    assert None not in numbers
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]
    assert seeds_needed(0.01, 1.0, 1) is None
    assert seeds_needed(0.0, 1.0, 1) is None
    assert seeds_needed(0.1, 0.0, 1) == 2


def test_the_number_finds_the_difference_that_often() -> None:
    number = seeds_needed(0.6, 0.3, 4)
    assert number is not None
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(300):
        samples = {f"v{i}": generator.normal(98, 0.3, number).tolist() for i in range(3)}
        samples["x"] = generator.normal(98.6, 0.3, number).tolist()
        samples["original"] = generator.normal(98, 0.3, number).tolist()
        found += compare_family(samples, "original")["x"].verdict == "better"
    assert 0.75 < found / 300 < 0.95


def test_the_true_deviation_is_below_the_bound_four_times_in_five() -> None:
    generator = np.random.default_rng(0)
    seen = generator.normal(0, 1, (4000, 3)).std(axis=1, ddof=1)
    below = np.mean([upper_deviation(float(each), 2) > 1 for each in seen])
    assert below == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("num_variants", [1, 2, 4, 10, 40])
@pytest.mark.parametrize("difference", [0.1, 0.5, 1.0, 2.6, 5.0, 10.0])
def test_the_power_is_that_of_the_noncentral_t(num_variants: int, difference: float) -> None:
    number = seeds_needed(difference, 0.56, num_variants) or MOST_SEEDS

    def power(seeds: int) -> float:
        df = (num_variants + 1) * (seeds - 1)
        critical = stats.t.ppf(1 - 0.025 / num_variants, df)
        shift = difference / (0.56 * (2 / seeds) ** 0.5)
        lower = stats.nct.cdf(-critical, df, shift)
        return float(1 - stats.nct.cdf(critical, df, shift) + lower)

    if number < MOST_SEEDS and shift_is_small(difference, number):
        assert power(number) >= 0.795
        assert number == 2 or power(number - 1) < 0.805
    safe = seeds_needed(difference, 0.8, num_variants)
    assert safe is None or safe >= number


def shift_is_small(difference: float, number: int) -> bool:
    """Whether scipy's own noncentral t can be relied on."""
    return difference / (0.56 * (2 / number) ** 0.5) < 8
