from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from pfstudy.errors import PfstudyError
from pfstudy.stats.ranking import LEAST_VARIANTS, RankCorrelation, rank_correlation

R = json.loads(Path(__file__).with_name("multcomp.json").read_text())


def by_definition(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b, pair by pair."""
    difference = sum(
        np.sign(first[i] - first[j]) * np.sign(second[i] - second[j])
        for i, j in combinations(range(len(first)), 2)
    )
    untied = [
        sum(bool(scores[i] != scores[j]) for i, j in combinations(range(len(scores)), 2))
        for scores in (first, second)
    ]
    return float(difference / np.sqrt(untied[0] * untied[1]))


def normal(
    tau: float, number: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    rho = np.sin(np.pi / 2 * tau)
    first, other = generator.standard_normal((2, number))
    return first, rho * first + np.sqrt(1 - rho**2) * other


def covers(found: RankCorrelation, tau: float) -> bool:
    assert found.low is not None
    assert found.high is not None
    return found.low <= tau <= found.high


@pytest.mark.parametrize("seed", range(20))
def test_tau_is_what_it_is_by_definition_and_inside_its_interval(seed: int) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.integers(0, 6, (2, 4 + seed)).astype(float)  # with ties
    found = rank_correlation(*scores, draws=200)
    assert found.tau == pytest.approx(by_definition(*scores))
    assert covers(found, by_definition(*scores))
    assert found.number == 4 + seed
    if found.number > 7:  # of fewer, all orders are counted
        assert found.p_value == pytest.approx(stats.kendalltau(*scores).pvalue)


@pytest.mark.parametrize("case", R["kendall"], ids=lambda case: str(case["y"]))
def test_of_few_with_ties_all_orders_are_counted(case: dict[str, Any]) -> None:
    """R's own enumeration; the normal approximation makes 0.071 of the 0.167 of the first."""
    found = rank_correlation(case["x"], case["y"])
    assert found.tau == pytest.approx(case["tau_b"])
    assert found.p_value == pytest.approx(case["p_value"])


def test_a_draw_of_the_bootstrap_is_a_tau_b_of_the_drawn_variants() -> None:
    generator = np.random.default_rng(0)
    first, second = normal(0.4, 30, generator)
    found = rank_correlation(first, second, seed=3, draws=2000)
    drawn = generator.integers(0, 30, (2000, 30))
    taus = [stats.kendalltau(first[each], second[each]).statistic for each in drawn]
    tail = stats.norm.cdf(-np.sqrt(30 / 29) * stats.t.ppf(0.975, 29))
    assert [found.low, found.high] == pytest.approx(np.quantile(taus, [tail, 1 - tail]), abs=0.03)


def test_the_same_seed_gives_the_same_interval() -> None:
    scores = normal(0.5, 12, np.random.default_rng(0))
    assert rank_correlation(*scores) == rank_correlation(*scores)
    assert rank_correlation(*scores, seed=1) != rank_correlation(*scores)


def test_reversing_a_score_reverses_everything() -> None:
    scores = normal(0.5, 12, np.random.default_rng(0))
    found, reverse = rank_correlation(*scores), rank_correlation(scores[0], -scores[1])
    ends = [reverse.tau, reverse.low, reverse.high]
    assert ends == pytest.approx([-(each or 0) for each in (found.tau, found.high, found.low)])
    assert reverse.p_value == pytest.approx(found.p_value)


@pytest.mark.parametrize(("number", "tau"), [(10, 0.6), (20, 0.3), (20, 0.9), (30, 0.6)])
def test_the_interval_covers_the_true_tau(number: int, tau: float) -> None:
    generator = np.random.default_rng(0)
    samples = [normal(tau, number, generator) for _ in range(300)]
    covered = [covers(rank_correlation(*each, draws=400), tau) for each in samples]
    assert np.mean(covered) >= 0.94


@pytest.mark.parametrize("number", [4, 5, 8, 10, 20])
def test_all_pairs_agreeing_does_not_make_it_certain(number: int) -> None:
    """At the lower end, all pairs of normal scores agree in fewer than 1 of 40 samples."""
    ranks = np.arange(number)
    found, reverse = rank_correlation(ranks, ranks), rank_correlation(ranks, -ranks)
    assert (found.tau, found.high) == (pytest.approx(1), 1)
    assert (reverse.low, reverse.high) == (-1, pytest.approx(-(found.low or 0)))
    assert found.low is not None
    generator = np.random.default_rng(0)
    samples = [normal(found.low, number, generator) for _ in range(2000)]
    agreeing = [np.array_equal(np.argsort(first), np.argsort(second)) for first, second in samples]
    assert np.mean(agreeing) < 0.025


class TestNoise:
    TAU = 0.6
    NOISE = 0.8

    def test_the_interval_covers_what_noise_hides(self) -> None:
        generator = np.random.default_rng(0)
        hidden, freed = [], []
        for _ in range(300):
            first, second = normal(self.TAU, 20, generator)
            second = second + self.NOISE * generator.standard_normal(20)
            errors = np.full(20, self.NOISE)
            hidden.append(covers(rank_correlation(first, second, draws=400), self.TAU))
            found = rank_correlation(first, second, errors=errors, draws=400)
            freed.append(covers(found, self.TAU))
        assert np.mean(hidden) < 0.92
        assert np.mean(freed) >= 0.95

    def test_it_moves_the_ends_outwards_only(self) -> None:
        scores = normal(0.5, 15, np.random.default_rng(1))
        widths = []
        for noise in (0.0, 0.2, 0.5, 0.9, 5.0):
            found = rank_correlation(*scores, errors=np.full(15, noise))
            assert covers(found, found.tau or 0)
            widths.append((found.high or 0) - (found.low or 0))
        assert widths == sorted(widths)
        assert rank_correlation(*scores, errors=np.zeros(15)) == rank_correlation(*scores)

    def test_nothing_but_noise_leaves_everything_open_above(self) -> None:
        scores = normal(0.8, 30, np.random.default_rng(1))
        clear = rank_correlation(*scores)
        found = rank_correlation(*scores, errors=np.full(30, 10.0))
        assert (found.low, found.high, found.tau) == (clear.low, 1, clear.tau)


class TestTooLittle:
    @pytest.mark.parametrize("number", [2, LEAST_VARIANTS - 1])
    def test_few_variants_have_no_interval(self, number: int) -> None:
        found = rank_correlation(np.arange(number), np.arange(number))
        assert found.tau == pytest.approx(1)
        assert (found.low, found.high, found.number) == (None, None, number)

    @pytest.mark.parametrize(
        "scores",
        [
            pytest.param(([], []), id="none"),
            pytest.param(([1.0], [2.0]), id="one"),
            pytest.param(([1.0, 2, 3, 4], [5.0, 5, 5, 5]), id="tied"),
        ],
    )
    def test_what_cannot_be_ranked_has_no_tau(
        self, scores: tuple[list[float], list[float]]
    ) -> None:
        number = len(scores[0])
        assert rank_correlation(*scores) == RankCorrelation(None, None, None, number, None)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_what_is_no_number_is_refused(self, value: float) -> None:
        with pytest.raises(PfstudyError, match="a score is not one"):
            rank_correlation([1.0, 2, 3], [1.0, value, 3])
        with pytest.raises(PfstudyError, match="a score is not one"):
            rank_correlation([1.0, 2, 3], [1.0, 2, 3], errors=[0.1, value, 0.1])
