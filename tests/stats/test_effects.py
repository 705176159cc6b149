from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pfstudy.stats.additive import Level, fit_model
from pfstudy.stats.comparison import decide, estimate
from pfstudy.stats.effects import Additive, Family, fit_additive

ADDRESSES = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")
BASE = "original"
TRUE = dict(zip(ADDRESSES, (-0.2, -0.1, -0.8, 0.3), strict=True))


def network(*replaced: str, by: str = "maxpool") -> dict[str, str]:
    return {address: by if address in replaced else BASE for address in ADDRESSES}


def accuracy(operations: dict[str, str]) -> float:
    return 97.0 + sum(TRUE[a] for a, operation in operations.items() if operation != BASE)


ALL = [network(*chosen) for n in range(5) for chosen in itertools.combinations(ADDRESSES, n)]


def family(operations: Sequence[dict[str, str]], runs: np.ndarray) -> Family:
    """A family of these runs ``(V, S)``, the first one the reference."""
    made = estimate(runs, None, "seeds")
    return Family(operations, float(runs[0].mean()), made, [False] * len(runs))


def fit(
    operations: Sequence[dict[str, str]], values: Sequence[float], level: Level = "block"
) -> Additive | None:
    """Fit to one seed of each, so that nothing but the misfit tells how sure it is."""
    return fit_additive(family(operations, np.array(values)[:, None]), BASE, level)


def test_effects_of_blocks_come_out() -> None:
    model = fit(ALL, [accuracy(each) for each in ALL])
    assert model is not None
    assert {e.place: e.points for e in model.effects} == pytest.approx(TRUE)
    assert {e.operation for e in model.effects} == {"maxpool"}
    assert model.r2 == pytest.approx(1)
    assert model.num_combinations == 11
    assert model.r2_held_out == pytest.approx(1)
    assert model.error_held_out == pytest.approx(0, abs=1e-9)


def test_effects_of_stages_are_those_of_all_their_blocks() -> None:
    variants = [network(), network(*ADDRESSES[:2]), network(*ADDRESSES[2:]), network(*ADDRESSES)]
    model = fit(variants, [accuracy(each) for each in variants], "stage")
    assert model is not None
    found = {e.place: e.points for e in model.effects}
    assert found == pytest.approx({"stage1": -0.3, "stage2": -0.5})


def test_operations_are_told_apart() -> None:
    variants = [network(), network(*ADDRESSES), network(*ADDRESSES, by="identity")]
    model = fit(variants, [97, 96.2, 90], "operation")
    assert model is not None
    assert {e.operation: e.points for e in model.effects} == pytest.approx(
        {"maxpool": -0.8, "identity": -7}
    )
    assert all(e.low is None and e.verdict is None for e in model.effects)  # one seed, no images


def test_what_cannot_be_told_apart_is_not_fitted() -> None:
    together = [network(), network(*ADDRESSES[:2]), network(*ADDRESSES), network(), network()]
    assert fit(together, [97, 96, 95, 97, 97]) is None
    assert fit([network()] * 3, [97, 97, 97]) is None


def covers(model: Additive | None, true: Mapping[str, float] = TRUE) -> bool:
    assert model is not None
    return all(
        effect.low is not None
        and effect.high is not None
        and effect.low <= true[effect.place] <= effect.high
        for effect in model.effects
    )


@pytest.mark.parametrize("num_seeds", [1, 3])
def test_intervals_cover_the_true_effects(num_seeds: int) -> None:
    generator = np.random.default_rng(0)
    values = np.array([accuracy(each) for each in ALL])[:, None]
    covered = 0
    for _ in range(150):
        shared = generator.normal(0, 0.2, (1, num_seeds))
        runs = values + shared + generator.normal(0, 0.2, (len(ALL), num_seeds))
        covered += covers(fit_additive(family(ALL, runs), BASE, "block"))
    assert 138 <= covered <= 150  # all four at once


SINGLES = [network(), *[network(address) for address in ADDRESSES]]


def test_effects_of_single_places_are_the_differences_themselves() -> None:
    runs = np.array([accuracy(each) for each in SINGLES])[:, None]
    runs = runs + np.random.default_rng(1).normal(0, 0.3, (5, 3))
    known = family(SINGLES, runs)
    model = fit_additive(known, BASE, "block", margin=0.5)
    assert model is not None
    assert model.is_saturated
    low, high = known.estimate.ends(4)
    for index, effect in enumerate(model.effects):
        assert effect.points == pytest.approx(known.estimate.differences_V[index])
        assert [effect.low, effect.high] == pytest.approx([low[index], high[index]])
        assert effect.verdict == decide(low[index], high[index], 0.5)


def test_one_combination_does_not_decide_how_sure_effects_are() -> None:
    """It has one degree of freedom, and made intervals of up to 25 points."""
    generator = np.random.default_rng(2)
    variants = [*SINGLES, network(*ADDRESSES)]
    values = np.array([accuracy(each) for each in variants])[:, None]
    halves, covered = [], 0
    for _ in range(200):
        runs = values + generator.normal(0, 0.3, (len(variants), 3))
        model = fit_additive(family(variants, runs), BASE, "block")
        assert model is not None
        first = model.effects[0]
        assert first.low is not None
        assert first.high is not None
        halves.append((first.high - first.low) / 2)
        covered += covers(model)
    assert np.quantile(halves, 0.9) < 3 * np.median(halves)
    assert covered >= 184


def test_failed_runs_flatter_no_effect() -> None:
    values = np.array([accuracy(each) + 3 * (each != network()) for each in SINGLES])
    runs = values[:, None] + [[0.0, 0.1, -0.1]]
    runs[:, 1] += np.random.default_rng(0).normal(0, 0.05, 5)
    known = family(SINGLES, runs)
    lost = replace(known, has_lost=[False, True, False, False, False])
    verdicts = [
        [effect.verdict for effect in model.effects]
        for model in (fit_additive(each, BASE, "block") for each in (known, lost))
        if model is not None
    ]
    assert verdicts == [["better"] * 4, ["undecided", *["better"] * 3]]


def test_combinations_that_do_not_add_up_show() -> None:
    """Replacing both blocks of a stage costs five points more than each by itself."""
    values = [accuracy(v) - 5 * (v[ADDRESSES[0]] == v[ADDRESSES[1]] == "maxpool") for v in ALL]
    model = fit(ALL, values)
    assert model is not None
    assert model.r2_held_out is not None
    assert model.error_held_out is not None
    assert model.r2_held_out < 0.9
    assert model.error_held_out > 0.5


def test_too_few_combinations_judge_nothing() -> None:
    singles = [*SINGLES, network(*ADDRESSES)]
    model = fit(singles, list(map(accuracy, singles)))
    assert model is not None
    assert (model.num_combinations, model.r2_held_out, model.error_held_out) == (1, None, None)


def test_misfit_and_spread_between_seeds_make_the_variance_together() -> None:
    values = [accuracy(each) for each in ALL]
    exact = fit_model(ALL, values, [3] * len(ALL), BASE, "block", 0.3, 32)
    assert exact is not None
    assert (exact.variance, exact.df) == (pytest.approx(0.09), 32 + 11)
    noise = np.random.default_rng(0).normal(0, 2, len(values))
    bad = fit_model(ALL, values + noise, [3] * len(ALL), BASE, "block", 0.3, 32)
    assert bad is not None
    assert bad.variance == pytest.approx((11 * bad.misfit + 32 * 0.09) / 43)
    assert bad.misfit > 9 * 0.09
