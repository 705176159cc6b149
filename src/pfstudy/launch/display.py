"""What a sweep shows while it runs: bars on a terminal, plain lines elsewhere; on stderr."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class Display:
    """Says what a sweep does.

    Args:
        num_runs: Number of runs to train.
        console: Where to; stderr unless told otherwise.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self.num_runs = 0
        self._num_ended = 0
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def phase(self, name: str, text: str) -> None:
        """Begin a phase of the sweep, or say how one went."""
        self.console.print(f"[bold]{name:<6}[/bold] {escape(text)}")

    def note(self, text: str) -> None:
        """Say something that a person should know."""
        self.console.print(f"       {escape(text)}")

    def status(self, text: str) -> None:
        """Say how far it is: on a terminal alone, where the line is replaced."""
        if self.console.is_terminal:
            self.console.print(f"       {escape(text)}", end="\r")

    def start(self, name: str) -> None:
        """A run has started."""
        if self.console.is_terminal:
            self._bars[name] = self._progress.add_task(escape(name), figures="", total=None)

    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        """A run has ended an epoch."""
        if name in self._bars:
            accuracy = f"{row.get('val_top1_percent', 0):.1f} % val"
            self._progress.update(
                self._bars[name],
                completed=row["epoch"],
                total=row["num_epochs"],
                figures=accuracy,
            )

    def end(self, name: str, text: str) -> None:
        """A run has ended."""
        self._num_ended += 1
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        width = len(str(self.num_runs))
        counter = f"{self._num_ended:>{width}}/{self.num_runs}"
        self.console.print(escape(f"       [{counter}] {name}: {text}"))
