"""What is counted in simulated families, by the functions that the commands call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from _simulation.references import dunnett, pretested, welch
from _simulation.sampling import (
    Accuracies,
    Changes,
    Images,
    accuracies_of,
    sample_accuracies,
    sample_changes,
    sample_correct,
)
from _simulation.tally import Figure, Figures, Tally, bound, chunks
from pfstudy.stats.comparison import CONFIDENCE, Estimate, estimate
from pfstudy.stats.images import ImageNoise
from pfstudy.store import Looks
from pfstudy.tables.statistics import Criteria

COVERED = 0.94
LOOKS = (3, 5, 10)
OF_LOOKS = Criteria(looks=Looks(declared=LOOKS)).confidence
_FEW = 64
_ROUNDED = 5e-4  # p-values have three places in tables


def measure_seeds(
    setting: Accuracies,
    limit: float | None,
    number: int,
    generator: np.random.Generator,
    *,
    missing: Sequence[tuple[int, int]] = (),
    lost: Sequence[bool] = (),
) -> Figures:
    """New trainings.

    Args:
        setting: How families are sampled.
        limit: Bound of the familywise error.
        number: How many families.
        generator: Of the random numbers.
        missing: Member and seed of runs that are not there.
        lost: Whether runs of each member have failed.
    """
    known_GS = np.ones((setting.num_variants + 1, setting.num_seeds), bool)
    for member, seed in missing:
        known_GS[member, seed] = False
    tally = Tally(setting.num_variants, lost=lost)
    for size in chunks(number):
        accuracies_FGS = sample_accuracies(setting, size, generator)
        accuracies_FGS[:, ~known_GS] = np.nan
        tally.add(estimate(accuracies_FGS, None, "seeds", setting.step))
    alike_V = 2 * (known_GS[1:] & known_GS[0]).sum(axis=1)
    alike_V[0] += setting.ratio != 1 and setting.member == "variant"
    found = tally.figures(alike_V.tolist())
    of_one = {"alone": COVERED} if setting.num_variants == 1 else {}
    return bound(found, at_most={"wrong finding": limit}, at_least={"as shown": COVERED, **of_one})


def measure_looks(
    setting: Accuracies, limit: float | None, number: int, generator: np.random.Generator
) -> Figures:
    """Verdicts after each look at a growing number of seeds."""
    tallies = {look: Tally(setting.num_variants, confidence=OF_LOOKS) for look in LOOKS}
    num_wrong = 0
    for size in chunks(number):
        accuracies_FGS = sample_accuracies(setting, size, generator)
        found_F = np.zeros(size, bool)
        for look, tally in tallies.items():
            found_F |= tally.add(estimate(accuracies_FGS[..., :look], None, "seeds"))
        num_wrong += int(found_F.sum())
    found = {"at any look": Figure(num_wrong / number, limit, True, number)}
    for look, tally in tallies.items():
        found[f"after {look} seeds"] = tally.figures()["wrong finding"]
    return found


def measure_both(
    setting: Images, limit: float | None, number: int, generator: np.random.Generator
) -> Figures:
    """New trainings on new images."""
    tally = Tally(setting.num_variants, -setting.loss)
    step = 100 / setting.num_images
    variances = []
    for size in chunks(number):
        correct_FGSN = sample_correct(setting, size, generator)
        made = estimate(accuracies_of(correct_FGSN), correct_FGSN, "both", step)
        tally.add(made)
        variances.append([np.mean(made.seed_errors_V**2), np.mean(made.image_errors_V**2)])
    of_one = {"alone": COVERED} if setting.num_variants == 1 else {}
    if setting.loss:
        found = bound(tally.figures(), at_most={}, at_least={"all hold": COVERED, **of_one})
    else:
        found = bound(tally.figures(), at_most={"wrong finding": limit}, at_least=of_one)
    of_seeds, of_images = np.sqrt(np.mean(variances, axis=0)).tolist()
    return {
        **bound(found, at_most={}, at_least={"as shown": COVERED}),
        "error from seeds": Figure(of_seeds),
        "error from images": Figure(of_images),
    }


def measure_changes(setting: Changes, number: int, generator: np.random.Generator) -> Figures:
    """These trained networks on new images."""
    check_changes(setting, generator)
    tally = Tally(setting.num_variants, setting.difference)
    for size in chunks(number):
        tally.add(estimate_changes(*sample_changes(setting, size, generator), setting.num_images))
    at_least = {"alone": COVERED, "as shown": COVERED, "all hold": 0.945}
    return bound(tally.figures(), at_most={}, at_least=at_least)


def estimate_changes(gained_V: np.ndarray, lost_V: np.ndarray, num_images: int) -> Estimate:
    """What `estimate` makes of one seed, from counts: arrays of all images would take 1 GB."""
    nothing_V, more = np.zeros_like(gained_V), num_images + 2
    net_V = gained_V - lost_V
    total_V = 1e4 * ((gained_V + lost_V + 1) / more - (net_V / more) ** 2) / more
    noise = ImageNoise(
        total_V, np.full_like(total_V, np.nan), gained_V, lost_V, np.ones_like(total_V), num_images
    )
    return Estimate(
        100 * net_V / num_images,
        np.ones_like(gained_V),
        "images",
        nothing_V,
        nothing_V,
        np.sqrt(total_V),
        np.sqrt(total_V),
        noise,
    )


def check_changes(setting: Changes, generator: np.random.Generator) -> None:
    """Make sure that counts give what `estimate` makes of all images, for one family."""
    gained_1V, lost_1V = sample_changes(setting, 1, generator)
    num_images = setting.num_images
    most = int(max(gained_1V.max(), lost_1V.max()))
    positions_N = np.arange(num_images)
    baseline_N = positions_N >= most  # gained images come first, lost ones last
    correct_G1N = np.array(
        [baseline_N]
        + [
            (baseline_N | (positions_N < gained)) & (positions_N < num_images - lost)
            for gained, lost in zip(gained_1V[0], lost_1V[0], strict=True)
        ]
    )[:, None]
    made = estimate(100 * correct_G1N.mean(axis=-1), correct_G1N, "images")
    counted = estimate_changes(gained_1V[0], lost_1V[0], num_images)
    number = setting.num_variants
    for found, expected in (
        (counted.differences_V, made.differences_V),
        (counted.errors, made.errors),
        (counted.df, made.df),
        (counted.p_values(number), made.p_values(number)),
        *zip(counted.ends(number), made.ends(number), strict=True),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


def measure_power(
    setting: Accuracies, limit: float | None, number: int, generator: np.random.Generator
) -> Figures:
    """How often a variant that is worse is called so, by this and by earlier procedures."""
    references = {"Bartlett, then one of": pretested, "Dunnett": dunnett, "Welch": welch}
    counts = dict.fromkeys(("pfstudy", *references), 0)
    for size in chunks(number):
        accuracies_FGS = sample_accuracies(setting, size, generator)
        made = estimate(accuracies_FGS, None, "seeds")
        highs = {"pfstudy": made.ends(setting.num_variants)[1]}
        highs |= {name: ends(accuracies_FGS)[1] for name, ends in references.items()}
        for name, high_FV in highs.items():
            counts[name] += int((high_FV[:, 0] < 0).sum())
    ratio = counts["pfstudy"] / max(counts["Bartlett, then one of"], 1)
    found = {name: Figure(count / number) for name, count in counts.items()}
    return {**found, "ratio to Bartlett": Figure(ratio, limit, False)}


def measure_agreement(
    setting: Accuracies | Images, number: int, generator: np.random.Generator
) -> Figures:
    """Whether one family at a time has the ends of all at once, and p-values that agree."""
    correct, population, step = None, "seeds", 0.0
    if isinstance(setting, Images):
        correct = sample_correct(setting, number, generator)
        accuracies, population, step = accuracies_of(correct), "both", 100 / setting.num_images
    else:
        accuracies = sample_accuracies(setting, number, generator)
    num_variants = setting.num_variants
    together = np.array(estimate(accuracies, correct, population, step).ends(num_variants))
    num_contradictions, ends_apart, p_apart = 0, 0.0, 0.0
    for family, accuracies_GS in enumerate(accuracies):
        of_family = None if correct is None else [list(each) for each in correct[family]]
        made = estimate(accuracies_GS, of_family, population, step)
        low_V, high_V = made.ends(num_variants)
        p_V = made.p_values(num_variants)
        off = np.abs([low_V, high_V] - together[:, family]) / (high_V - low_V)
        ends_apart = max(ends_apart, float(off.max()))
        p_apart = max(p_apart, float(np.abs(p_V - _p_values_of_parts(made)).max()))
        differ_V = (p_V < 1 - CONFIDENCE) != ((low_V > 0) | (high_V < 0))
        num_contradictions += int(np.sum(differ_V & (np.abs(p_V - (1 - CONFIDENCE)) > _ROUNDED)))
    return {
        "verdicts that p-values contradict": Figure(num_contradictions, 0),
        "ends off, of the width": Figure(ends_apart, 1e-3),
        "p-values off": Figure(p_apart, 5e-3),
    }


def _p_values_of_parts(made: Estimate) -> np.ndarray:
    """P-values of a family from few differences at a time, which are not interpolated."""
    names = [field.name for field in fields(made) if field.name.endswith("_V")]
    number, found = len(made.differences_V), []
    for start in range(0, number, _FEW):
        part = slice(start, start + _FEW)
        few = replace(made, **{name: getattr(made, name)[part] for name in names})
        found.append(few.p_values(number))
    return np.concatenate(found)
