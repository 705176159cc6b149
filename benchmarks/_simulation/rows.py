"""The rows of the tables, and the bounds of the familywise error."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import product

from _simulation.measures import (
    LOOKS,
    OF_LOOKS,
    measure_agreement,
    measure_both,
    measure_changes,
    measure_looks,
    measure_power,
    measure_seeds,
)
from _simulation.models import measure_effects, measure_front
from _simulation.sampling import Accuracies, Changes, Images, Member
from _simulation.tally import Row

PARTS = {
    "seeds": "New trainings",
    "missing": "New trainings, some runs missing or diverged",
    "rounded": "New trainings, accuracies in steps of 0.2 points",
    "looks": f"New trainings, verdicts after 3, 5 and 10 seeds, each at {1 - OF_LOOKS:.4f}",
    "both": "New trainings on new images",
    "changes": "These trained networks on new images, one seed",
    "power": "A variant that is worse by 1.5 standard deviations of a run is called worse",
    "effects": "Effects of an additive model, deviation of a run 0.3 points, correlation 0.6",
    "front": "The front: the slower of two variants that are as accurate",
    "agreement": "Families one by one, as in commands",
}

NUM_VARIANTS = (1, 4, 10, 40)
CORRELATIONS = (0.0, 0.6)
STEP = 0.2  # points: one of 500 images
_RATIOS = (2.0, 3.0, 5.0)
_MEMBERS: tuple[Member, ...] = ("baseline", "variant")
_CHANGES = (
    (0, 100, 10_000),
    (20, 320, 10_000),
    (5, 505, 10_000),
    (30, 330, 10_000),
    (1, 16, 500),
)


def make_rows() -> list[Row]:
    """Make all rows; those of a part are one after the other."""
    parts = (
        *(_seed_rows, _missing_rows, _rounded_rows, _look_rows, _both_rows, _change_rows),
        *(_power_rows, _effect_rows, _front_rows, _agreement_rows),
    )
    return [row for make in parts for row in make()]


def limit_of(num_variants: int, num_seeds: int, ratio: float = 1.0) -> float | None:
    """Bound of the familywise error; ``None`` for two seeds, which are printed only."""
    if num_seeds < 3:
        return None
    if ratio <= 2 or num_seeds >= 5:
        return 0.07 if num_variants == 40 else 0.06
    return 0.085


def _seed_rows() -> list[Row]:
    members: list[tuple[Member, float]] = [("baseline", 1.0), *product(_MEMBERS, _RATIOS)]
    rows = []
    for num_seeds, (member, ratio), num_variants, correlation in product(
        (2, 3, 5, 10), members, NUM_VARIANTS, CORRELATIONS
    ):
        setting = Accuracies(num_variants, num_seeds, correlation, ratio, member)
        whose = "the baseline's" if member == "baseline" else "one variant's"
        columns = {
            "seeds": num_seeds,
            "deviations": "equal" if ratio == 1 else f"{whose} x {ratio:g}",
            "variants": num_variants,
            "correlation": correlation,
        }
        limit = limit_of(num_variants, num_seeds, ratio)
        rows.append(Row("seeds", columns, partial(measure_seeds, setting, limit)))
    return rows


def _missing_rows() -> list[Row]:
    rows = []
    for name, num_seeds in (
        ("5 of the baseline, 3 of variants", 5),
        ("variants have 5, 4, 3, 2 in turn", 5),
        *product(("one diverged, of a variant", "one diverged, of the baseline"), (3, 5)),
    ):
        for num_variants, correlation in product(NUM_VARIANTS, CORRELATIONS):
            variants = range(1, num_variants + 1)
            missing, diverged = [(1, 2)], {1}
            if name.startswith("5 of"):
                missing, diverged = list(product(variants, (3, 4))), set()
            elif name.startswith("variants have"):
                missing = [(v, seed) for v in variants for seed in range(5 - (v - 1) % 4, 5)]
                diverged = set()
            elif name.endswith("baseline"):
                missing, diverged = [(0, 2)], {0}
            measure = partial(
                measure_seeds,
                Accuracies(num_variants, num_seeds, correlation),
                limit_of(num_variants, num_seeds),
                missing=missing,
                lost=[member in diverged for member in range(num_variants + 1)],
            )
            columns = {"runs": name, "seeds": num_seeds, "variants": num_variants}
            rows.append(Row("missing", {**columns, "correlation": correlation}, measure))
    return rows


def _rounded_rows() -> list[Row]:
    rows = []
    for deviation, num_seeds, num_variants, correlation in product(
        (0.1, 0.3), (3, 5, 10), NUM_VARIANTS, CORRELATIONS
    ):
        setting = Accuracies(num_variants, num_seeds, correlation, deviation=deviation, step=STEP)
        columns = {"deviation": deviation, "seeds": num_seeds, "variants": num_variants}
        measure = partial(measure_seeds, setting, limit_of(num_variants, num_seeds))
        rows.append(Row("rounded", {**columns, "correlation": correlation}, measure))
    return rows


def _look_rows() -> list[Row]:
    rows = []
    for num_variants, correlation in product(NUM_VARIANTS, CORRELATIONS):
        setting = Accuracies(num_variants, max(LOOKS), correlation)
        columns = {"variants": num_variants, "correlation": correlation}
        rows.append(Row("looks", columns, partial(measure_looks, setting, 0.06)))
    return rows


def _both_rows() -> list[Row]:
    some = Images(4, 3)
    settings = [Images(*numbers) for numbers in product((1, 4, 10), (3, 5))]
    settings += [replace(some, variant_seed=deviation) for deviation in (0.0, 0.5)]
    settings += [Images(4, 5, 2000), replace(some, accuracy=98.0, loss=3.0)]
    rows = []
    for setting in settings:
        columns = {
            "variants": setting.num_variants,
            "seeds": setting.num_seeds,
            "images": setting.num_images,
            "variant by seed": setting.variant_seed,
            "true difference": -setting.loss or 0.0,
        }
        rows.append(Row("both", columns, partial(measure_both, setting, 0.06)))
    return rows


def _change_rows() -> list[Row]:
    rows = []
    for num_variants, counts in product((1, 10), _CHANGES):
        gained, lost, num_images = counts
        columns = {"variants": num_variants, "gained": gained, "lost": lost, "images": num_images}
        rows.append(
            Row("changes", columns, partial(measure_changes, Changes(num_variants, *counts)))
        )
    return rows


def _power_rows() -> list[Row]:
    rows = []
    for num_seeds, correlation, num_variants in product((5, 3), (0.6, 0.3, 0.0), (4, 10, 40)):
        setting = Accuracies(num_variants, num_seeds, correlation, loss=1.5)
        limit = 1.4 if (num_seeds, correlation) == (5, 0.6) else None
        columns = {"seeds": num_seeds, "correlation": correlation, "variants": num_variants}
        rows.append(Row("power", columns, partial(measure_power, setting, limit)))
    return rows


def _effect_rows() -> list[Row]:
    rows = []
    for num_combinations, num_seeds in (*product((0, 1, 4), (3, 5)), (4, 1)):
        columns = {"combinations": num_combinations, "seeds": num_seeds}
        measure = partial(measure_effects, num_combinations, num_seeds)
        rows.append(Row("effects", columns, measure, share=0.5))
    return rows


def _front_rows() -> list[Row]:
    rows = []
    for num_seeds in (3, 5):
        setting = Images(2, num_seeds)
        rows.append(Row("front", {"seeds": num_seeds}, partial(measure_front, setting), share=0.2))
    return rows


def _agreement_rows() -> list[Row]:
    cases: dict[str, Accuracies | Images] = {
        "4 variants, 2 seeds": Accuracies(4, 2),
        "40 variants, 3 seeds": Accuracies(40, 3),
        "4 variants, 3 seeds, 500 images": Images(4, 3),
        "10 variants, 5 seeds, 500 images": Images(10, 5),
        "200 variants, 5 seeds": Accuracies(200, 5),
        "200 variants, 5 seeds, one worse by 300 deviations": Accuracies(200, 5, loss=300.0),
        "2,000 variants, 5 seeds, one worse by 300 deviations": Accuracies(2000, 5, loss=300.0),
        "2,000 variants, 5 seeds, 100 worse by 300 deviations": Accuracies(
            2000, 5, loss=300.0, num_worse=100
        ),
    }
    return [
        Row("agreement", {"family": name}, partial(measure_agreement, setting), share=0.005)
        for name, setting in cases.items()
    ]
