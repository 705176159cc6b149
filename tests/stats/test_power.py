from __future__ import annotations

import numpy as np
import pytest

from pfstudy.stats.comparison import estimate
from pfstudy.stats.power import Spread, least_distance, power_of, seeds_needed, upper_deviation


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        pytest.param(0.8, 15, id="d = 0.8"),
        pytest.param(-0.5, 34, id="d = 0.5"),
        pytest.param(0.2, 199, id="d = 0.2"),
    ],
)
def test_one_comparison_needs_what_a_paired_t_test_does(distance: float, expected: int) -> None:
    """G*Power 3.1, two dependent means, two-sided 5 %, power 0.80."""
    assert seeds_needed(distance, Spread(1.0, 0.0, 1)) == expected


def test_more_variants_and_smaller_distances_need_more() -> None:
    numbers = [seeds_needed(1.0, Spread(1.0, 0.0, k)) for k in (1, 5, 20)]
    assert None not in numbers
    assert numbers == sorted(set(numbers))  # type: ignore[type-var]
    assert seeds_needed(0.01, Spread(1.0, 0.0, 1)) is None
    assert seeds_needed(0.1, Spread(0.0, 0.0, 1)) == 2


def test_a_higher_confidence_needs_more() -> None:
    usual, looks = (seeds_needed(0.5, Spread(0.5, 0.0, 4, c)) for c in (0.95, 0.978))
    assert usual is not None
    assert looks is not None
    assert looks > usual


@pytest.mark.parametrize("images", [0.0, 0.1], ids=["seeds", "seeds and images"])
def test_the_number_shows_the_margin_that_often(images: float) -> None:
    """Variants that lose nothing are shown to lose no more than 0.6 points."""
    number = seeds_needed(0.6, Spread(0.5, images, 4))
    assert number is not None
    generator = np.random.default_rng(0)
    errors = generator.normal(0, 0.5 / 2**0.5, (3000, 5, number))
    made = estimate(errors, None, "seeds")
    low, _ = made.ends(4)
    shown = np.mean(low[:, 0] + generator.normal(0, images, 3000) > -0.6)
    assert shown > 0.72
    if not images:
        assert shown < 0.9


def test_images_are_the_limit_of_what_seeds_decide() -> None:
    spread = Spread(0.5, 0.3, 4)
    least = least_distance(spread)
    assert seeds_needed(0.95 * least, spread) is None
    assert power_of(10**9, 1.02 * least, spread) > 0.8


def test_the_true_deviation_is_below_the_bound_four_times_in_five() -> None:
    generator = np.random.default_rng(0)
    seen = generator.normal(0, 1, (4000, 3)).std(axis=1, ddof=1)
    below = np.mean([upper_deviation(float(each), 2) > 1 for each in seen])
    assert below == pytest.approx(0.8, abs=0.02)
