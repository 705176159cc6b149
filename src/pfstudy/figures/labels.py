"""Width of text in a figure, and how long labels wrap."""

from __future__ import annotations

import re

_WORDS = re.compile(r"\([^\s)]+ [^\s)]+\)|\S+")  # (no norm) is one
_NARROW = frozenset("fijlrtI.,:;'!|()[]/- ")
_WIDE = frozenset("mwMW%@")
_EMS = {"narrow": 0.34, "wide": 0.95, "capital": 0.78, "other": 0.57}  # of Helvetica, or more


def text_width(text: str, size: float) -> float:
    """Width of a line in points, at most slightly more than it has.

    Args:
        text: The line.
        size: Of the type, in points.
    """
    return size * sum(_EMS.get(_kind(letter), 1.0) for letter in text)


def wrap(text: str, width: float, size: float) -> list[str]:
    """Wrap text at spaces, and inside words that are longer than a line.

    Args:
        text: What to wrap; nothing of it but spaces is lost.
        width: Of a line, in points.
        size: Of the type, in points.
    """
    lines = [""]
    for word in _WORDS.findall(text):
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and text_width(lines[-1] + letter, size) > width:
                lines.append("")
            lines[-1] += letter
    return lines


def _kind(letter: str) -> str:
    if not letter.isascii():
        return "unknown"
    kinds = {"narrow": letter in _NARROW, "wide": letter in _WIDE, "capital": letter.isupper()}
    return next((kind for kind, holds in kinds.items() if holds), "other")
