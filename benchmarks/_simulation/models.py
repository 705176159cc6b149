"""What is counted of additive models and fronts."""

from __future__ import annotations

import numpy as np

from _simulation.sampling import (
    Accuracies,
    Images,
    accuracies_of,
    sample_accuracies,
    sample_correct,
)
from _simulation.tally import Figure, Figures
from pfstudy.stats.comparison import estimate
from pfstudy.stats.effects import Family, fit_additive
from pfstudy.stats.front import SURE, Uncertain, draw_accuracies, front_probability

ORIGINAL = "conv"
_SITES = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")
_EFFECTS = {"maxpool": -1.0, "dwconv": -0.3}
_COMBINATIONS = (
    ("maxpool", "maxpool", ORIGINAL, ORIGINAL),
    ("dwconv", ORIGINAL, "maxpool", ORIGINAL),
    (ORIGINAL, "dwconv", "dwconv", "dwconv"),
    ("maxpool", "dwconv", "maxpool", "dwconv"),
)


def measure_effects(
    num_combinations: int,
    num_seeds: int,
    number: int,
    generator: np.random.Generator,
) -> Figures:
    """Effects of two operations at four sites, each alone in a variant, and some combined."""
    operations = [dict.fromkeys(_SITES, ORIGINAL)]
    operations += [operations[0] | {site: name} for site in _SITES for name in _EFFECTS]
    operations += [dict(zip(_SITES, each, strict=True)) for each in _COMBINATIONS]
    operations = operations[: 1 + len(_SITES) * len(_EFFECTS) + num_combinations]
    means_G = [sum(_EFFECTS.get(name, 0.0) for name in each.values()) for each in operations]
    setting = Accuracies(len(operations) - 1, num_seeds, correlation=0.6, deviation=0.3)
    accuracies_FGS = sample_accuracies(setting, number, generator)
    accuracies_FGS += np.array(means_G)[:, None]
    covers, halves = [], []
    for accuracies_GS in accuracies_FGS:
        made = estimate(accuracies_GS, None, "seeds")
        base = float(accuracies_GS[0].mean())
        family = Family(operations, base, made, [False] * len(operations))
        fitted = fit_additive(family, ORIGINAL, "block")
        assert fitted is not None
        ends = np.array([(effect.low, effect.high) for effect in fitted.effects])
        truths = np.array([_EFFECTS[effect.operation] for effect in fitted.effects])
        covers.append((ends[:, 0] <= truths) & (truths <= ends[:, 1]))
        halves.append((ends[:, 1] - ends[:, 0]) / 2)
    return {
        "all hold": Figure(float(np.mean(np.all(covers, axis=1)))),
        "as shown": Figure(float(np.mean(covers))),
        "half-width, median": Figure(float(np.median(halves))),
        "half-width, 90th percentile": Figure(float(np.quantile(halves, 0.9))),
    }


def measure_front(setting: Images, number: int, generator: np.random.Generator) -> Figures:
    """Whether the slower one of two variants that are as accurate is said to be on the front."""
    correct_FGSN = sample_correct(setting, number, generator)
    accuracies_FGS = accuracies_of(correct_FGSN)
    step = 100 / setting.num_images
    found = []
    for correct_GSN, accuracies_GS in zip(correct_FGSN, accuracies_FGS, strict=True):
        made = estimate(accuracies_GS, correct_GSN, "both", step)
        shares_GN = correct_GSN.mean(axis=1, dtype=np.float32)
        family = Uncertain(accuracies_GS.mean(axis=1), made, shares_GN, None)
        drawn_DV = draw_accuracies([family], int(generator.integers(2**31)))[:, 1:3]
        costs_DV = np.tile([1.0, 1.1], (len(drawn_DV), 1))
        found.append(front_probability(costs_DV, drawn_DV)[1])
    return {
        "called on it": Figure(float(np.mean(np.array(found) >= SURE))),
        "called off it": Figure(float(np.mean(np.array(found) < 1 - SURE))),
        "mean probability": Figure(float(np.mean(found))),
    }
