"""The ledger in, a table of what is done, running, failed and pending out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pfstudy import ledger
from pfstudy.errors import PfstudyError
from pfstudy.inventory import Description, describe, find_runs, name_runs
from pfstudy.store import read_study
from pfstudy.why import how_it_ended

DAMAGED = "damaged"
"""Stands for the state of a run whose ledger cannot be read."""

_ALL_STATES = (*ledger.STATES, DAMAGED)
_MOST_ROWS = 30
_LOG = "run.log"
_STYLES = {
    "running": "cyan",
    "done": "green",
    "failed": "red",
    DAMAGED: "red",
    "interrupted": "yellow",
}
_RIGHT = ("epoch", "val. top-1 (%)", "heartbeat")
_HEADERS = ("run", "state", "epoch", "val. top-1 (%)", "where", "heartbeat", "why")


@dataclass(frozen=True)
class Row:
    """A run, as the ledger has it; what is not known is ``None``.

    Attributes:
        run: Its name: what differs between the runs that are listed.
        directory: Its directory.
        state: A state of the ledger's, or ``damaged``.
        attempt: Number of the last attempt.
        epoch: Number of epochs that have ended.
        num_epochs: Number of epochs.
        val_top1_percent: Validation accuracy after the last of them.
        accumulation: Number of steps that the batch is divided into.
        host: Where it is or was trained.
        pid: In which process.
        heartbeat_age_s: Age of the last heartbeat, while it is running.
        reason: Why it failed or was interrupted, or what is damaged.
        kind: What kind of failure it was.
        log: What it printed, if that was kept.
    """

    run: str
    directory: str
    state: str
    attempt: int = 0
    epoch: int | None = None
    num_epochs: int | None = None
    val_top1_percent: float | None = None
    accumulation: int | None = None
    host: str | None = None
    pid: int | None = None
    heartbeat_age_s: float | None = None
    reason: str | None = None
    kind: str | None = None
    log: str | None = None


def read_rows(directory: Path, study: str | None = None) -> list[Row]:
    """Read what the ledger says of the runs in a directory.

    Args:
        directory: A directory of runs, of a variant, or of one run.
        study: Take the members of this study; those without a directory yet are pending.

    Raises:
        PfstudyError: There is no such directory or study.
    """
    if study is None:
        runs = find_runs(directory)
    else:
        runs = [directory / member for member in read_study(directory, study)]
    names = _names(runs)
    found = ((run, _row(run, names[run])) for run in runs)
    return [row for run, row in found if study is not None or run.is_dir()]


def count(rows: Sequence[Row]) -> dict[str, int]:
    """Count runs by their state; states that none is in are left out."""
    found = Counter(row.state for row in rows)
    return {state: found[state] for state in (*_ALL_STATES, *found) if found[state]}


def is_settled(rows: Sequence[Row]) -> bool:
    """Whether nothing is running, or waiting to."""
    return not any(row.state in ("running", "pending") for row in rows)


def as_data(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts and rows, as plain data for programs."""
    return {"counts": count(rows), "runs": [asdict(row) for row in rows]}


def render(rows: Sequence[Row], *, all_rows: bool = False) -> RenderableType:
    """Write rows for the terminal: the counts, a table, the logs of what failed.

    Args:
        rows: The rows.
        all_rows: Whether runs that are done are listed even where there are many rows.
    """
    if not rows:
        return Text("no runs")
    counts = ", ".join(f"{number} {state}" for state, number in count(rows).items())
    line = f"{len(rows)} run{'' if len(rows) == 1 else 's'}: {counts}"
    shown = list(rows)
    if len(rows) > _MOST_ROWS and not all_rows:
        shown = [row for row in rows if row.state != "done"]
    if len(shown) < len(rows):
        line += "; --all lists those that are done, too"
    parts: list[RenderableType] = [Text(line)]
    if shown:
        parts.append(_table(shown))
    failed = (row for row in shown if row.state == "failed" and row.log)
    return Group(*parts, *(Text(f"log of {row.run}: {row.log}", style="dim") for row in failed))


def _table(rows: Sequence[Row]) -> Table:
    """The columns in which any row has something."""
    lines = [_cells(row) for row in rows]
    table = Table(box=box.SIMPLE_HEAD)
    kept = [index for index in range(len(_HEADERS)) if any(line[index] for line in lines)]
    for index in kept:
        header = _HEADERS[index]
        table.add_column(
            header,
            justify="right" if header in _RIGHT else "left",
            no_wrap=header in (*_RIGHT, "state"),
            overflow="fold",
        )
    for row, line in zip(rows, lines, strict=True):
        style = _STYLES.get(row.state, "")
        cells = [escape(text) for text in line]
        cells[1] = f"[{style}]{cells[1]}[/{style}]" if style else cells[1]
        table.add_row(*(cells[index] for index in kept))
    return table


def _cells(row: Row) -> list[str]:
    epoch = "" if row.epoch is None else f"{row.epoch}/{row.num_epochs or '?'}"
    place = " ".join(str(part) for part in (row.host, row.pid) if part is not None)
    parts = f"batch in {row.accumulation} parts" if (row.accumulation or 1) > 1 else ""
    kind = f"({row.kind}) " if row.kind and row.kind != "error" else ""
    why = f"{kind}{row.reason or ''}".strip()
    return [
        row.run,
        row.state,
        epoch,
        "" if row.val_top1_percent is None else f"{row.val_top1_percent:.2f}",
        place,
        "" if row.heartbeat_age_s is None else f"{age(row.heartbeat_age_s)} ago",
        "; ".join(filter(None, [why, parts])),
    ]


def age(seconds: float) -> str:
    """Write a length of time in its largest unit."""
    for length, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _names(runs: Sequence[Path]) -> dict[Path, str]:
    """Name runs by what they are; those whose config cannot be read, by their directories."""
    described: list[Description] = []
    for run in runs:
        with suppress(PfstudyError):
            described.append(describe(run))
    return {run: f"{run.parent.name} {run.name}" for run in runs} | name_runs(described)


def _row(run: Path, name: str) -> Row:
    try:
        status = ledger.read_status(run)
        age_s = ledger.heartbeat_age_s(run) if status.state == "running" else None
    except (PfstudyError, OSError) as error:
        return Row(name, str(run), DAMAGED, reason=str(error))
    if status.state not in ledger.STATES:
        reason = f"{run / ledger.STATE} has an unknown state, {status.state!r:.40}"
        return Row(name, str(run), DAMAGED, reason=reason)
    written = status.written
    if written.get("attempt") != status.attempt and status.state != "done":
        written = {}  # of an earlier attempt
    log = run / _LOG
    return Row(
        name,
        str(run),
        status.state,
        status.attempt,
        epoch=_value(written, "epoch", int),
        num_epochs=_value(written, "num_epochs", int),
        val_top1_percent=_value(written, "val_top1_percent", int, float),
        accumulation=_value(written, "accumulation", int),
        host=_value(written, "host", str),
        pid=_value(written, "pid", int),
        heartbeat_age_s=age_s,
        reason=how_it_ended(status),
        kind=_value(written, "kind", str),
        log=str(log) if log.exists() else None,
    )


def _value(written: Mapping[str, Any], key: str, *types: type) -> Any:
    value = written.get(key)
    return value if isinstance(value, types) else None
