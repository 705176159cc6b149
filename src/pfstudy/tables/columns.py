"""The result columns: one table of what they are called and how they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


def _text(value: Any) -> str:
    return str(value)


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")


def _times(value: float) -> str:
    return f"{value:.2f}x"


def _percent(value: float) -> str:
    return f"{value:.2f}"


def _points(value: float) -> str:
    return f"{value:+.2f}"


def _count(value: float) -> str:
    return f"{value:.0f}"


@dataclass(frozen=True)
class Column:
    """A column of results.

    Attributes:
        key: Key in the rows and header in CSV.
        label: Header for people; the unit is part of it.
        format: How a value that is present is written.
        higher_is_better: ``None`` where neither is.
        scale: What a value is multiplied with before it is written for people.
    """

    key: str
    label: str
    format: Callable[[Any], str]
    higher_is_better: bool | None = None
    scale: float | None = None

    def write(self, value: Any) -> str:
        """Write a value for people; nothing for one that is missing."""
        if value is None or value != value:
            return ""
        return self.format(value if self.scale is None else value * self.scale)


COLUMNS = (
    Column("variant", "variant", _text),
    Column("params", "params (M)", _three_digits, False, 1e-6),
    Column("macs", "MACs (G)", _three_digits, False, 1e-9),
    Column("latency_ms", "latency (ms)", _three_digits, False),
    Column("relative_speed", "speed", _times, True),
    Column("test_top1_percent", "top-1 (%)", _percent, True),
    Column("test_top1_percent_std", "std", _percent, False),
    Column("difference_points", "diff. (points)", _points, True),
    Column("num_seeds", "seeds", _count),
)
"""In the order of a table; ``test_top1_percent_std`` is written behind its mean."""

EVALUATION_COLUMNS = (
    Column("model", "model", _text),
    Column("variant", "variant", _text),
    Column("params", "params (M)", _three_digits, False, 1e-6),
    Column("macs", "MACs (G)", _three_digits, False, 1e-9),
    Column("top1_percent", "top-1 (%)", _percent, True),
    Column("top5_percent", "top-5 (%)", _percent, True),
    Column("loss", "loss", _three_digits, False),
    Column("num_images", "images", _count),
)
"""Of `pfstudy eval`, in the order of its table."""


def setting_columns(keys: Sequence[str]) -> list[Column]:
    """Columns of the settings in which the variants of a table differ, such as ``recipe.lr``.

    The header is the last part of the key, or all of it where that would not be unique.
    """
    last = [key.rpartition(".")[2] for key in keys]
    taken = Counter([*last, *(column.label for column in COLUMNS)])
    return [
        Column(key, name if taken[name] == 1 else key, _text)
        for key, name in zip(keys, last, strict=True)
    ]
