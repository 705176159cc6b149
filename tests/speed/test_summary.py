from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from pfstudy.speed import summary
from pfstudy.speed.summary import Ratio, paired_ratio, percentiles_ms, trimmed_error, trimmed_mean

TRUE_RATIO = 0.9
NUM_PROCESSES = 10
LEAST_PROCESSES = 5
NUM_ROUNDS = 10
NUM_STUDIES = 150


def simulate(
    generator: np.random.Generator, between: float, num_processes: int = NUM_PROCESSES
) -> tuple[np.ndarray, np.ndarray]:
    """Timings of a network and its baseline, ``[process][round]``.

    A process shifts the ratio by ``between`` (relative), a round by 1 %, and both networks share
    the drift of the machine.
    """
    shape = (num_processes, NUM_ROUNDS)
    drift = 2 * np.exp(generator.normal(0, 0.1, shape))
    process = generator.normal(0, between, (num_processes, 1))
    rounds = generator.normal(0, 0.01, shape)
    return TRUE_RATIO * drift * np.exp(process + rounds), drift


def coverage(between: float, num_processes: int) -> float:
    """Share of simulated studies whose interval covers the true ratio."""
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(NUM_STUDIES):
        latencies, baseline = simulate(generator, between, num_processes)
        ratio = paired_ratio(latencies.tolist(), baseline.tolist())
        covered += ratio.low <= TRUE_RATIO <= ratio.high
    return covered / NUM_STUDIES


@pytest.mark.parametrize("num_processes", [LEAST_PROCESSES, NUM_PROCESSES])
@pytest.mark.parametrize("between", [pytest.param(0.03, id="processes differ by 3 %"),
                                     pytest.param(0.0, id="processes are alike")])  # fmt: skip
def test_the_interval_covers_the_true_ratio_95_times_in_100(
    between: float, num_processes: int
) -> None:
    assert coverage(between, num_processes) >= 0.92


def test_plain_percentiles_of_few_processes_would_be_too_narrow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shows that the expansion is what makes up for the few processes."""
    expanded = coverage(0.03, num_processes=7)
    monkeypatch.setattr(summary, "_expanded_tail", lambda number: 0.025)
    assert coverage(0.03, num_processes=7) < expanded - 0.03


@pytest.mark.parametrize(
    ("number", "tail"),
    [
        pytest.param(5, 0.0010, id="few"),
        pytest.param(10, 0.0086, id="some"),
        pytest.param(10**6, 0.0250, id="many"),
    ],
)
def test_the_fewer_the_processes_the_wider_the_interval(number: int, tail: float) -> None:
    assert summary._expanded_tail(number) == pytest.approx(tail, abs=5e-5)


def test_one_process_tells_nothing_of_the_others() -> None:
    latencies, baseline = simulate(np.random.default_rng(0), between=0.03, num_processes=1)
    ratio = paired_ratio(latencies.tolist(), baseline.tolist())
    assert ratio.relative_width == float("inf")
    assert ratio.value == pytest.approx(TRUE_RATIO, rel=0.1)


def test_the_interval_is_no_wider_than_the_processes_differ() -> None:
    latencies, baseline = simulate(np.random.default_rng(0), between=0.03)
    ratio = paired_ratio(latencies.tolist(), baseline.tolist())
    assert 0.005 < ratio.relative_width < 4 * 0.03


def test_the_ratio_is_the_median_over_processes_of_paired_means() -> None:
    baseline = [[1.0, 2.0, 4.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]
    latencies = [[1.0, 2.0, 4.0], [3.0, 3.0, 9.0], [4.0, 4.0, 4.0]]
    assert paired_ratio(latencies, baseline).value == 2  # means 1, 5 and 2


def test_processes_may_have_had_time_for_different_numbers_of_rounds() -> None:
    baseline = [[1.0] * 3, [1.0] * 7, [2.0] * 5]
    latencies = [[2.0] * 3, [3.0] * 7, [8.0] * 5]
    assert paired_ratio(latencies, baseline).value == 3
    assert percentiles_ms(latencies) == (3, 3, 3)


def test_outliers_at_both_ends_are_left_out() -> None:
    values = np.array([[1.0, 2.0, 3.0, 4.0, 1000.0], [0.0, 5.0, 5.0, 5.0, 5.0]])
    assert trimmed_mean(values).tolist() == [3, 5]


def test_drift_that_both_share_cancels() -> None:
    drift = np.random.default_rng(0).uniform(1, 100, (5, 8))
    ratio = paired_ratio((1.5 * drift).tolist(), drift.tolist())
    assert ratio.low == pytest.approx(1.5)
    assert ratio.value == pytest.approx(1.5)
    assert ratio.high == pytest.approx(1.5)


def test_the_same_timings_give_the_same_interval() -> None:
    latencies, baseline = simulate(np.random.default_rng(0), between=0.03)
    once, again = (paired_ratio(latencies.tolist(), baseline.tolist()) for _ in range(2))
    assert once == again


def test_the_width_is_relative_to_the_value() -> None:
    assert Ratio(value=2, low=1.9, high=2.2).relative_width == pytest.approx(0.15)


def test_percentiles_are_medians_over_processes() -> None:
    latencies = np.array([np.arange(11.0), np.arange(11.0) + 100, np.arange(11.0) + 10])
    assert percentiles_ms(latencies.tolist()) == (15, 11, 19)


@pytest.mark.parametrize("number", [5, 10, 35])
def test_the_error_of_a_trimmed_mean_is_that_of_winsorized_values(number: int) -> None:
    values = np.random.default_rng(number).lognormal(size=(2, number))
    expected = [stats.mstats.trimmed_stde(row, (0.2, 0.2)) for row in values]
    assert trimmed_error(values) == pytest.approx(expected)
