"""What one must know to read a table, in sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from pfstudy.counting import MACS_SENTENCE, RECOUNTED
from pfstudy.speed.setting import describe_setting
from pfstudy.stats.front import SURE
from pfstudy.tables.audit import in_short
from pfstudy.tables.columns import ACCURACY, Column
from pfstudy.tables.marks import OUTDATED
from pfstudy.tables.rows import NO_NORM, PROJECTED, Rows
from pfstudy.tables.statistics import POPULATIONS
from pfstudy.tables.timing import timing_sentences
from pfstudy.words import counted

_MOST_NAMES = 4
_UNVERIFIED = {
    "data": "Data not verified by content, only by the names and sizes of files, for runs",
    "source": "Own operations identified by an older rule, which followed fewer imports, for runs",
}
_COSTS = {"latency_ms": "latency", "macs": "MACs"}


def write_caption(rows: Rows, columns: Sequence[Column]) -> str:
    """Say what the figures are, of how many seeds, on what, and what the rows do not share."""
    shown = {column.key for column in columns}
    parts = [_seeds(rows), *_tuning(rows)]
    if shown & {"difference_points", "difference_low", "verdict", "p_value"}:
        parts += [*_differences(rows), *_looks(rows), *_lost(rows)]
    if "macs" in shown:
        parts.append(MACS_SENTENCE)
    if shown & set(RECOUNTED):
        parts += _outdated(rows)
    if rows.speed and any(column.is_speed for column in columns):
        parts.append(
            "Latency and speed relative to the unsubstituted backbone: "
            f"{describe_setting(rows.speed)}."
        )
        parts += rows.speed_remarks
        shows_intervals = "relative_latency_low" in shown
        parts += timing_sentences(rows.frame, shows_intervals=shows_intervals)
    if shown & {"front", "front_probability"} and rows.front_cost:
        parts.append(
            f"On the front of accuracy over {_COSTS[rows.front_cost]}: yes, in at least "
            f"{100 * SURE:g} % of bootstrap draws; no, in fewer than {100 - 100 * SURE:g} %."
        )
    if shown & {"equal_latency_points", "equal_latency_low"}:
        parts.append(
            "At equal latency: accuracy above the line through the unsubstituted backbones of the "
            "same recipe; intervals are at 95 % for each alone."
        )
    if any(key.startswith("published") for key in shown):
        parts.append(
            "Published: Han et al. 2022, ImageNet-1k, accuracy for the same recipe alone; times on "
            "the authors' GPU relative to R50."
        )
    if rows.frame["variant"].str.contains(NO_NORM, regex=False).any():
        parts.append(
            f"{NO_NORM.strip()}: without the norm and activation of the replaced layers, which "
            "block.norm_act=keep keeps."
        )
    if rows.frame["variant"].str.endswith(PROJECTED).any():
        parts.append(
            f"{PROJECTED.strip()}: a 1x1 convolution follows where the operation cannot change "
            "the number of channels."
        )
    parts += _unverified(rows)
    if rows.audit.findings:
        parts.append(
            f"Not the same for all rows: {in_short(rows.audit.findings)}; see pfstudy audit."
        )
    return " ".join([*parts, *_incomplete(rows)])


def _outdated(rows: Rows) -> list[str]:
    """Whose activations and traffic are missing, as another version counted them."""
    number = int((rows.frame["cost_mark"] != "").sum())
    if not number:
        return []
    return [
        f"{OUTDATED}: another version of pfstudy counted activations and traffic of "
        f"{counted(number, 'variant')} in another way; pfstudy recount counts them again and "
        "trains nothing."
    ]


def _seeds(rows: Rows) -> str:
    seeds = sorted(set(rows.frame["num_seeds"]))
    number = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    data = ", ".join(dict.fromkeys(rows.frame["data"]))
    is_tested = rows.frame[ACCURACY].notna()
    if not is_tested.any():
        return (
            f"Validation accuracy on {data} after the last epoch, {number} "
            f"seed{'' if number == '1' else 's'}; these are tuning trials, which are not tested."
        )
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


def _unverified(rows: Rows) -> list[str]:
    """Which variants are identified by older rules."""
    doubts = rows.frame["unverified"].str.split(",").apply(set)
    sentences = []
    for what, text in _UNVERIFIED.items():
        found = [what in some for some in doubts]
        names = list(rows.frame.loc[found, "variant"])
        if names:
            listed = ", ".join(names[:_MOST_NAMES])
            more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
            of = "all variants" if all(found) else f"{listed}{more}"
            sentences.append(f"{text} of {of}.")
    return sentences


def _listed(numbers: pd.Series, noun: str) -> str:
    *others, last = sorted(set(map(int, numbers)))
    return " or ".join([*map(str, others), counted(last, noun)])


def _differences(rows: Rows) -> list[str]:
    """What intervals are about, and what is judged by them."""
    frame, criteria = rows.frame, rows.criteria
    labels = frame.loc[frame["is_control"] & ~frame["is_baseline"], "label"]
    to = ", ".join(dict.fromkeys(labels)) or "the baseline"
    tested = frame[frame["population"].notna()]
    sentences = []
    if not tested.empty:
        sentences.append(
            f"Differences to {to} with intervals that hold at {100 * criteria.confidence:.3g} % "
            "for all variants compared with the same baseline at once."
        )
    several = tested["population"].nunique() > 1
    for population, about in POPULATIONS.items():
        of = tested[tested["population"] == population]
        if not of.empty:
            models = f" of {', '.join(dict.fromkeys(of['model']))}" if several else ""
            sentences.append(f"Intervals{models} are for {about}.")
    if criteria.margin and not tested.empty:
        sentences.append(
            f"Not worse: by the interval, it loses no more than {criteria.margin:g} points."
        )
    untested = frame["difference_points"].notna() & frame["verdict"].isna() & ~frame["is_control"]
    if untested.any():
        sentences.append(f"{counted(int(untested.sum()), 'difference')} could not be tested.")
    return sentences


def _looks(rows: Rows) -> list[str]:
    """When the study is and was judged, if that matters to the level."""
    looks = rows.criteria.looks
    if not looks.declared and len(looks.taken) < 2:
        return []
    sentences = []
    if looks.declared:
        sentences.append(
            f"The study is judged at {_numbers(looks.declared)} seeds, and its level of 5 % "
            "divided among these looks."
        )
    if looks.undeclared:
        number = len(looks.undeclared)
        which = "a look that was" if number == 1 else f"{number} looks that were"
        sentences.append(
            f"{'Also judged' if looks.declared else 'Judged'} at {_numbers(looks.undeclared)} "
            f"seeds, {which} not declared (study.looks): the level holds for each look alone."
        )
    return sentences


def _numbers(values: Sequence[int]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def _lost(rows: Rows) -> list[str]:
    """Which variants have lost runs, and what follows from that."""
    lost = rows.frame[rows.frame["num_failed_seeds"] > 0]
    if lost.empty:
        return []
    names = [
        f"{variant} ({counted(int(number), 'run')})"
        for variant, number in zip(lost["variant"], lost["num_failed_seeds"], strict=True)
    ]
    listed = ", ".join(names[:_MOST_NAMES])
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return [
        f"Failed runs are an outcome: {listed}{more} lost some, so no verdict is in favour of "
        f"{'it' if len(names) == 1 else 'them'}."
    ]


def _incomplete(rows: Rows) -> list[str]:
    if not rows.incomplete:
        return []
    states = Counter(run.state for run in rows.incomplete)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    names = [run.name for run in rows.incomplete[:_MOST_NAMES]]
    more = len(rows.incomplete) - len(names)
    listed = ", ".join(names) + (f" and {more} more" if more else "")
    return [f"Not in the table: {counted(len(rows.incomplete), 'run')} ({counts}): {listed}."]
