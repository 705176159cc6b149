"""What one must know to read a table, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from pfstudy.speed.setting import describe_setting
from pfstudy.stats.front import SURE
from pfstudy.tables.audit import in_short
from pfstudy.tables.columns import Column
from pfstudy.tables.rows import PROJECTED, Rows
from pfstudy.words import counted

_MOST_NAMES = 4
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
    parts = [_seeds(rows)]
    if shown & {"difference_points", "difference_low", "verdict", "p_value"}:
        parts += _tests(rows)
    if rows.speed and any(column.is_speed for column in columns):
        parts.append(
            "Latency and speed relative to the unsubstituted backbone: "
            f"{describe_setting(rows.speed)}."
        )
        parts += rows.speed_remarks
    if shown & {"front", "front_probability"} and rows.front_cost:
        parts.append(
            f"On the front of accuracy over {_COSTS[rows.front_cost]}: yes, in at least "
            f"{100 * SURE:g} % of bootstrap draws; no, in fewer than {100 - 100 * SURE:g} %."
        )
    if "equal_latency_points" in shown:
        parts.append(
            "At equal latency: accuracy above the line through the unsubstituted backbones."
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
    if rows.findings:
        parts.append(f"Not the same for all rows: {in_short(rows.findings)}; see pfstudy audit.")
    return " ".join([*parts, *_incomplete(rows)])


def _seeds(rows: Rows) -> str:
    seeds = sorted(set(rows.frame["num_seeds"]))
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"Test accuracy after the last epoch, {number} seed{'' if number == '1' else 's'}" + (
        " (mean ± standard deviation)." if seeds[-1] > 1 else "."
    )


def _tests(rows: Rows) -> list[str]:
    used = [test for test in _TESTS if (rows.frame["test"] == test).any()]
    sentences = [
        f"Differences to the baseline with intervals that hold for all at once, at 95 %, by "
        f"{'; or by '.join(_TESTS[test] for test in used)}."
    ] if used else []  # fmt: skip
    untested = rows.frame["difference_points"].notna() & rows.frame["test"].isna()
    number = int((untested & (rows.frame["difference_points"] != 0)).sum())
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
