"""What intervals and verdicts hold for, in few words: for figures and tables of effects."""

from __future__ import annotations

from pfstudy.stats.comparison import Population, Verdict

SHORT_POPULATIONS: dict[Population, str] = {
    "both": "new trainings and new test images",
    "seeds": "new trainings on these test images",
    "images": "these trained networks and new test images",
}
"""`pfstudy.tables.statistics.POPULATIONS` in short."""

DIFFERENT = "*"
"""Marks what is better or worse."""

NOT_WORSE = "~"
"""Marks what is not worse by the margin."""


def mark_of(verdict: Verdict | None) -> str:
    """The mark of a verdict; nothing if it is undecided."""
    return {"better": DIFFERENT, "worse": DIFFERENT, "not worse": NOT_WORSE}.get(verdict or "", "")


def percent(confidence: float) -> str:
    """A level as people write it: ``95 %``."""
    return f"{100 * confidence:.3g} %"


def margin_sentence(margin: float) -> str:
    """What the mark of those that are not worse means."""
    return f"{NOT_WORSE}: not worse, loses no more than the margin of {in_points(margin)}."


def in_points(margin: float) -> str:
    """A margin with its unit."""
    return f"{margin:g} point{'' if margin == 1 else 's'}"
