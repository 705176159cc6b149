"""The result columns: one table of what they are called and how they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pfstudy.errors import unknown_name
from pfstudy.words import duration

ACCURACY = "test_top1_percent"
"""Key of the figure that variants are judged by."""


def _text(value: Any) -> str:
    return str(value)


def _three_digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".") if value < 100 else f"{value:.0f}"


def _times(value: float) -> str:
    return f"{value:.2f}"


def _ratio(value: float) -> str:
    return f"{value:.3f}"


def _percent(value: float) -> str:
    return f"{value:.2f}"


def write_points(value: float) -> str:
    """Write a difference, and never ``-0.00``."""
    return f"{round(value, 2) + 0.0:+.2f}"


def _probability(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _general(value: float) -> str:
    return f"{value:g}"


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
        partner: Key of a second value that is written in the same cell.
        joined: How: ``spread`` for a mean and its deviation, ``interval`` for two ends.
        group: What columns side by side are of; a header above theirs where there is room.
        short: Header below that of the group.
        is_speed: Whether the figure is of a measurement of speed, and bears its marks.
    """

    key: str
    label: str
    format: Callable[[Any], str]
    higher_is_better: bool | None = None
    scale: float | None = None
    partner: str | None = None
    joined: Literal["spread", "interval"] | None = None
    group: str = ""
    short: str = ""
    is_speed: bool = False

    @property
    def is_text(self) -> bool:
        """Whether values are words."""
        return self.format is _text

    def write(self, value: Any) -> str:
        """Write a value for people; nothing for one that is missing."""
        if value is None or value != value:
            return ""
        return self.format(value if self.scale is None else value * self.scale)


_ACCURACY, _SPEED, _COST = "accuracy", "speed", "cost"
_DIFFERENCE = "difference to the baseline"
_PUBLISHED = "published"

COLUMNS = (
    Column("variant", "variant", _text),
    Column("tuned_lr", "tuned lr", _general),
    Column("tuned_weight_decay", "tuned decay", _general),
    Column("params", "params (M)", _three_digits, False, 1e-6, group=_COST),
    Column("macs", "MACs (G)", _three_digits, False, 1e-9, group=_COST),
    Column("activations", "activations (M)", _three_digits, False, 1e-6, group=_COST),
    Column("memory_traffic_bytes", "traffic (MB)", _three_digits, False, 1e-6, group=_COST),
    Column("latency_ms", "latency (ms)", _three_digits, False, group=_SPEED, is_speed=True),
    Column("throughput_images_per_s", "images/s", _three_digits, True, group=_SPEED, is_speed=True),
    Column("relative_speed", "speed (x)", _times, True, group=_SPEED, short="relative (x)",
           is_speed=True),
    Column("relative_latency", "rel. time", _ratio, False, group=_SPEED, is_speed=True),
    Column("relative_latency_low", "rel. time, 95 % interval", _ratio, group=_SPEED,
           partner="relative_latency_high", joined="interval", short="95 % interval"),
    Column("peak_memory_bytes", "memory (MiB)", _three_digits, False, 2**-20, group=_SPEED),
    Column("energy_j", "energy (J)", _three_digits, False, group=_SPEED),
    Column("test_top1_percent", "top-1 (%)", _percent, True, partner="test_top1_percent_std",
           joined="spread", group=_ACCURACY),
    Column("test_top5_percent", "top-5 (%)", _percent, True, group=_ACCURACY),
    Column("test_loss", "loss", _three_digits, False, group=_ACCURACY),
    Column("val_top1_percent", "val. top-1 (%)", _percent, True, group=_ACCURACY),
    Column("difference_points", "diff. (points)", write_points, True, group=_DIFFERENCE,
           short="points"),
    Column("difference_low", "interval", write_points, partner="difference_high",
           joined="interval", group=_DIFFERENCE),
    Column("p_value", "p", _probability, group=_DIFFERENCE),
    Column("verdict", "verdict", _text, group=_DIFFERENCE),
    Column("population", "population", _text, group=_DIFFERENCE),
    Column("equal_latency_points", "at equal latency (points)", write_points, True),
    Column("equal_latency_low", "at equal latency, 95 % interval", write_points,
           partner="equal_latency_high", joined="interval"),
    Column("front", "front", _text),
    Column("front_probability", "front probability", _times),
    Column("published", "network", _text, group=_PUBLISHED),
    Column("published_top1_percent", "published top-1 (%)", _percent, True, group=_PUBLISHED,
           short="top-1 (%)"),
    Column("published_top5_percent", "published top-5 (%)", _percent, True, group=_PUBLISHED,
           short="top-5 (%)"),
    Column("published_latency", "published rel. time", _times, False, group=_PUBLISHED,
           short="rel. time"),
    Column("training_seconds", "training", duration),
    Column("num_seeds", "seeds", _count),
    Column("num_failed_seeds", "failed seeds", _count),
)  # fmt: skip
"""In the order of a table."""

BY_KEY = {column.key: column for column in COLUMNS}

STYLES: dict[str, tuple[str, ...]] = {
    "short": (
        *("variant", "tuned_lr", "tuned_weight_decay"),
        *("params", "macs", "latency_ms", "relative_speed", "test_top1_percent"),
        *("difference_points", "difference_low", "verdict", "equal_latency_points", "front"),
    ),
    "paper": (
        *("variant", "params", "macs", "latency_ms", "test_top1_percent", "test_top5_percent"),
    ),
    "full": tuple(key for key in BY_KEY if not key.startswith("published")),
}
"""Column sets; those of ``paper`` are those of the tables of Han et al. 2022."""

COMPARISONS: dict[str, tuple[str, ...]] = {
    "paper": (
        *("relative_latency", "published", "published_top1_percent", "published_top5_percent"),
        "published_latency",
    ),
}
"""Columns of published figures, which are set beside ours."""

CLEAN_COLUMNS = (
    Column("top1_percent", "top-1 (%)", _percent, True),
    Column("top5_percent", "top-5 (%)", _percent, True),
    Column("loss", "loss", _three_digits, False),
    Column("ece_percent", "ECE (%)", _percent, False),
    Column("brier", "Brier", _ratio, False),
    Column("num_images", "images", _count),
)
"""Of a network on test images as they are."""

EVALUATION_COLUMNS = (
    Column("model", "model", _text),
    Column("variant", "variant", _text),
    Column("params", "params (M)", _three_digits, False, 1e-6),
    Column("macs", "MACs (G)", _three_digits, False, 1e-9),
    *CLEAN_COLUMNS,
)
"""Of `pfstudy eval` with given weights, in the order of its table."""


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


def choose_columns(
    style: str, keys: Sequence[str], settings: Sequence[str], beside: str | None = None
) -> list[Column]:
    """Choose columns by a style or by their keys; the settings stand behind the variant.

    Args:
        style: One of `STYLES`.
        keys: Keys of columns or settings, in the order wanted; none for those of the style.
        settings: Settings in which the variants differ.
        beside: One of `COMPARISONS`.

    Raises:
        PfstudyError: There is no such style, column or comparison.
    """
    if style not in STYLES:
        raise unknown_name("style", style, STYLES)
    if beside is not None and beside not in COMPARISONS:
        raise unknown_name("--compare", beside, COMPARISONS)
    known = BY_KEY | {column.key: column for column in setting_columns(settings)}
    for key in keys:
        if key not in known:
            raise unknown_name("column", key, known)
    published = COMPARISONS[beside] if beside else ()
    first, *others = STYLES[style]
    chosen = ("variant", *keys) if keys else (first, *settings, *others)
    return [known[key] for key in dict.fromkeys((*chosen, *published))]
