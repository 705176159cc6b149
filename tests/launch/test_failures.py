from __future__ import annotations

from pathlib import Path

import pytest

from pfstudy.launch import failures
from pfstudy.launch.failures import count_oom_kills, log_tail


class TestLogTail:
    def test_short_log_is_all_of_it(self, tmp_path: Path) -> None:
        (tmp_path / "run.log").write_text("one\ntwo\nno end of line")
        assert log_tail(tmp_path / "run.log") == ["one", "two", "no end of line"]

    def test_long_log_is_its_last_lines(self, tmp_path: Path) -> None:
        (tmp_path / "run.log").write_text("".join(f"line {i}\n" for i in range(1000)))
        assert log_tail(tmp_path / "run.log") == [f"line {i}" for i in range(980, 1000)]

    def test_long_lines_are_cut(self, tmp_path: Path) -> None:
        (tmp_path / "run.log").write_text("x" * 10_000 + "\n")
        assert log_tail(tmp_path / "run.log") == ["x" * 400]

    def test_bytes_that_are_no_text_do_no_harm(self, tmp_path: Path) -> None:
        (tmp_path / "run.log").write_bytes(b"before \xff\xfe\nafter\n")
        first, last = log_tail(tmp_path / "run.log")
        assert first.startswith("before ")
        assert last == "after"

    @pytest.mark.parametrize("name", ["missing", "."])
    def test_no_log_has_no_lines(self, tmp_path: Path, name: str) -> None:
        assert log_tail(tmp_path / name) == []

    def test_empty_log_has_no_lines(self, tmp_path: Path) -> None:
        (tmp_path / "run.log").touch()
        assert log_tail(tmp_path / "run.log") == []


class TestCountOomKills:
    def test_is_the_kernels_count(self) -> None:
        (line,) = [
            line
            for line in Path("/proc/vmstat").read_text().splitlines()
            if line.startswith("oom_kill ")
        ]
        assert count_oom_kills() == int(line.split()[1])

    def test_without_that_file_nothing_was_killed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(failures, "Path", lambda name: Path("/proc/no/such/file"))
        assert count_oom_kills() == 0
