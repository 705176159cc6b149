"""Predictions of networks that were never trained, and whether they hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from pfstudy.stats.additive import find_estimable, make_design
from pfstudy.stats.predictor import Predictor, fit_predictor

ADDRESSES = tuple(f"stage{s}.block{b}" for s in (1, 2) for b in (1, 2, 3))
OPERATIONS = ("original", "maxpool", "dwconv")
Network = dict[str, str]


def network(**replaced: str) -> Network:
    return {address: replaced.get(address, "original") for address in ADDRESSES}


def singles() -> list[Network]:
    found = [network()]
    return found + [network(**{a: o}) for a in ADDRESSES for o in OPERATIONS[1:]]


def random_networks(generator: np.random.Generator, number: int) -> list[Network]:
    drawn = generator.choice(OPERATIONS, (number, len(ADDRESSES)))
    return [dict(zip(ADDRESSES, map(str, row), strict=True)) for row in drawn]


def true_effects(generator: np.random.Generator) -> dict[tuple[str, str], float]:
    pairs = itertools.product(ADDRESSES, OPERATIONS[1:])
    return {pair: float(generator.normal(-0.5, 0.5)) for pair in pairs}


def accuracy(effects: dict[tuple[str, str], float], stands: Network) -> float:
    return 95 + sum(effects.get(pair, 0.0) for pair in stands.items())


def fit(
    networks: list[Network], values: list[float], deviation: float = 0.0, df: int = 0, n: int = 1
) -> Predictor:
    found = fit_predictor(networks, values, [n] * len(networks), "original", deviation, df)
    assert found is not None
    return found


def test_what_adds_up_is_predicted_exactly() -> None:
    generator = np.random.default_rng(0)
    effects = true_effects(generator)
    trained = singles() + random_networks(generator, 8)
    predictor = fit(trained, [accuracy(effects, each) for each in trained])
    new = random_networks(generator, 20)
    predicted = predictor.predict(new, 1)
    assert predicted.values_V == pytest.approx([accuracy(effects, each) for each in new])
    assert predictor.baseline == pytest.approx(95)
    differences = predictor.predict_differences(new, 1)
    assert differences.values_V == pytest.approx(predicted.values_V - 95)
    assert predictor.rank_correlation() == pytest.approx((1, 0), abs=1e-3)
    for (place, operation), points in effects.items():
        assert predictor.effect(place, operation)[0] == pytest.approx(points)


@pytest.mark.parametrize(
    ("num_seeds", "off", "num_random"),
    [
        pytest.param(1, 0.0, 12, id="one seed"),
        pytest.param(3, 0.0, 12, id="three seeds"),
        pytest.param(3, 0.6, 24, id="three seeds, and effects that do not add up"),
        pytest.param(1, 0.6, 24, id="one seed, and effects that do not add up"),
    ],
)
def test_intervals_cover_what_is_measured(num_seeds: int, off: float, num_random: int) -> None:
    """Of networks that were not trained, their mean over as many seeds."""
    generator = np.random.default_rng(1)
    covered = []
    for _ in range(60):
        effects = true_effects(generator)
        trained = singles() + random_networks(generator, num_random)
        new = random_networks(generator, 10)
        values, deviations = [], []
        for each in [*trained, *new]:
            combined = sum(operation != "original" for operation in each.values()) > 1
            own = accuracy(effects, each) + combined * generator.normal(0, off)
            seeds = own + generator.normal(0, 0.3, num_seeds)
            values.append(float(seeds.mean()))
            deviations.append(float(seeds.var(ddof=1)) if num_seeds > 1 else 0.0)
        count = len(trained)
        known = (float(np.sqrt(np.mean(deviations[:count]))), count * 2) if num_seeds > 1 else ()
        predictor = fit(trained, values[:count], *known, n=num_seeds)
        predicted = predictor.predict(new, num_seeds)
        assert predicted.half_widths_V is not None
        missed = np.abs(np.array(values[count:]) - predicted.values_V)
        covered += list(missed <= predicted.half_widths_V)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_the_variance_is_that_of_effects_and_noise() -> None:
    """Exactly additive, every variant once, a known spread between seeds."""
    trained = [dict(zip(ADDRESSES, each, strict=True)) for each in itertools.product(
        ("original", "maxpool"), repeat=6)]  # fmt: skip
    effects = true_effects(np.random.default_rng(0))
    predictor = fit(trained, [accuracy(effects, each) for each in trained], 0.3, 128, 3)
    half = predictor.predict_differences([trained[-1]], 3).half_widths_V
    assert half is not None
    # each of six effects has 4 s^2 / (64 * 3), and they are independent
    expected = stats.t.ppf(0.975, 128) * 0.3 * np.sqrt(6 * 4 / 192 + 1 / 3)
    assert half[0] == pytest.approx(expected)
    _, single = predictor.effect(ADDRESSES[0], "maxpool")
    assert single == pytest.approx(stats.t.ppf(0.975, 128 + 57) * 0.3 * np.sqrt(4 / 192))


def test_nothing_tells_how_sure_a_saturated_model_of_one_seed_is() -> None:
    effects = true_effects(np.random.default_rng(0))
    predictor = fit(singles(), [accuracy(effects, each) for each in singles()])
    assert predictor.predict(singles(), 1).half_widths_V is None
    assert predictor.effect(ADDRESSES[0], "maxpool")[1] is None
    assert predictor.draw_effects(10, 0) is None
    assert predictor.rank_correlation() is None


def test_draws_spread_as_the_effects_do() -> None:
    generator = np.random.default_rng(0)
    effects = true_effects(generator)
    trained = singles() + random_networks(generator, 40)
    values = [accuracy(effects, each) + generator.normal(0, 0.3) for each in trained]
    predictor = fit(trained, values)
    drawn = predictor.draw_effects(4000, 0)
    assert drawn is not None
    variance = predictor.fit.variance
    assert variance is not None
    errors = np.sqrt(variance * np.sum(predictor.fit.inverse_FV[1:] ** 2, axis=1))
    df = predictor.fit.df
    assert drawn.mean(axis=0) == pytest.approx(predictor.fit.found_F[1:], abs=0.05)
    assert drawn.std(axis=0) == pytest.approx(errors * np.sqrt(df / (df - 2)), rel=0.1)
    again = predictor.draw_effects(4000, 0)
    assert np.array_equal(drawn, again)


def test_who_is_held_out_is_predicted_by_the_others() -> None:
    """Against models that are fitted anew."""
    generator = np.random.default_rng(0)
    effects = true_effects(generator)
    trained = [*singles(), *random_networks(generator, 8)]
    trained.append(dict.fromkeys(ADDRESSES[:5], "maxpool") | {ADDRESSES[5]: "fourier"})
    values = [accuracy(effects, each) + float(generator.normal(0, 1)) for each in trained]
    seeds = [int(number) for number in generator.integers(1, 4, len(trained))]
    whole = fit_predictor(trained, values, seeds, "original")
    assert whole is not None
    held = whole.fit.held_out
    assert list(held.indices) == list(range(13, 21))  # nobody else has the fourier
    for number, index in enumerate(held.indices):
        others = [i for i in range(len(trained)) if i != index]
        left = fit_predictor(
            [trained[i] for i in others],
            [values[i] for i in others],
            [seeds[i] for i in others],
            "original",
        )
        assert left is not None
        predicted = left.predict([trained[index]], 1)
        assert held.predicted[number] == pytest.approx(predicted.values_V[0])
        row = make_design([trained[index]], left.fit.features, "original", "block")
        leverage = float(np.sum((row @ left.fit.inverse_FV) ** 2))
        assert held.leverages[number] == pytest.approx(leverage)


def test_what_was_tried_only_together_is_left_out() -> None:
    uniform = dict.fromkeys(ADDRESSES, "maxpool"), dict.fromkeys(ADDRESSES, "fourier")
    trained = [*singles(), *uniform, network()]
    assert find_estimable(trained, "original", "block") == [*range(14), 15]
    assert find_estimable(singles(), "original", "block") == [*range(13)]
    assert find_estimable([uniform[0]], "original", "block") == []
    assert find_estimable([network()], "original", "block") == [0]
