"""A plan in, a table and plain data out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pfstudy.counting import MACS_SENTENCE
from pfstudy.launch.planned import NEW, Plan, PlannedRun, PlannedVariant
from pfstudy.speed.setting import describe_setting
from pfstudy.tables.columns import COLUMNS, setting_columns
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.words import counted, duration, name_some

_COLUMNS = {column.key: column for column in COLUMNS}
_MOST_NAMES = 10
_ESTIMATED = "~"
_UNREMARKABLE = ("pending", NEW)


def as_data(plan: Plan) -> dict[str, Any]:
    """A plan as plain data for programs, unrounded; ``None`` where something is not known."""
    return {
        "study": plan.study,
        "speed_setting": dict(plan.setting),
        "rows": [_row_data(row) for row in plan.variants],
        "totals": {
            "num_variants": len(plan.variants),
            "num_runs": len(_runs(plan)),
            "num_done": len(_done(plan)),
            "num_left": len(_left(plan)),
            "num_trials": len(plan.trials),
            "num_trials_left": sum(trial.is_left for trial in plan.trials),
            "trial_seconds": plan.trial_seconds,
            "num_problems": sum(row.problem is not None for row in plan.variants),
            "num_slots": plan.num_slots,
            "devices_per_run": plan.devices_per_run,
            "seconds": plan.seconds,
            "device_hours": plan.device_hours,
            "seconds_done": sum((run.seconds or 0.0 for run in _done(plan)), 0.0),
        },
        "duplicates": [asdict(duplicate) for duplicate in plan.duplicates],
        "dropped": [
            {"name": row.name, "hash": row.variant.hash, "constraint": constraint}
            for row, constraint in plan.dropped
        ],
    }


def render(plan: Plan) -> RenderableType:
    """Write a plan for the terminal: a table, the totals, and what is to be known besides."""
    shows_macs = any(row.macs is not None for row in plan.variants)
    lines = [_totals(plan), *([MACS_SENTENCE] if shows_macs else []), *_remarks(plan)]
    return Group(_table(plan), *map(Text, lines))


def describe_problems(plan: Plan) -> str | None:
    """Name the variants that cannot be trained in a sentence; ``None`` if all can."""
    by_reason: dict[str, list[str]] = {}
    for row in plan.variants:
        if row.problem is not None:
            by_reason.setdefault(row.problem.rstrip("."), []).append(row.name)
    if not by_reason:
        return None
    reasons = "; ".join(f"{_some(names)} ({why})" for why, names in by_reason.items())
    number = sum(map(len, by_reason.values()))
    return f"{number} of {len(plan.variants)} variants would fail: {reasons}"


def state_of(row: PlannedVariant) -> str:
    """Say what is done of a variant: ``done 2/3``, ``interrupted at 12/40``, ``new``."""
    by_state: dict[str, list[PlannedRun]] = {}
    for run in row.runs:
        by_state.setdefault(run.state, []).append(run)
    done = len(by_state.pop("done", []))
    parts = [f"done {done}/{len(row.runs)}" if len(row.runs) > 1 else "done"] if done else []
    for state, runs in by_state.items():
        if state in _UNREMARKABLE:
            continue
        places = {f"at {run.epochs_done}/{run.num_epochs}" for run in runs}
        number = f"{len(runs)} " if len(runs) > 1 else ""
        parts.append(" ".join([f"{number}{state}", *(places if len(places) == 1 else ())]))
    for state in _UNREMARKABLE:
        if state in by_state and not done:
            parts.append(f"{len(by_state[state])} {state}" if parts or len(by_state) > 1 else state)
    return ", ".join(parts)


def _row_data(row: PlannedVariant) -> dict[str, Any]:
    seconds, is_estimate = _seconds_per_run(row)
    return {
        "name": row.name,
        "variant": row.variant.label,
        "model": row.variant.config.model.name,
        "hash": row.variant.hash,
        "settings": dict(row.settings),
        "params": row.params,
        "macs": row.macs,
        "latency_ms": row.latency_ms,
        "latency_is_estimate": row.latency_is_estimate,
        "speed_mark": speed_mark(row.latency_source),
        "prediction": asdict(row.prediction) if row.prediction else None,
        "peak_memory_bytes": row.trial.peak_memory_bytes if row.trial else None,
        "seconds_per_step": row.trial.seconds_per_step if row.trial else None,
        "seconds_per_run": seconds,
        "seconds_per_run_is_estimate": is_estimate,
        "num_parts": row.num_parts,
        "state": state_of(row),
        "problem": row.problem,
        "runs": [asdict(run) for run in row.runs],
    }


def _table(plan: Plan) -> Table:
    """The columns in which any row has something."""
    settings = setting_columns(list(plan.variants[0].settings)) if plan.variants else []
    labels = [_COLUMNS["variant"].label, *(column.label for column in settings)]
    num_texts = len(labels)
    labels += [_COLUMNS[key].label for key in ("params", "macs", "latency_ms")]
    labels += ["memory (MB)", "time per run", "state"]
    lines = []
    for row in plan.variants:
        written = [column.write(row.settings[column.key]) for column in settings]
        lines.append([row.variant.label, *written, *_figures(row), _state_cell(row)])
    table = Table(box=box.SIMPLE_HEAD)
    kept = [index for index in range(len(labels)) if any(line[index] for line in lines)]
    for index in kept:
        is_text = index < num_texts or labels[index] == "state"
        table.add_column(
            labels[index],
            justify="left" if is_text else "right",
            no_wrap=not is_text,
            overflow="fold",
        )
    for row, line in zip(plan.variants, lines, strict=True):
        style = "red" if row.problem is not None else None
        table.add_row(*(escape(line[index]) for index in kept), style=style)
    return table


def _figures(row: PlannedVariant) -> list[str]:
    latency = _COLUMNS["latency_ms"].write(row.latency_ms)
    seconds, is_estimate = _seconds_per_run(row)
    return [
        _COLUMNS["params"].write(row.params),
        _COLUMNS["macs"].write(row.macs),
        (_ESTIMATED if row.latency_is_estimate else "") + latency + speed_mark(row.latency_source),
        "" if row.trial is None else f"{row.trial.peak_memory_bytes / 1e6:,.0f}",
        (_ESTIMATED if is_estimate else "") + duration(seconds),
    ]


def _seconds_per_run(row: PlannedVariant) -> tuple[float | None, bool]:
    """How long a run takes, and whether that is an estimate; else it is that of those done."""
    if row.seconds_per_run is not None:
        return row.seconds_per_run, True
    done = [run.seconds for run in row.runs if run.seconds is not None]
    return (sum(done) / len(done) if done else None), False


def _state_cell(row: PlannedVariant) -> str:
    parts = [state_of(row)]
    if row.num_parts > 1:
        parts.append(f"batch in {row.num_parts} parts")
    if row.problem is not None:
        parts.append(f"fails: {row.problem.rstrip('.')}")
    return "; ".join(parts)


def _totals(plan: Plan) -> str:
    done, left, num_runs = _done(plan), _left(plan), len(_runs(plan))
    took = f"took {duration(sum(run.seconds or 0.0 for run in done))}"
    if len(done) == num_runs:
        return f"{counted(num_runs, 'run')}, all done: {took}."
    counts = Counter(run.state for run in _runs(plan))
    parts = [f"{counted(num_runs, 'run')}: {len(left)} to train"]
    if left:
        slots = counted(plan.num_slots, "slot")
        if plan.devices_per_run > 1:
            slots += f" of {plan.devices_per_run} devices"
        hours = f"{plan.device_hours:.2g} device-hours"
        parts[0] += f"{_trials(plan)}, about {duration(plan.seconds)} on {slots} ({hours})"
    if done:
        parts.append(f"{len(done)} done, which {took}")
    if counts["running"]:
        parts.append(f"{counts['running']} being trained by other processes")
    return "; ".join(parts) + "."


def _trials(plan: Plan) -> str:
    """What comes before runs that are to be trained with what is chosen."""
    if not plan.trials:
        return ""
    left = sum(trial.is_left for trial in plan.trials)
    done = f" ({len(plan.trials) - left} done)" if left < len(plan.trials) else ""
    took = f" of about {duration(plan.trial_seconds)}" if left else ""
    return f" after {counted(len(plan.trials), 'trial')}{done}{took}"


def _remarks(plan: Plan) -> list[str]:
    lines = []
    num_failing = sum(row.problem is not None for row in plan.variants)
    if num_failing:
        lines.append(f"Not counted: {counted(num_failing, 'variant')} that would fail.")
    if plan.duplicates:
        number = sum(len(duplicate.asked) - 1 for duplicate in plan.duplicates)
        verb = "coincides" if number == 1 else "coincide"
        texts = []
        for duplicate in plan.duplicates:
            asked = list(dict.fromkeys(duplicate.asked))
            how = f"asked for {len(duplicate.asked)} times"
            how += f", as {' and '.join(asked)}" if len(asked) > 1 else ""
            texts.append(f"{duplicate.name} ({how})")
        lines.append(f"{counted(number, 'variant')} {verb} with others: {_some(texts)}.")
    by_constraint: dict[str, list[str]] = {}
    for row, constraint in plan.dropped:
        by_constraint.setdefault(constraint, []).append(row.name)
    for constraint, names in by_constraint.items():
        lines.append(f"{constraint} drops {counted(len(names), 'variant')}: {_some(names)}.")
    if any(row.latency_ms is not None for row in plan.variants):
        remarks = explain_marks(row.latency_source for row in plan.variants)
        lines.append(" ".join([f"Latency: {describe_setting(plan.setting)}.", *remarks]))
    predicted = [row.prediction for row in plan.variants if row.prediction]
    if predicted:
        off = max((p.high / p.relative_latency - 1 for p in predicted if p.high), default=None)
        within = "" if off is None else f", within {100 * off:.1f} % in 95 of 100 cases"
        rows = counted(len(predicted), "variant")
        lines.append(f"Predicted from the block table: the latency of {rows}{within}.")
    if any(row.trial for row in plan.variants):
        lines.append(f"{_ESTIMATED}: estimated from a moment of training, or of the forward pass.")
        if plan.devices_per_run > 1:
            lines.append(
                "Tried was one device with its share of each batch; what the devices tell each "
                "other comes on top."
            )
    return lines


def _runs(plan: Plan) -> list[PlannedRun]:
    return [run for row in plan.variants for run in row.runs]


def _done(plan: Plan) -> list[PlannedRun]:
    return [run for run in _runs(plan) if run.state == "done"]


def _left(plan: Plan) -> list[PlannedRun]:
    """The runs that would be trained, and could be."""
    rows = [row for row in plan.variants if row.problem is None]
    return [run for row in rows for run in row.runs if run.is_left]


def _some(texts: Sequence[str]) -> str:
    return name_some(texts, _MOST_NAMES)
