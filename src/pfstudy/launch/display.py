"""What a sweep shows on stderr: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pfstudy.words import duration

_BAR_WIDTH = 24


@dataclass
class _Bar:
    """Something that is under way."""

    figures: str = ""
    epoch: str = ""
    slot: str = ""
    completed: float = 0.0
    total: float | None = None
    first: tuple[float, float] | None = None  # time and completed when progress was first seen
    started: float = field(default_factory=time.monotonic)

    def update(self, completed: float, total: float | None) -> None:
        if self.first is None or completed < self.completed:
            self.first = None if total is None else (time.monotonic(), completed)
        self.completed, self.total = completed, total

    @property
    def left_s(self) -> float | None:
        """Estimated time left, in seconds."""
        if self.total is None or self.first is None or self.completed <= self.first[1]:
            return None
        since, first = self.first
        return (time.monotonic() - since) / (self.completed - first) * (self.total - self.completed)


class Display:
    """Says what a sweep does.

    Args:
        console: Where to; stderr unless told otherwise.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._num_runs = 0
        self._num_ended = 0
        self._began = 0.0
        self._bars: dict[str, _Bar] = {}
        self._live = Live(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=2,
            transient=True,
        )

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def begin_runs(self, number: int) -> None:
        """Begin to count runs that end, and to estimate when all of them will have."""
        self._num_runs = number
        self._num_ended = 0
        self._began = time.monotonic()

    def phase(self, name: str, text: str) -> None:
        """Begin a phase of the sweep, or say how one went."""
        self.console.print(f"[bold]{name:<6}[/bold] {escape(text)}")

    def note(self, text: str) -> None:
        """Say something that a person should know."""
        self.console.print(f"       {escape(text)}")

    def bar(
        self,
        name: str,
        completed: float = 0,
        total: float | None = None,
        figures: str = "",
        *,
        slot: str = "",
    ) -> None:
        """Show how far something is, on a terminal; the first call makes its bar."""
        bar = self._bars.setdefault(name, _Bar(slot=slot))
        bar.update(completed, total)
        bar.figures = figures or bar.figures

    def drop_bar(self, name: str) -> None:
        """Take a bar away."""
        self._bars.pop(name, None)

    def follow(self, name: str, completed: str, total: str) -> Callable[..., None]:
        """What a child's reports are given to: notes are said, others drive a bar.

        Args:
            name: Of the bar, which takes the place of that of importing.
            completed: Key of a report that says how far it is.
            total: Key that says of how much.
        """

        def progress(kind: str, details: Mapping[str, Any]) -> None:
            if kind == "note":
                self.note(details["text"])
            else:
                self.drop_bar("importing")
                self.bar(name, details[completed], details[total])

        return progress

    def step(self, name: str, progress: Mapping[str, Any]) -> None:
        """A run has gone on within an epoch."""
        done, total = progress["epochs_done"], progress["num_epochs"]
        self.bar(name, done, total)
        self._bars[name].epoch = f"{min(int(done) + 1, total)}/{total}"

    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        """A run has ended an epoch."""
        accuracy = f"{row['val_top1_percent']:.1f} %"
        self.bar(name, row["epoch"], row["num_epochs"], accuracy)
        self._bars[name].epoch = f"{row['epoch']}/{row['num_epochs']}"

    def end(self, name: str, text: str) -> None:
        """A run has ended."""
        self._num_ended += 1
        self.drop_bar(name)
        width = len(str(self._num_runs))
        counter = f"{self._num_ended:>{width}}/{self._num_runs}"
        self.console.print(escape(f"       [{counter}] {name}: {text}"))

    def _render(self) -> RenderableType:
        """The live table: runs with their epoch and slot, or whatever else is under way."""
        training = any(bar.slot for bar in self._bars.values())
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=training)
        table.add_column("       run")  # gives way where the terminal is narrow
        table.add_column("", width=_BAR_WIDTH)
        for label in ("epoch", "val. top-1" if training else "", "left", "slot"):
            table.add_column(label, justify="right", no_wrap=True)
        for name, bar in list(self._bars.items()):
            gauge = ProgressBar(
                total=bar.total,
                completed=bar.completed,
                width=_BAR_WIDTH,
                pulse=bar.total is None,
            )
            left = duration(bar.left_s)
            cells = (bar.epoch, bar.figures, left, bar.slot)
            title = Text(f"       {name}", no_wrap=True, overflow="ellipsis")
            table.add_row(title, gauge, *map(Text, cells))
        if not (training and self._num_runs):
            return table
        ended = f"       {self._num_ended} of {self._num_runs} runs ended"
        if 0 < self._num_ended < self._num_runs:
            each = (time.monotonic() - self._began) / self._num_ended
            ended += f", about {duration(each * (self._num_runs - self._num_ended))} left"
        return Group(table, Text(ended))
