"""What trained networks can be evaluated on; needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import isfinite
from typing import Literal, TypeVar

from pfstudy.errors import PfstudyError, unknown_name

Kind = Literal["clean", "corruptions", "fgsm", "occlusion"]

CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
"""The 15 common corruptions (Hendrycks and Dietterich 2019): noise, blur, weather, digital."""

SEVERITIES = (1, 2, 3, 4, 5)
OCCLUDED_PERCENT = (10, 20, 30, 40, 50, 60, 70, 80, 90)

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Case:
    """One way to change the test images, under which a network has an accuracy.

    Attributes:
        kind: What is done to them.
        strength: Severity of a corruption, epsilon of an attack in 1/255 of the range of values, or
            percentage of the patches that are occluded.
        corruption: Which one.
    """

    kind: Kind
    strength: float = 0
    corruption: str = ""

    @property
    def series(self) -> str:
        """The cases that are evaluated together, and differ in strength alone."""
        return self.corruption or self.kind

    @property
    def place(self) -> tuple[str, ...]:
        """Keys under which its accuracy stands among those of its kind."""
        strength = f"{self.strength:g}"
        return (self.corruption, strength) if self.corruption else (strength,)


CLEAN = Case("clean")


def list_cases(
    corruptions: Iterable[str] = (),
    severities: Iterable[int] = SEVERITIES,
    epsilons: Iterable[float] = (),
    occluded_percent: Iterable[int] = (),
) -> list[Case]:
    """List what is asked for, the images as they are first."""
    chosen = list(severities)
    return [
        CLEAN,
        *(Case("corruptions", severity, name) for name in corruptions for severity in chosen),
        *(Case("fgsm", epsilon) for epsilon in epsilons),
        *(Case("occlusion", percent) for percent in occluded_percent),
    ]


def parse_corruptions(text: str) -> list[str]:
    """Parse names of corruptions, separated by commas.

    Raises:
        PfstudyError: There is no such corruption; lists the choices.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in CORRUPTIONS:
            raise unknown_name("corruption", name, CORRUPTIONS)
    return [name for name in CORRUPTIONS if name in names]


def parse_severities(text: str) -> list[int]:
    """Parse severities, separated by commas.

    Raises:
        PfstudyError: One is none of 1 to 5.
    """
    return _parse(text, int, lambda value: value in SEVERITIES, "--severities lists some of 1 to 5")


def parse_epsilons(text: str) -> list[float]:
    """Parse epsilons of an attack, in 1/255 of the range of values, separated by commas.

    Raises:
        PfstudyError: One is no number above 0, and at most 255.
    """
    expected = "--fgsm lists numbers above 0 and up to 255, such as 1,2,4,8"
    return _parse(text, float, lambda value: isfinite(value) and 0 < value <= 255, expected)


def _parse(
    text: str, kind: Callable[[str], _Value], is_valid: Callable[[_Value], bool], expected: str
) -> list[_Value]:
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(map(is_valid, values)):
        raise PfstudyError(f"{expected}, but got {text!r}.")
    return sorted(set(values))  # type: ignore[type-var]
