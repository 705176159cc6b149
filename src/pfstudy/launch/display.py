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

    def bar(
        self, name: str, completed: int = 0, total: int | None = None, figures: str = ""
    ) -> None:
        """Show how far something is, on a terminal; the first call makes its bar."""
        if name not in self._bars:
            self._bars[name] = self._progress.add_task(escape(name), figures="", total=None)
        self._progress.update(
            self._bars[name], completed=completed, total=total, figures=escape(figures)
        )

    def drop_bar(self, name: str) -> None:
        """Take a bar away."""
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))

    def epoch(self, name: str, row: Mapping[str, Any]) -> None:
        """A run has ended an epoch."""
        accuracy = f"{row['val_top1_percent']:.1f} % val"
        self.bar(name, row["epoch"], row["num_epochs"], accuracy)

    def end(self, name: str, text: str) -> None:
        """A run has ended."""
        self._num_ended += 1
        self.drop_bar(name)
        width = len(str(self.num_runs))
        counter = f"{self._num_ended:>{width}}/{self.num_runs}"
        self.console.print(escape(f"       [{counter}] {name}: {text}"))
