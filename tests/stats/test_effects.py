from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.effects import fit_additive

ADDRESSES = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")
BASE = "original"
TRUE = dict(zip(ADDRESSES, (-0.2, -0.1, -0.8, 0.3), strict=True))


def network(*replaced: str, by: str = "maxpool") -> dict[str, str]:
    return {address: by if address in replaced else BASE for address in ADDRESSES}


def accuracy(operations: dict[str, str]) -> float:
    return 97.0 + sum(TRUE[a] for a, operation in operations.items() if operation != BASE)


ALL = [network(*chosen) for n in range(5) for chosen in itertools.combinations(ADDRESSES, n)]


def test_effects_of_blocks_come_out() -> None:
    values = [accuracy(each) for each in ALL]
    model = fit_additive(ALL, values, [3] * len(ALL), BASE, "block")
    assert model is not None
    assert {e.place: e.points for e in model.effects} == pytest.approx(TRUE)
    assert {e.operation for e in model.effects} == {"maxpool"}
    assert model.r2 == pytest.approx(1)
    assert model.num_combinations == 11
    assert model.r2_held_out == pytest.approx(1)
    assert model.error_held_out == pytest.approx(0, abs=1e-9)


def test_effects_of_stages_are_those_of_all_their_blocks() -> None:
    variants = [network(), network(*ADDRESSES[:2]), network(*ADDRESSES[2:]), network(*ADDRESSES)]
    values = [accuracy(each) for each in variants]
    model = fit_additive(variants, values, [1] * 4, BASE, "stage")
    assert model is not None
    found = {e.place: e.points for e in model.effects}
    assert found == pytest.approx({"stage1": -0.3, "stage2": -0.5})


def test_operations_are_told_apart() -> None:
    variants = [network(), network(*ADDRESSES), network(*ADDRESSES, by="identity")]
    model = fit_additive(variants, [97, 96.2, 90], [1, 1, 1], BASE, "operation")
    assert model is not None
    assert {e.operation: e.points for e in model.effects} == pytest.approx(
        {"maxpool": -0.8, "identity": -7}
    )
    assert all(e.half_width is None for e in model.effects)  # nothing is left to judge them by


def test_what_cannot_be_told_apart_is_not_fitted() -> None:
    together = [network(), network(*ADDRESSES[:2]), network(*ADDRESSES), network(), network()]
    assert fit_additive(together, [97, 96, 95, 97, 97], [1] * 5, BASE, "block") is None
    assert fit_additive([network()] * 3, [97, 97, 97], [1] * 3, BASE, "block") is None


def test_intervals_cover_the_true_effects() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        values = [accuracy(each) + generator.normal(0, 0.2) for each in ALL]
        model = fit_additive(ALL, values, [1] * len(ALL), BASE, "block")
        assert model is not None
        covered += all(
            abs(effect.points - TRUE[effect.place]) <= (effect.half_width or 0)
            for effect in model.effects
        )
    assert 90 <= covered <= 100  # all four at once


def test_combinations_that_do_not_add_up_show() -> None:
    """Replacing both blocks of a stage costs five points more than each by itself."""
    values = [accuracy(v) - 5 * (v[ADDRESSES[0]] == v[ADDRESSES[1]] == "maxpool") for v in ALL]
    model = fit_additive(ALL, values, [1] * len(ALL), BASE, "block")
    assert model is not None
    assert model.r2_held_out is not None
    assert model.error_held_out is not None
    assert model.r2_held_out < 0.9
    assert model.error_held_out > 0.5


def test_too_few_combinations_judge_nothing() -> None:
    singles = [network(), *[network(address) for address in ADDRESSES], network(*ADDRESSES)]
    model = fit_additive(singles, list(map(accuracy, singles)), [1] * 6, BASE, "block")
    assert model is not None
    assert (model.num_combinations, model.r2_held_out, model.error_held_out) == (1, None, None)


def test_the_larger_of_misfit_and_spread_between_seeds_makes_the_intervals() -> None:
    values = [accuracy(each) for each in ALL]
    exact = fit_additive(ALL, values, [3] * len(ALL), BASE, "block", 0.3, 32)
    assert exact is not None
    # each effect is estimated from all 16 variants of 3 seeds: 4 s^2 / 48
    expected = stats.t.ppf(1 - 0.025 / 4, 32) * 0.3 * (4 / 48) ** 0.5
    assert exact.effects[0].half_width == pytest.approx(expected)
    noise = np.random.default_rng(0).normal(0, 2, len(values))
    bad = fit_additive(ALL, values + noise, [3] * len(ALL), BASE, "block", 0.3, 32)
    assert bad is not None
    assert bad.effects[0].half_width > 3 * expected
