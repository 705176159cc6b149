"""Simulated families of variants: accuracies of runs, and which test images they have right.

The dimensions of the arrays are F families, G a baseline and its V variants, S seeds, N images.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import ndtri

Member = Literal["baseline", "variant"]


@dataclass(frozen=True)
class Accuracies:
    """A family whose members have the same accuracy, with normal errors.

    Attributes:
        num_variants: Without the baseline.
        num_seeds: Of each.
        correlation: Between runs with the same seed.
        ratio: Standard deviation of one member over that of the others; it scales all of the
            member's error, the part shared by the seed included.
        member: The baseline or the first variant.
        deviation: Standard deviation of one run of the others in points.
        step: Accuracies are rounded to multiples of it in points; 0 for no rounding.
        loss: Points that the first variants are less accurate.
        num_worse: How many these are.
    """

    num_variants: int
    num_seeds: int
    correlation: float = 0.0
    ratio: float = 1.0
    member: Member = "baseline"
    deviation: float = 1.0
    step: float = 0.0
    loss: float = 0.0
    num_worse: int = 1


def sample_accuracies(
    setting: Accuracies, number: int, generator: np.random.Generator
) -> np.ndarray:
    """Sample accuracies in percent: ``(F, G, S)``."""
    num_members = setting.num_variants + 1
    own_FGS = generator.standard_normal((number, num_members, setting.num_seeds))
    shared_F1S = generator.standard_normal((number, 1, setting.num_seeds))
    errors_FGS = np.sqrt(1 - setting.correlation) * own_FGS
    errors_FGS += np.sqrt(setting.correlation) * shared_F1S
    deviations_G = np.full(num_members, setting.deviation)
    deviations_G[0 if setting.member == "baseline" else 1] *= setting.ratio
    accuracies_FGS = 90 + deviations_G[:, None] * errors_FGS
    accuracies_FGS[:, 1 : 1 + setting.num_worse] -= setting.loss
    if not setting.step:
        return accuracies_FGS
    # the true accuracy may be anywhere between two steps
    accuracies_FGS += setting.step * generator.random((number, 1, 1))
    return np.asarray(setting.step * np.round(accuracies_FGS / setting.step))


@dataclass(frozen=True)
class Images:
    """A family that is trained and tested on a random sample of seeds and images.

    A run has an image right with a probability of Phi(ability + errors). The errors are normal;
    their standard deviations are those of the last attributes. With the defaults and 5 seeds, the
    standard error of a difference is 0.4 points from seeds and 0.5 from images.

    Attributes:
        num_variants: Without the baseline.
        num_seeds: Of each.
        num_images: Number of test images.
        accuracy: True accuracy of the baseline in percent.
        loss: Points that all variants are less accurate.
        image: How difficult an image is.
        variant_image: How difficult it is for a variant.
        seed_image: How difficult it is with a seed, for all variants.
        seed: How well all variants train with a seed.
        variant_seed: How well a variant trains with a seed.
    """

    num_variants: int
    num_seeds: int
    num_images: int = 500
    accuracy: float = 95.0
    loss: float = 0.0
    image: float = 3.0
    variant_image: float = 0.8
    seed_image: float = 0.5
    seed: float = 0.05
    variant_seed: float = 0.12


def sample_correct(setting: Images, number: int, generator: np.random.Generator) -> np.ndarray:
    """Sample which images are right: ``(F, G, S, N)``."""
    shape = (setting.num_variants + 1, setting.num_seeds, setting.num_images)
    abilities_G11 = np.full((shape[0], 1, 1), _ability(setting, setting.accuracy), np.float32)
    abilities_G11[1:] = _ability(setting, setting.accuracy - setting.loss)
    scaled = (
        (setting.image, (1, 1, shape[2])),
        (setting.variant_image, (shape[0], 1, shape[2])),
        (setting.seed_image, (1, *shape[1:])),
        (setting.seed, (1, shape[1], 1)),
        (setting.variant_seed, (*shape[:2], 1)),
    )
    correct_FGSN = np.empty((number, *shape), bool)
    for correct_GSN in correct_FGSN:  # one family after the other fits a processor's cache
        # right with a probability of Phi(x) is whether x plus a normal deviate is positive
        latent_GSN = generator.standard_normal(shape, dtype=np.float32)
        latent_GSN += abilities_G11
        for deviation, part in scaled:
            latent_GSN += np.float32(deviation) * generator.standard_normal(part, dtype=np.float32)
        np.greater(latent_GSN, 0, out=correct_GSN)
    return correct_FGSN


def _ability(setting: Images, accuracy: float) -> float:
    """Ability with which the mean over all seeds and images is an accuracy in percent."""
    parts = ("image", "variant_image", "seed_image", "seed", "variant_seed")
    total = 1 + sum(getattr(setting, part) ** 2 for part in parts)
    return float(ndtri(accuracy / 100) * np.sqrt(total))


def accuracies_of(correct_FGSN: np.ndarray) -> np.ndarray:
    """Accuracies in percent: ``(F, G, S)``."""
    return 100 * correct_FGSN.mean(axis=-1)


@dataclass(frozen=True)
class Changes:
    """Variants of one seed, compared with their baseline on test images.

    Attributes:
        num_variants: Without the baseline; their changes are independent.
        gained: Expected number of images that a variant alone has right.
        lost: Expected number that the baseline alone has right.
        num_images: Number of test images.
    """

    num_variants: int
    gained: int
    lost: int
    num_images: int

    @property
    def difference(self) -> float:
        """True difference in points."""
        return 100 * (self.gained - self.lost) / self.num_images


def sample_changes(
    setting: Changes, number: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sample numbers of gained and lost images: ``(F, V)`` each."""
    shares = np.array([setting.gained, setting.lost]) / setting.num_images
    counts = generator.multinomial(
        setting.num_images, [*shares, 1 - shares.sum()], (number, setting.num_variants)
    )
    return counts[..., 0].astype(float), counts[..., 1].astype(float)
