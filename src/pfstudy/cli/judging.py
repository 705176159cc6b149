"""How variants are judged: the options of commands that compare them, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pfstudy.errors import PfstudyError, unknown_name

if TYPE_CHECKING:
    from pfstudy.store import Looks
    from pfstudy.tables.statistics import Criteria

Baseline = Annotated[
    str | None, typer.Option(help="Compare with this variant; default: the backbone.")
]
OfPopulation = Annotated[
    str | None,
    typer.Option(
        "--population",
        help="What intervals are about: both (new trainings, new images like these), seeds (new "
        "trainings, these images), images (these networks, new images); default: both, or images "
        "with one seed.",
    ),
]
Margin = Annotated[
    float | None,
    typer.Option(
        help="A loss in points that does not matter: a variant that surely loses no more is not "
        "worse."
    ),
]


@dataclass(frozen=True)
class Judging:
    """How variants are judged, as it was asked for.

    Attributes:
        baseline: Label of the variant to compare with; ``None`` for the unsubstituted backbone.
        population: What statements are about; ``None`` for what is known best.
        margin: A loss in points that does not matter; ``None`` for none.
    """

    baseline: str | None = None
    population: str | None = None
    margin: float | None = None


def make_criteria(judging: Judging, sources: Sequence[str | Path], study: str | None) -> Criteria:
    """Check how variants are to be judged, and find out when the study is looked at.

    Raises:
        PfstudyError: There is no such population, or the margin is none.
    """
    from pfstudy.tables.statistics import POPULATIONS, Criteria

    population, margin = judging.population, judging.margin
    if margin is not None and not 0 < margin <= 100:
        raise PfstudyError(
            f"--margin is a loss in points, above 0 and at most 100, but got {margin:g}."
        )
    chosen = next((name for name in POPULATIONS if name == population), None)
    if population is not None and chosen is None:
        raise unknown_name("population", population, POPULATIONS)
    return Criteria(judging.baseline, chosen, margin or 0.0, *_looks(sources, study))


def _looks(sources: Sequence[str | Path], study: str | None) -> tuple[Looks, tuple[str, ...]]:
    """Find the looks at a study, or else at the only study that there is.

    Returns:
        The looks, and which of several studies declare some if none was named.
    """
    from pfstudy import store

    roots = [Path(source) for source in sources if not str(source).startswith("wandb:")]
    if study is not None:
        found = (store.read_looks(root, study) for root in roots)
        return next((looks for looks in found if looks != store.Looks()), store.Looks()), ()
    studies = [
        (root, path.stem) for root in roots for path in (root / store.STUDIES).glob("*.json")
    ]
    if len(studies) == 1:
        return store.read_looks(*studies[0]), ()
    declared = [name for root, name in studies if store.read_looks(root, name).declared]
    return store.Looks(), tuple(sorted(set(declared)))
