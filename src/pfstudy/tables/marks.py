"""What marks figures of speed that are not what they seem, and what the marks mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pfstudy.speed.phase import was_busy

BUSY = "*"
"""Marks a figure of speed that was measured while others used the machine."""

FELL_BACK = "†"
"""Marks a figure of speed of a network that was computed eagerly, as it does not compile."""

OUTDATED = "‡"
"""Marks a figure of cost that is not shown, as another version counted it in another way."""

_MEANINGS = {
    BUSY: "measured while others used the machine",
    FELL_BACK: "computed eagerly, as it does not compile",
}


def speed_mark(measured: Mapping[str, Any]) -> str:
    """What marks a figure of speed that is not what it seems.

    Args:
        measured: A measurement, or what a block table or `Layers` says of itself; may be empty.
    """
    return (BUSY if was_busy(measured) else "") + (FELL_BACK if measured.get("fell_back") else "")


def explain_marks(measured: Iterable[Mapping[str, Any]]) -> list[str]:
    """Say what the marks of figures of speed mean, as far as there are any, and what is not known.

    Args:
        measured: What `speed_mark` takes, of all figures.
    """
    found = list(measured)
    marks = "".join(map(speed_mark, found))
    sentences = [f"{mark}: {meaning}." for mark, meaning in _MEANINGS.items() if mark in marks]
    if any("others_load" in each and each["others_load"] is None for each in found):
        sentences.append("How busy the device was is not known.")
    return sentences
