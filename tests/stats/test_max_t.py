from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.max_t import adjusted_p_values, max_t_cdf, max_t_quantile


@pytest.mark.parametrize(
    ("number", "df", "expected"),
    [
        pytest.param(1, 10, 2.23, id="t itself"),
        pytest.param(2, 5, 3.03, id="two"),
        pytest.param(3, 10, 2.76, id="three"),
        pytest.param(5, 20, 2.73, id="five"),
    ],
)
def test_quantiles_are_those_of_the_published_table(number: int, df: int, expected: float) -> None:
    """Dunnett 1964, Table II: two-sided, 95 %, equal sizes."""
    assert float(max_t_quantile(0.95, number, df)) == pytest.approx(expected, abs=0.006)


def test_p_values_are_those_of_dunnetts_test() -> None:
    generator = np.random.default_rng(3)
    groups = [generator.normal(98 + 0.2 * i, 0.3, 3) for i in range(3)]
    control = generator.normal(98, 0.3, 3)
    expected = stats.dunnett(*groups, control=control, rng=np.random.default_rng(0))
    found = adjusted_p_values(np.asarray(expected.statistic), 3, 8)
    assert found == pytest.approx(expected.pvalue, abs=4e-4)


@pytest.mark.parametrize("df", [1.5, 4.5, 30.0, np.inf], ids=str)
@pytest.mark.parametrize("shared", [0.0, 0.2, 0.5], ids=str)
def test_the_probability_is_that_of_draws(df: float, shared: float) -> None:
    generator = np.random.default_rng(0)
    own = generator.standard_normal((200_000, 6)) * (1 - shared) ** 0.5
    z = own + generator.standard_normal((200_000, 1)) * shared**0.5
    spread = 1.0 if np.isinf(df) else np.sqrt(generator.chisquare(df, (200_000, 1)) / df)
    largest = np.abs(z / spread).max(axis=1)
    quantile = float(max_t_quantile(0.95, 6, df, shared))
    assert np.mean(largest <= quantile) == pytest.approx(0.95, abs=0.002)
    p_values = adjusted_p_values(np.array([1.5, 3.0]), 6, df, shared)
    assert p_values == pytest.approx([np.mean(largest > x) for x in (1.5, 3.0)], abs=0.004)


def test_one_alone_has_students_t() -> None:
    df = np.array([1.5, 2.0, 10.0])
    assert max_t_quantile(0.95, 1, df) == pytest.approx(stats.t.ppf(0.975, df))
    values = np.array([0.5, 2.0, 4.0])
    assert max_t_cdf(values, 1, df) == pytest.approx(1 - 2 * stats.t.sf(values, df))


def test_many_are_between_one_and_bonferroni() -> None:
    quantile = float(max_t_quantile(0.95, 200, 402))
    assert stats.t.ppf(0.975, 402) < quantile < stats.t.ppf(1 - 0.025 / 200, 402)
    assert float(max_t_cdf(np.array(quantile), 200, 402)) == pytest.approx(0.95, abs=1e-5)


def test_many_different_arguments_are_those_of_each() -> None:
    generator = np.random.default_rng(1)
    df, shared = np.exp(generator.uniform(0.4, 6, 500)), generator.uniform(0, 0.5, 500)
    together = max_t_quantile(0.95, 40, df, shared)
    for index in range(0, 500, 100):
        alone = float(max_t_quantile(0.95, 40, df[index], shared[index]))
        assert together[index] == pytest.approx(alone, rel=3e-4)


@pytest.mark.parametrize("largest", [5.0, 300.0], ids=["usual", "one far out"])
@pytest.mark.parametrize("df", [2.9, 602.0], ids=str)
def test_p_values_of_many_are_those_of_each(df: float, largest: float) -> None:
    statistics = np.append(np.linspace(-5, 5, 300), largest)
    together = adjusted_p_values(statistics, 300, df)
    chosen = [0, 60, 100, 150, 300]
    alone = [float(adjusted_p_values(statistics[i], 300, df)) for i in chosen]
    assert together[chosen] == pytest.approx(alone, rel=0.02, abs=2e-3)
