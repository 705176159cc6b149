from __future__ import annotations

import io

import pytest
from rich.console import Console

from pfstudy.launch.display import Display

ROW = {"epoch": 2, "num_epochs": 5, "val_top1_percent": 91.25}


def make_display(*, terminal: bool) -> tuple[Display, io.StringIO]:
    written = io.StringIO()
    console = Console(
        file=written, force_terminal=terminal, width=100, highlight=False, soft_wrap=True
    )
    return Display(console), written


class TestPlainLines:
    def test_phases_notes_and_ends(self) -> None:
        display, written = make_display(terminal=False)
        display.num_runs = 12
        with display:
            display.phase("train", "12 runs")
            display.note("a note")
            display.bar("maxpool seed0")
            display.epoch("maxpool seed0", ROW)
            display.bar("processes", 1, 10, "widest interval 3.0 %")
            display.drop_bar("processes")
            display.end("maxpool seed0", "97.00 %")
            display.end("conv seed0", "98.00 %")
        assert written.getvalue().splitlines() == [
            "train  12 runs",
            "       a note",
            "       [ 1/12] maxpool seed0: 97.00 %",
            "       [ 2/12] conv seed0: 98.00 %",
        ]

    def test_long_lines_are_not_wrapped(self) -> None:
        display, written = make_display(terminal=False)
        display.note("word " * 60)
        assert len(written.getvalue().splitlines()) == 1

    @pytest.mark.parametrize("text", ["[bold]x[/bold]", "[/]", "a [1, 2] b"])
    def test_markup_of_others_is_shown_as_it_is(self, text: str) -> None:
        display, written = make_display(terminal=False)
        display.phase("study", text)
        display.note(text)
        display.end(text, text)
        assert written.getvalue().count(text) == 4

    def test_no_control_sequences(self) -> None:
        display, written = make_display(terminal=False)
        with display:
            display.bar("a")
            display.end("a", "done")
        assert "\x1b" not in written.getvalue()
        assert "\r" not in written.getvalue()


class TestTerminal:
    def test_bar_shows_the_run_and_its_accuracy(self) -> None:
        display, written = make_display(terminal=True)
        with display:
            display.bar("maxpool [seed0]")
            display.epoch("maxpool [seed0]", ROW)
        assert "maxpool [seed0]" in written.getvalue()
        assert "91.2 % val" in written.getvalue()

    def test_bar_of_what_has_ended_is_gone(self) -> None:
        display, written = make_display(terminal=True)
        with display:
            display.bar("maxpool", 1, 2)
            display.end("maxpool", "97.00 %")
            display.bar("conv", 1, 2)
            display.drop_bar("conv")
            written.truncate(0)
        assert "maxpool" not in written.getvalue()
        assert "conv" not in written.getvalue()

    def test_dropping_what_is_not_there_is_fine(self) -> None:
        display, written = make_display(terminal=True)
        display.drop_bar("unknown")
        assert written.getvalue() == ""


def test_writes_to_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    Display().note("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "       hello\n"
