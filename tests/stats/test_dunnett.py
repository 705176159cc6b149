from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.dunnett import adjusted_p_values, max_t_cdf, max_t_quantile


@pytest.mark.parametrize(
    ("num_treatments", "df", "expected"),
    [
        pytest.param(1, 10, 2.23, id="t itself"),
        pytest.param(2, 5, 3.03, id="two"),
        pytest.param(3, 10, 2.76, id="three"),
        pytest.param(5, 20, 2.73, id="five"),
    ],
)
def test_quantiles_are_those_of_the_published_table(
    num_treatments: int, df: int, expected: float
) -> None:
    """Dunnett 1964, Table II: two-sided, 95 %, equal sizes."""
    found = max_t_quantile(0.95, [3] * num_treatments, 3, df)
    assert found == pytest.approx(expected, abs=0.006)


@pytest.mark.parametrize(
    ("sizes", "control"),
    [
        pytest.param((3, 3, 3), 3, id="alike"),
        pytest.param((2, 5, 3, 4), 6, id="different"),
        pytest.param((3, 1, 2), 3, id="one of one"),
    ],
)
def test_p_values_are_those_of_scipy(sizes: tuple[int, ...], control: int) -> None:
    generator = np.random.default_rng(3)
    groups = [generator.normal(98 + 0.2 * i, 0.3, n) for i, n in enumerate(sizes)]
    controls = generator.normal(98, 0.3, control)
    expected = stats.dunnett(*groups, control=controls, rng=np.random.default_rng(0))
    df = sum(sizes) + control - len(sizes) - 1
    found = adjusted_p_values(np.asarray(expected.statistic), sizes, control, df)
    assert found == pytest.approx(expected.pvalue, abs=4e-4)


def test_intervals_are_those_of_scipy() -> None:
    generator = np.random.default_rng(5)
    groups = [generator.normal(98 + 0.3 * i, 0.3, 4) for i in range(3)]
    controls = generator.normal(98, 0.3, 4)
    result = stats.dunnett(*groups, control=controls, rng=np.random.default_rng(0))
    expected = result.confidence_interval(0.95)
    means = np.array([group.mean() for group in groups]) - controls.mean()
    squares = sum(np.var(group, ddof=1) for group in [*groups, controls]) / 4
    half = max_t_quantile(0.95, [4] * 3, 4, 12) * np.sqrt(squares * 2 / 4)
    assert means - half == pytest.approx(expected.low, abs=2e-3)
    assert means + half == pytest.approx(expected.high, abs=2e-3)


def test_many_treatments_are_between_one_and_bonferroni() -> None:
    quantile = max_t_quantile(0.95, [3] * 200, 3, 402)
    assert stats.t.ppf(0.975, 402) < quantile < stats.t.ppf(1 - 0.025 / 200, 402)
    assert max_t_cdf(np.array([quantile]), [3] * 200, 3, 402)[0] == pytest.approx(0.95, abs=1e-5)


def test_p_values_of_many_are_those_of_each() -> None:
    statistics = np.linspace(-5, 5, 300)
    together = adjusted_p_values(statistics, [3] * 300, 3, 602)
    alone = [adjusted_p_values(statistics[[i]], [3] * 300, 3, 602)[0] for i in (0, 60, 100, 150)]
    assert together[[0, 60, 100, 150]] == pytest.approx(alone, rel=0.02, abs=1e-4)
