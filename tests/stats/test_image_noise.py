from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtri

from pfstudy.stats.images import image_noise, score_interval

R = json.loads(Path(__file__).with_name("multcomp.json").read_text())

LOPSIDED = [
    pytest.param(0, 100, 10_000, id="0/100 of 10,000"),
    pytest.param(20, 320, 10_000, id="20/320 of 10,000"),
    pytest.param(5, 505, 10_000, id="5/505 of 10,000"),
    pytest.param(30, 330, 10_000, id="30/330 of 10,000"),
    pytest.param(1, 16, 500, id="1/16 of 500"),
]


def test_the_interval_is_that_of_tangos_example() -> None:
    """Tango 1998, Table III: 32 of 50 lost lenses in neither or both, 12 and 2 in one alone."""
    low, high = score_interval(np.array(12), np.array(2), 50, 1.959964)
    assert float(high) / 100 == pytest.approx(0.345, abs=5e-4)
    assert float(low) / 100 == pytest.approx(0.061, abs=1e-3)  # a little below, for skewness


@pytest.mark.parametrize("number", [1, 10], ids=["one variant", "ten variants"])
@pytest.mark.parametrize(("gained", "lost", "num_images"), LOPSIDED)
def test_intervals_of_lopsided_changes_cover(
    gained: int, lost: int, num_images: int, number: int
) -> None:
    generator = np.random.default_rng(0)
    shares = [gained / num_images, lost / num_images, 1 - (gained + lost) / num_images]
    drawn = generator.multinomial(num_images, shares, (4000, number))
    quantile = -float(ndtri((1 - 0.95 ** (1 / number)) / 2))
    low, high = score_interval(drawn[..., 0], drawn[..., 1], num_images, quantile)
    true = 100 * (gained - lost) / num_images
    assert np.mean(((low <= true) & (true <= high)).all(axis=1)) >= 0.94


@pytest.mark.parametrize("level", [0.95, 0.995])
@pytest.mark.parametrize(
    "case", R["paired_proportions"], ids=lambda c: f"{c['gained']}/{c['lost']} of {c['number']}"
)
def test_the_interval_is_tangos_or_a_little_wider(case: dict[str, Any], level: float) -> None:
    counts = (np.array(case["gained"]), np.array(case["lost"]), case["number"])
    low, high = score_interval(*counts, -float(ndtri((1 - level) / 2)))
    expected = [100 * case[f"level_{level}"][end] for end in ("low", "high")]
    width = expected[1] - expected[0]
    assert expected[0] - 0.12 * width <= low <= expected[0] + 1e-6
    assert expected[1] - 1e-6 <= high <= expected[1] + 0.12 * width


def test_the_interval_leaves_0_out_where_the_score_does() -> None:
    gained, lost = np.meshgrid(np.arange(25), np.arange(40))
    low, high = score_interval(gained, lost, 500, 1.96)
    mcnemar = (gained - lost) / np.sqrt(np.maximum(gained + lost, 1))
    estimate = 100 * (gained - lost) / 500
    assert (low <= estimate).all()
    assert (estimate <= high).all()
    excludes = (low > 1e-9) | (high < -1e-9)
    assert (excludes == (np.abs(mcnemar) > 1.96)).all()


def test_nothing_changed_is_no_certainty() -> None:
    low, high = score_interval(np.array(0), np.array(0), 500, 1.96)
    assert float(high) == pytest.approx(100 * 1.96**2 / (500 + 1.96**2), rel=1e-3)
    assert float(low) == pytest.approx(-float(high))


def by_definition(correct_VSN: np.ndarray, baseline_SN: np.ndarray) -> tuple[np.ndarray, ...]:
    """Two-way analysis of variance by its textbook sums, in points."""
    change = 100.0 * (correct_VSN.astype(float) - baseline_SN)
    _, seeds, images = change.shape
    of_seeds = change.mean(axis=2, keepdims=True)
    of_images = change.mean(axis=1, keepdims=True)
    left = change - of_seeds - of_images + change.mean(axis=(1, 2), keepdims=True)
    residual = (left**2).sum(axis=(1, 2)) / ((seeds - 1) * (images - 1)) / (seeds * images)
    return of_images[:, 0].var(axis=1, ddof=1) / images, residual


def test_the_noise_of_images_is_that_of_an_analysis_of_variance() -> None:
    generator = np.random.default_rng(0)
    hard = generator.random(400)
    right = generator.random((4, 5, 400)) < 0.3 + 0.7 * hard
    noise = image_noise(right[1:], right[0])
    total, residual = by_definition(right[1:], right[0])
    assert noise.residual_V == pytest.approx(residual)
    assert noise.total_V == pytest.approx(total, rel=0.03)  # two images more
    assert noise.num_images == 400
    change = right[1:].mean(axis=1) - right[0].mean(axis=0)
    squares = noise.unit_V**2 * (noise.gained_V + noise.lost_V)
    assert squares == pytest.approx((change**2).sum(axis=1))
    sums = noise.unit_V * (noise.gained_V - noise.lost_V)
    assert sums == pytest.approx(change.sum(axis=1), abs=1e-9)


def test_of_one_seed_the_images_are_counted() -> None:
    right = np.random.default_rng(0).random((3, 1, 500)) < 0.8
    noise = image_noise(right[1:], right[0])
    assert noise.gained_V == pytest.approx((right[1:] & ~right[0]).sum(axis=(1, 2)))
    assert noise.lost_V == pytest.approx((~right[1:] & right[0]).sum(axis=(1, 2)))
    assert noise.unit_V == pytest.approx(1)


@pytest.mark.parametrize("lost", [5, 10, 20, 100])
def test_networks_that_lose_the_same_images_are_no_more_images(lost: int) -> None:
    """Three seeds that lose the same of 10,000 images: as many as one seed would lose."""
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        base = np.ones((3, 10_000), bool)
        other = base & ~(generator.random((10, 1, 10_000)) < lost / 10_000)
        low, high = image_noise(other, base).ends(-float(ndtri((1 - 0.95**0.1) / 2)))
        covered.append(((low <= -lost / 100) & (-lost / 100 <= high)).all())
    assert np.mean(covered) >= 0.93


def test_of_one_seed_the_residual_is_not_known() -> None:
    right = np.random.default_rng(0).random((3, 1, 50)) < 0.8
    assert np.isnan(image_noise(right[1:], right[0]).residual_V).all()
