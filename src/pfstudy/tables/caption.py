"""What one must know to read a table, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from pfstudy.speed.setting import describe_setting
from pfstudy.stats.front import SURE
from pfstudy.tables.audit import in_short
from pfstudy.tables.columns import ACCURACY, Column
from pfstudy.tables.rows import PROJECTED, Rows
from pfstudy.words import counted

_MOST_NAMES = 4
_MUCH = 3
_TESTS = {
    "dunnett": "Dunnett's test, with the variance pooled over the variants",
    "welch": "Welch's test, as the variances differ, with Bonferroni's correction",
    "mcnemar": (
        "McNemar's exact test with Bonferroni's correction; with one seed, that is a statement "
        "about these trained networks on these test images alone"
    ),
}
_COSTS = {"latency_ms": "latency", "macs": "MACs"}


def write_caption(rows: Rows, columns: Sequence[Column]) -> str:
    """Say what the figures are, of how many seeds, on what, and what the rows do not share."""
    shown = {column.key for column in columns}
    parts = [_seeds(rows), *_tuning(rows)]
    if shown & {"difference_points", "difference_low", "verdict", "p_value"}:
        parts += _tests(rows)
    if rows.speed and any(column.is_speed for column in columns):
        parts.append(
            "Latency and speed relative to the unsubstituted backbone: "
            f"{describe_setting(rows.speed)}."
        )
        parts += rows.speed_remarks
    if shown & {"front", "front_probability"} and rows.front_cost:
        of = "seeds" if rows.frame["num_seeds"].max() > 1 else "test images alone"
        parts.append(
            f"On the front of accuracy over {_COSTS[rows.front_cost]}: yes, in at least "
            f"{100 * SURE:g} % of bootstrap draws (of {of}); no, in fewer than "
            f"{100 - 100 * SURE:g} %."
        )
    if "equal_latency_points" in shown:
        parts.append(
            "At equal latency: accuracy above the line through the unsubstituted backbones of the "
            "same recipe."
        )
    if any(key.startswith("published") for key in shown):
        parts.append(
            "Published: Han et al. 2022, ImageNet-1k, the shorter training, without CutMix; times "
            "on the authors' GPU relative to R50."
        )
    if rows.frame["variant"].str.endswith(PROJECTED).any():
        parts.append(
            f"{PROJECTED.strip()}: a 1x1 convolution follows where the operation cannot change "
            "the number of channels."
        )
    if rows.audit.findings:
        parts.append(
            f"Not the same for all rows: {in_short(rows.audit.findings)}; see pfstudy audit."
        )
    return " ".join([*parts, *_incomplete(rows)])


def _seeds(rows: Rows) -> str:
    seeds = sorted(set(rows.frame["num_seeds"]))
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    data = ", ".join(dict.fromkeys(rows.frame["data"]))
    return (
        f"Test accuracy on {data} after the last epoch, {number} seed{'' if number == '1' else 's'}"
        + (" (mean ± standard deviation)." if seeds[-1] > 1 else ".")
    )


def _tuning(rows: Rows) -> list[str]:
    """How learning rate and weight decay were chosen, and of which rows."""
    tuned = rows.frame[rows.frame["num_trials"].notna()]
    if tuned.empty:
        return []
    of = "every variant"
    others = ""
    if len(tuned) < len(rows.frame):
        of = f"{len(tuned)} of {counted(len(rows.frame), 'variant')}"
        others = "; the others have the recipe's own"
    sentences = [
        f"Learning rate and weight decay of {of} were chosen by validation accuracy, each among "
        f"{_listed(tuned['num_trials'], 'trial')} of {_listed(tuned['trial_epochs'], 'epoch')}"
        f"{others}."
    ]
    num_failed = int(tuned["num_failed_trials"].sum())
    if num_failed:
        sentences.append(f"{counted(num_failed, 'trial')} failed.")
    return sentences


def _listed(numbers: pd.Series, noun: str) -> str:
    *others, last = sorted(set(map(int, numbers)))
    return " or ".join([*map(str, others), counted(last, noun)])


def _tests(rows: Rows) -> list[str]:
    used = [test for test in _TESTS if (rows.frame["test"] == test).any()]
    frame = rows.frame
    labels = frame.loc[frame["is_control"] & ~frame["is_baseline"], "label"]
    to = ", ".join(dict.fromkeys(labels)) or "the baseline"
    sentences = [
        f"Differences to {to} with intervals that hold at once for all variants compared with the "
        f"same baseline, at 95 %, by {'; or by '.join(_TESTS[test] for test in used)}."
    ] if used else []  # fmt: skip
    spreads = frame.loc[frame["num_seeds"] > 1, f"{ACCURACY}_std"]
    if "dunnett" in used and spreads.max() > _MUCH * spreads.min() > 0:
        sentences.append(
            f"The standard deviations range from {spreads.min():.2f} to {spreads.max():.2f}; the "
            "pooled one understates the largest."
        )
    untested = frame["difference_points"].notna() & frame["test"].isna() & ~frame["is_control"]
    number = int(untested.sum())
    if number:
        sentences.append(f"{counted(number, 'difference')} could not be tested.")
    return sentences


def _incomplete(rows: Rows) -> list[str]:
    if not rows.incomplete:
        return []
    states = Counter(run.state for run in rows.incomplete)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    names = [run.name for run in rows.incomplete[:_MOST_NAMES]]
    more = len(rows.incomplete) - len(names)
    listed = ", ".join(names) + (f" and {more} more" if more else "")
    return [f"Not in the table: {counted(len(rows.incomplete), 'run')} ({counts}): {listed}."]
