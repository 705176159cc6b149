"""How numbers and times are written for people."""

from __future__ import annotations

from collections.abc import Sequence


def duration(seconds: float | None) -> str:
    """Write a time for people: ``42 s``, ``3 min``, ``1 h 20 min``, ``2 d 3 h``."""
    if seconds is None:
        return ""
    minutes = seconds / 60
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if minutes < 99.5:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60):02} min"
    return f"{int(hours // 24)} d {int(hours % 24)} h"


def counted(number: int, noun: str) -> str:
    """Write a number of things: ``1 run``, ``2 runs``."""
    plural = f"{noun}es" if noun.endswith("s") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def name_some(names: Sequence[str], most: int = 4) -> str:
    """Name the first of many: ``a, b and 3 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
