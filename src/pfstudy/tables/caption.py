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
from pfstudy.tables.judging import in_points
from pfstudy.tables.marks import OUTDATED
from pfstudy.tables.rows import NO_NORM, PROJECTED, Rows
from pfstudy.tables.statistics import POPULATIONS
from pfstudy.tables.timing import timing_sentences
from pfstudy.words import counted, name_some

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
            f"{100 * SURE:g} % of draws from their errors; no, in fewer than "
            f"{100 - 100 * SURE:g} %."
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
            of = "all variants" if all(found) else name_some(names)
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
            f"Not worse: by the interval, it loses no more than {in_points(criteria.margin)}."
        )
    return [*sentences, *_pairing(rows), *_untested(rows)]


def _pairing(rows: Rows) -> list[str]:
    """Which runs are compared, where that is not all of them, seed by seed."""
    known = {row["hash"]: row for row in rows.frame.to_dict("records")}
    unpaired, is_partial = [], False
    for family in rows.families:
        if not family.has_control:
            continue
        unpaired += [known[name]["variant"] for name in family.unpaired]
        sizes = [known[name]["num_seeds"] for name in family.hashes]
        shared = family.estimate.num_seeds_V.tolist()
        is_partial |= any(size != number for size, number in zip(sizes, shared, strict=True))
        is_partial |= any(known[family.control]["num_seeds"] != number for number in shared)
    sentences = []
    if is_partial:
        sentences.append("Differences are over the seeds that both have, accuracies over all.")
    if unpaired:
        sentences.append(
            f"Paired in order, as they share no seeds with the baseline: {name_some(unpaired)}."
        )
    return sentences


def _untested(rows: Rows) -> list[str]:
    """Which differences have no verdict, and where test images are no source of error."""
    frame = rows.frame
    is_untested = frame["difference_points"].notna() & frame["verdict"].isna()
    names = frame.loc[is_untested & ~frame["is_control"], "variant"].tolist()
    sentences = []
    unknown = [name for family in rows.families for name in family.unknown]
    if unknown:
        sentences.append(
            "Which test images are right is not known of all runs (predictions.npz is missing or "
            f"of other images: {name_some(unknown)}), so not all sources of error are counted."
        )
    if names:
        sentences.append(
            f"{counted(len(names), 'difference')} could not be tested: {name_some(names)}."
        )
    return sentences


def _looks(rows: Rows) -> list[str]:
    """When the study is and was judged, if that matters to the level."""
    looks, others = rows.criteria.looks, rows.criteria.other_looks
    sentences = []
    if looks.declared:
        share = (
            f", 5 % divided by {len(looks.declared)} for each" if len(looks.declared) > 1 else ""
        )
        sentences.append(f"Declared looks: at {_numbers(looks.declared)} seeds{share}.")
    if looks.undeclared and (looks.declared or len(looks.taken) > 1):
        number = len(looks.undeclared)
        which = "that look was" if number == 1 else f"these {number} looks were"
        sentences.append(
            f"Judged at {_numbers(looks.undeclared)} seeds{', too' if looks.declared else ''}: "
            f"{which} not declared (study.looks), so with each of them more is found by chance."
        )
    if others:
        sentences.append(
            f"Looks that are declared for {name_some(others)} are not taken into account; name the "
            "study to do so: --study NAME."
        )
    return sentences


def _numbers(values: Sequence[int]) -> str:
    *others, last = map(str, values)
    return f"{', '.join(others)} and {last}" if others else last


def _lost(rows: Rows) -> list[str]:
    """Which variants have lost runs, and what follows from that."""
    lost = rows.frame[rows.frame["num_failed_seeds"] > 0]
    names = [
        f"{variant} ({counted(int(number), 'run')})"
        for variant, number in zip(lost["variant"], lost["num_failed_seeds"], strict=True)
    ]
    sentences = []
    if names:
        sentences.append(
            f"Runs that failed: {name_some(names)}. No verdict favours "
            f"{'it' if len(names) == 1 else 'them'}, as the worst outcome may be missing."
        )
    num_absent = sum(family.num_absent for family in rows.families)
    if num_absent:
        sentences.append(
            f"All runs of {counted(num_absent, 'variant')} failed; the intervals of the others "
            "allow for them."
        )
    return sentences


def _incomplete(rows: Rows) -> list[str]:
    if not rows.incomplete:
        return []
    states = Counter(run.state for run in rows.incomplete)
    counts = ", ".join(f"{number} {state}" for state, number in states.items())
    listed = name_some([run.name for run in rows.incomplete])
    return [f"Not in the table: {counted(len(rows.incomplete), 'run')} ({counts}): {listed}."]
