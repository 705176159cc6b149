from __future__ import annotations

import io

import pytest
from rich.console import Console

from pfstudy.launch import display as module
from pfstudy.launch.display import Display
from pfstudy.words import duration

ROW = {"epoch": 2, "num_epochs": 5, "val_top1_percent": 91.25}


def make_display(*, terminal: bool, width: int = 100) -> tuple[Display, io.StringIO]:
    written = io.StringIO()
    console = Console(
        file=written, force_terminal=terminal, width=width, highlight=False, soft_wrap=True
    )
    return Display(console), written


def shown(display: Display) -> list[str]:
    """The live table as it is just now, a line each."""
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with console.capture() as captured:
        console.print(display._render())
    return captured.get().splitlines()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


class TestPlainLines:
    def test_phases_notes_and_ends(self) -> None:
        display, written = make_display(terminal=False)
        display.begin_runs(12)
        with display:
            display.phase("train", "12 runs")
            display.note("a note")
            display.bar("maxpool seed0", slot="cpu 0")
            display.step("maxpool seed0", {"epochs_done": 0.5, "num_epochs": 5})
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
    def test_runs_are_written_with_all_that_is_known(self) -> None:
        display, written = make_display(terminal=True)
        display.begin_runs(3)
        with display:
            display.bar("maxpool [seed0]", slot="cpu 0-1")
            display.epoch("maxpool [seed0]", ROW)
        for text in ("run", "epoch", "val. top-1", "left", "slot"):
            assert text in written.getvalue()
        for text in ("maxpool [seed0]", "2/5", "91.2 %", "cpu 0-1", "0 of 3 runs ended"):
            assert text in written.getvalue()

    def test_ended_runs_stay_above_as_lines(self) -> None:
        display, written = make_display(terminal=True)
        display.begin_runs(2)
        with display:
            display.bar("maxpool", slot="cpu 0")
            display.end("maxpool", "97.00 % in 3 s")
            display.bar("conv", slot="cpu 0")
        assert written.getvalue().count("[1/2] maxpool: 97.00 % in 3 s") == 1
        assert "1 of 2 runs ended" in written.getvalue()

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

    def test_nothing_of_the_table_stays(self) -> None:
        display, written = make_display(terminal=True)
        with display:
            display.bar("maxpool", slot="cpu 0")
            before = len(written.getvalue())
        assert written.getvalue()[before:].endswith("\x1b[1A\x1b[2K")

    def test_dropping_what_is_not_there_is_fine(self) -> None:
        display, written = make_display(terminal=True)
        display.drop_bar("unknown")
        assert written.getvalue() == ""

    def test_a_long_name_gives_way_to_the_figures(self) -> None:
        display, written = make_display(terminal=True, width=80)
        with display:
            display.bar("stage1.block1=maxpool " * 4, slot="cpu 0-1")
            display.epoch("stage1.block1=maxpool " * 4, ROW)
        for text in ("stage1.bl", "2/5", "91.2 %", "cpu 0-1"):
            assert text in written.getvalue()


class TestTable:
    def test_header_rows_and_counter_of_runs(self, clock: list[float]) -> None:
        display, _ = make_display(terminal=False)
        display.begin_runs(3)
        display.bar("maxpool seed0", slot="cpu 0")
        display.bar("conv seed0", slot="cpu 1")
        display.step("conv seed0", {"epochs_done": 0.0, "num_epochs": 4})
        clock[0] += 10
        display.step("conv seed0", {"epochs_done": 1.0, "num_epochs": 4})
        clock[0] += 5
        display.epoch("conv seed0", {"epoch": 2, "num_epochs": 4, "val_top1_percent": 50})
        header, maxpool, conv, counter = shown(display)
        assert header.split() == ["run", "epoch", "val.", "top-1", "left", "slot"]
        assert maxpool.split()[:2] == ["maxpool", "seed0"]
        assert maxpool.split()[-2:] == ["cpu", "0"]
        assert conv.split()[-7:] == ["2/4", "50.0", "%", "15", "s", "cpu", "1"]
        assert counter.split() == ["0", "of", "3", "runs", "ended"]

    def test_other_things_have_no_header_and_no_counter(self) -> None:
        display, _ = make_display(terminal=False)
        display.begin_runs(3)
        display.bar("processes", 2, 10, "widest interval 3.0 %")
        (line,) = shown(display)
        assert "processes" in line
        assert "widest interval 3.0 %" in line

    def test_end_of_all_is_estimated_by_those_that_have_ended(self, clock: list[float]) -> None:
        display, _ = make_display(terminal=False)
        display.begin_runs(4)
        display.bar("conv", slot="cpu 0")
        clock[0] += 30
        display.end("maxpool", "97.00 %")
        assert shown(display)[-1].strip() == "1 of 4 runs ended, about 90 s left"
        for name in ("avgpool", "identity", "dwconv"):
            display.end(name, "97.00 %")
        assert shown(display)[-1].strip() == "4 of 4 runs ended"

    @pytest.mark.parametrize(
        ("done", "expected"),
        [(0.0, "1/3"), (0.99, "1/3"), (1.0, "2/3"), (2.5, "3/3"), (3.0, "3/3")],
    )
    def test_epoch_under_way_counts_from_1(self, done: float, expected: str) -> None:
        display, _ = make_display(terminal=False)
        display.bar("conv", slot="cpu 0")
        display.step("conv", {"epochs_done": done, "num_epochs": 3})
        assert expected in shown(display)[1].split()

    def test_accuracy_stays_until_the_next(self) -> None:
        display, _ = make_display(terminal=False)
        display.bar("conv", slot="cpu 0")
        display.epoch("conv", ROW)
        display.step("conv", {"epochs_done": 2.5, "num_epochs": 5})
        assert "91.2 %" in shown(display)[1]

    def test_time_left_is_from_this_attempt_alone(self, clock: list[float]) -> None:
        """One that goes on from a checkpoint did not just train what stands in it."""
        display, _ = make_display(terminal=False)
        display.bar("conv", slot="cpu 0")
        display.step("conv", {"epochs_done": 90.0, "num_epochs": 100})
        clock[0] += 60
        display.step("conv", {"epochs_done": 92.0, "num_epochs": 100})
        assert "4 min" in shown(display)[1]

    def test_attempt_that_begins_anew_is_not_measured_by_the_one_before(
        self, clock: list[float]
    ) -> None:
        display, _ = make_display(terminal=False)
        display.bar("conv", slot="cpu 0")
        display.step("conv", {"epochs_done": 1.0, "num_epochs": 100})
        clock[0] += 60
        display.step("conv", {"epochs_done": 0.5, "num_epochs": 100})
        assert "min" not in shown(display)[1]
        clock[0] += 1
        display.step("conv", {"epochs_done": 1.5, "num_epochs": 100})
        assert "98 s" in shown(display)[1]

    def test_nothing_is_left_to_say_before_there_is_progress(self) -> None:
        display, _ = make_display(terminal=False)
        display.bar("conv", slot="cpu 0")
        display.step("conv", {"epochs_done": 1.0, "num_epochs": 100})
        assert shown(display)[1].split()[-3:] == ["2/100", "cpu", "0"]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        pytest.param(None, "", id="unknown"),
        (0, "0 s"),
        (0.6, "1 s"),
        (42, "42 s"),
        (99.4, "99 s"),
        (99.5, "2 min"),
        (60 * 99.4, "99 min"),
        (60 * 99.5, "1 h 39 min"),
        (3600 * 2, "2 h 00 min"),
        (3600 * 1 + 60 * 59.9, "1 h 59 min"),
        (3600 * 47.99, "47 h 59 min"),
        (3600 * 48, "2 d 0 h"),
        (3600 * 51.5, "2 d 3 h"),
    ],
)
def test_duration(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


def test_writes_to_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    Display().note("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "       hello\n"
