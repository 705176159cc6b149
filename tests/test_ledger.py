from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pfstudy import files, ledger
from pfstudy.errors import PfstudyError
from run_directories import edit_owner, let_age, let_owner_vanish

CLAIM = """
import sys
from pathlib import Path

from pfstudy import ledger

claimed = ledger.claim(Path(sys.argv[1]))
print(claimed.attempt, flush=True)
sys.stdin.read()  # until it is killed, or its parent is gone
"""

RACE = """
import json, sys, time
from pathlib import Path

from pfstudy import ledger

print("ready", flush=True)
begin = float(sys.stdin.readline())
won = {}
for number, directory in enumerate(sorted(Path(sys.argv[1]).iterdir())):
    while time.monotonic() < begin + 0.01 * number:
        pass
    claimed = ledger.claim(directory)
    if claimed is not None:
        won[directory.name] = claimed.attempt
print(json.dumps(won), flush=True)
sys.stdin.read()  # a claim ends with its process
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start Python programs that end with the test at the latest."""
    processes: list[subprocess.Popen[str]] = []

    def run(program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the process has ended"
    return line


def kill(process: subprocess.Popen[str], *, reap: bool) -> None:
    """Kill a process and wait for its end; unless it is reaped, it stays as a zombie."""
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | (0 if reap else os.WNOWAIT))


def claim(directory: Path) -> ledger.Claim:
    claimed = ledger.claim(directory)
    assert claimed is not None
    return claimed


def written(directory: Path) -> dict[str, Any]:
    return files.read_json(directory / ledger.STATE)


def move_elsewhere(directory: Path, attempt: int = 1) -> None:
    """Let the claim of this process be one of another machine."""
    edit_owner(directory, attempt, host="elsewhere.invalid", machine="elsewhere.invalid boot pid")


def let_age_of(path: Path, seconds: float) -> None:
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def wait_until(happens: Callable[[], bool]) -> None:
    for _ in range(3000):
        if happens():
            return
        time.sleep(0.01)
    raise AssertionError("it has not happened within 30 s")


class TestRace:
    @pytest.mark.parametrize("num_processes", [2, 8])
    @pytest.mark.parametrize("attempts_before", [0, 1], ids=["new", "left-behind"])
    def test_exactly_one_wins(
        self, start: Start, tmp_path: Path, num_processes: int, attempts_before: int
    ) -> None:
        names = [f"{number:03}" for number in range(60)]
        for name in names:
            (tmp_path / name).mkdir()
            if attempts_before:
                claim(tmp_path / name).write(epoch=1)
                let_owner_vanish(tmp_path / name)
        processes = [start(RACE, tmp_path) for _ in range(num_processes)]
        for process in processes:
            assert line_of(process) == "ready\n"
        begin = time.monotonic() + 0.1
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(f"{begin}\n")
            process.stdin.flush()
        wins = [json.loads(line_of(process)) for process in processes]
        assert sorted(name for won in wins for name in won) == names
        assert {attempt for won in wins for attempt in won.values()} == {attempts_before + 1}
        for name in names:
            (winner,) = (p for p, won in zip(processes, wins, strict=True) if name in won)
            status = ledger.read_status(tmp_path / name)
            assert (status.state, status.written["pid"]) == ("running", winner.pid)
            assert ledger.claim(tmp_path / name) is None


class TestClaim:
    @pytest.mark.parametrize("reap", [True, False], ids=["reaped", "zombie"])
    def test_of_a_killed_process_is_taken_over_at_once(
        self, start: Start, tmp_path: Path, reap: bool
    ) -> None:
        process = start(CLAIM, tmp_path)
        assert line_of(process) == "1\n"
        assert ledger.state_of(tmp_path) == "running"
        assert ledger.claim(tmp_path) is None
        kill(process, reap=reap)
        assert ledger.state_of(tmp_path) == "interrupted"
        assert claim(tmp_path).attempt == 2
        assert written(tmp_path)["pid"] == os.getpid()

    def test_holds_while_its_attempt_is_just_being_written(self, tmp_path: Path) -> None:
        (tmp_path / ledger.ATTEMPTS).mkdir()
        path = tmp_path / ledger.ATTEMPTS / "1.json"
        path.touch()
        assert ledger.claim(tmp_path) is None
        let_age_of(path, ledger.STALE_S + 1)
        assert claim(tmp_path).attempt == 2

    def test_pid_that_another_process_has_now(self, tmp_path: Path) -> None:
        claim(tmp_path)
        assert ledger.state_of(tmp_path) == "running"
        started = json.loads((tmp_path / ledger.ATTEMPTS / "1.json").read_text())["pid_started"]
        edit_owner(tmp_path, pid_started=started - 1)
        assert ledger.state_of(tmp_path) == "interrupted"
        assert claim(tmp_path).attempt == 2

    @pytest.mark.parametrize("state", ["failed", "interrupted"])
    def test_after_an_attempt_that_has_ended(self, tmp_path: Path, state: ledger.State) -> None:
        claim(tmp_path).end(state, reason="why")
        assert ledger.state_of(tmp_path) == state
        assert claim(tmp_path).attempt == 2
        assert "reason" not in written(tmp_path)

    def test_of_a_run_that_is_done(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / ledger.RECORD, {})
        assert ledger.claim(tmp_path) is None
        assert [path.name for path in tmp_path.iterdir()] == [ledger.RECORD]

    def test_run_that_gets_done_just_now(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def late(directory: Path, **_: bool) -> ledger.Status:
            status = read_status(directory)
            files.write_json(directory / ledger.RECORD, {})
            return status

        read_status = ledger.read_status
        monkeypatch.setattr(ledger, "read_status", late)
        assert ledger.claim(tmp_path) is None
        assert list((tmp_path / ledger.ATTEMPTS).iterdir()) == []

    def test_claim_that_is_cut_off_while_it_is_written_is_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def cut_off(draft: Path, path: Path) -> None:
            assert files.read_json(draft)["pid"] == os.getpid()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(os, "link", cut_off)
            with pytest.raises(KeyboardInterrupt):
                ledger.claim(tmp_path)
        assert ledger.state_of(tmp_path) == "pending"
        assert claim(tmp_path).attempt == 1

    def test_attempts_are_counted_on_without_their_files(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / ledger.STATE, {"state": "failed", "attempt": 4})
        assert claim(tmp_path).attempt == 5

    @pytest.mark.parametrize("place", ["none", "file"])
    def test_where_nothing_can_be_written(self, tmp_path: Path, place: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(PfstudyError, match="cannot be written"):
            ledger.claim(tmp_path / place)

    def test_progress_adds_up_and_stays_when_the_attempt_ends(self, tmp_path: Path) -> None:
        claimed = claim(tmp_path)
        claimed.write(epoch=1, num_epochs=3)
        claimed.write(epoch=2)
        claimed.end("failed", reason="why", kind="error")
        kept = {key: written(tmp_path)[key] for key in ("epoch", "num_epochs", "reason", "kind")}
        assert kept == {"epoch": 2, "num_epochs": 3, "reason": "why", "kind": "error"}
        assert written(tmp_path)["attempt"] == 1


class TestOtherMachine:
    @pytest.fixture
    def directory(self, tmp_path: Path) -> Path:
        """A run that another machine has just claimed."""
        claim(tmp_path)
        move_elsewhere(tmp_path)
        return tmp_path

    @pytest.mark.parametrize("ahead_s", [-1e6, 0.0, 1e6], ids=["behind", "same", "ahead"])
    def test_holds_as_long_as_its_heartbeat_is_young(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float
    ) -> None:
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + ahead_s)
        let_age(directory, ledger.STALE_S / 2)
        assert ledger.state_of(directory) == "running"
        assert ledger.claim(directory) is None
        let_age(directory, ledger.STALE_S / 2 + 1)
        assert ledger.state_of(directory) == "interrupted"
        assert claim(directory).attempt == 2

    def test_a_new_attempt_counts_as_a_heartbeat(self, directory: Path) -> None:
        let_age(directory, ledger.STALE_S + 1)
        claim(directory)
        move_elsewhere(directory, attempt=2)
        let_age_of(directory / ledger.STATE, ledger.STALE_S + 1)
        assert ledger.claim(directory) is None

    def test_age_is_that_of_the_last_beat(self, directory: Path) -> None:
        let_age(directory, 1000)
        assert 1000 <= ledger.heartbeat_age_s(directory) < 2000
        os.utime(directory / ledger.STATE)
        assert ledger.heartbeat_age_s(directory) < 500
        assert {path.name for path in directory.iterdir()} == {ledger.STATE, ledger.ATTEMPTS}

    def test_reader_who_may_not_write_takes_the_clock_there_is(
        self, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(**_: Any) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
        let_age(directory, 1000)
        assert 1000 <= ledger.heartbeat_age_s(directory) < 2000


class TestLostClaim:
    @pytest.fixture
    def lost(self, tmp_path: Path) -> ledger.Claim:
        """A claim whose process somebody took for dead."""
        claimed = claim(tmp_path)
        let_owner_vanish(tmp_path)
        assert claim(tmp_path).attempt == 2
        return claimed

    def test_check_raises(self, lost: ledger.Claim) -> None:
        with pytest.raises(PfstudyError, match="took this one for dead"):
            lost.check()
        assert lost.is_lost()

    def test_nothing_is_written(self, lost: ledger.Claim) -> None:
        before = written(lost.directory)
        with pytest.raises(PfstudyError, match="took this one for dead"):
            lost.write(epoch=7)
        lost.end("done", reason="why")
        assert written(lost.directory) == before
        assert before["attempt"] == 2

    def test_nothing_is_written_at_the_end_even_if_nobody_checked(self, lost: ledger.Claim) -> None:
        before = written(lost.directory)
        lost.end("failed")
        assert written(lost.directory) == before

    def test_one_that_holds_passes(self, tmp_path: Path) -> None:
        claimed = claim(tmp_path)
        claimed.check()
        assert not claimed.is_lost()

    def test_notices_and_gives_no_sign_of_life(
        self, lost: ledger.Claim, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "HEARTBEAT_S", 0.01)
        let_age(lost.directory, 1000)
        before = (lost.directory / ledger.STATE).stat().st_mtime
        with lost.beating():
            wait_until(lambda: lost._lost)
            time.sleep(0.05)
        assert (lost.directory / ledger.STATE).stat().st_mtime == before


class TestBeating:
    def test_moves_the_heartbeat_until_its_end(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "HEARTBEAT_S", 0.01)
        claimed, state = claim(tmp_path), tmp_path / ledger.STATE
        content = state.read_bytes()
        let_age(tmp_path, 1000)
        old = state.stat().st_mtime
        with claimed.beating():
            wait_until(lambda: state.stat().st_mtime > old + 500)
        assert not claimed.is_lost()
        assert state.read_bytes() == content
        let_age(tmp_path, 1000)
        time.sleep(0.05)
        assert state.stat().st_mtime < old + 500

    def test_survives_a_state_that_is_gone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ledger, "HEARTBEAT_S", 0.01)
        claimed, state = claim(tmp_path), tmp_path / ledger.STATE
        with claimed.beating():
            state.unlink()
            time.sleep(0.05)
            claimed.write(epoch=1)
            let_age(tmp_path, 1000)
            old = state.stat().st_mtime
            wait_until(lambda: state.stat().st_mtime > old + 500)


class TestBury:
    @pytest.fixture
    def dead(self, start: Start, tmp_path: Path) -> int:
        """The id of a process that has claimed ``tmp_path`` and was killed."""
        process = start(CLAIM, tmp_path)
        line_of(process)
        kill(process, reap=True)
        return process.pid

    def test_writes_how_the_attempt_ended(self, dead: int, tmp_path: Path) -> None:
        ledger.bury(tmp_path, dead, "failed", reason="killed by signal 9", kind="killed")
        status = ledger.read_status(tmp_path)
        assert (status.state, status.attempt) == ("failed", 1)
        found = {key: status.written[key] for key in ("pid", "reason", "kind", "attempt")}
        expected = {"reason": "killed by signal 9", "kind": "killed"}
        assert found == {"pid": dead, "attempt": 1, **expected}

    def test_keeps_how_far_it_was(self, tmp_path: Path) -> None:
        claim(tmp_path).write(epoch=3)
        ledger.bury(tmp_path, os.getpid(), "failed")
        assert written(tmp_path)["epoch"] == 3

    @pytest.mark.parametrize("place", ["here", "elsewhere"])
    def test_of_one_whose_run_another_has_taken_over(
        self, dead: int, tmp_path: Path, place: str
    ) -> None:
        claim(tmp_path)
        if place == "elsewhere":
            move_elsewhere(tmp_path, attempt=2)
        before = written(tmp_path)
        ledger.bury(tmp_path, dead, "failed", reason="why")
        assert written(tmp_path) == before
        assert ledger.state_of(tmp_path) == "running"

    def test_of_the_same_pid_on_another_machine(self, dead: int, tmp_path: Path) -> None:
        move_elsewhere(tmp_path)
        before = written(tmp_path)
        ledger.bury(tmp_path, dead, "failed", reason="why")
        assert written(tmp_path) == before

    def test_of_a_run_that_is_done(self, dead: int, tmp_path: Path) -> None:
        files.write_json(tmp_path / ledger.RECORD, {})
        before = written(tmp_path)
        ledger.bury(tmp_path, dead, "failed", reason="why")
        assert written(tmp_path) == before

    def test_of_one_that_had_not_claimed_its_run_yet(self, dead: int, tmp_path: Path) -> None:
        run = tmp_path / "other"
        run.mkdir()
        ledger.write_pending(run)
        ledger.bury(run, dead, "failed", reason="why")
        assert written(run) == {"state": "failed", "attempt": 0, "reason": "why"}
        assert claim(run).attempt == 1


class TestState:
    def test_of_no_directory_is_pending(self, tmp_path: Path) -> None:
        assert ledger.state_of(tmp_path / "none") == "pending"

    def test_pending(self, tmp_path: Path) -> None:
        ledger.write_pending(tmp_path)
        assert written(tmp_path) == {"state": "pending", "attempt": 0}
        assert ledger.state_of(tmp_path) == "pending"

    @pytest.mark.parametrize("state", ["failed", "interrupted", "running"])
    def test_what_the_ledger_says_is_not_made_pending(
        self, tmp_path: Path, state: ledger.State
    ) -> None:
        claim(tmp_path).end(state, reason="why")
        ledger.write_pending(tmp_path)
        assert ledger.state_of(tmp_path) == state
        assert written(tmp_path)["reason"] == "why"

    def test_a_record_is_not_made_pending(self, tmp_path: Path) -> None:
        files.write_json(tmp_path / ledger.RECORD, {})
        ledger.write_pending(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [ledger.RECORD]

    def test_running(self, tmp_path: Path) -> None:
        claim(tmp_path).write(epoch=3)
        status = ledger.read_status(tmp_path)
        assert (status.state, status.attempt) == ("running", 1)
        assert (status.written["pid"], status.written["epoch"]) == (os.getpid(), 3)

    def test_running_before_its_process_could_write_so(self, tmp_path: Path) -> None:
        ledger.write_pending(tmp_path)
        before = (tmp_path / ledger.STATE).read_bytes()
        claim(tmp_path)
        (tmp_path / ledger.STATE).write_bytes(before)
        assert ledger.state_of(tmp_path) == "running"
        let_owner_vanish(tmp_path)
        assert ledger.state_of(tmp_path) == "interrupted"

    def test_record_alone_says_that_it_is_done(self, tmp_path: Path) -> None:
        claim(tmp_path).end("failed", reason="why")
        files.write_json(tmp_path / ledger.RECORD, {})
        assert ledger.state_of(tmp_path) == ledger.read_status(tmp_path).state == "done"

    def test_done_without_a_record_is_interrupted(self, tmp_path: Path) -> None:
        claim(tmp_path).end("done")
        assert ledger.state_of(tmp_path) == "interrupted"

    @pytest.mark.parametrize("content", ["", '{"state": "runn', "[]"], ids=["empty", "cut", "list"])
    def test_damaged(self, tmp_path: Path, content: str) -> None:
        (tmp_path / ledger.STATE).write_text(content)
        with pytest.raises(PfstudyError, match=r"state\.json is damaged"):
            ledger.read_status(tmp_path)
        assert ledger.state_of(tmp_path) == "pending"  # a sweep goes on nevertheless
        assert claim(tmp_path).attempt == 1


class TestAccumulation:
    def test_is_that_asked_for_where_nothing_was_tried(self, tmp_path: Path) -> None:
        assert ledger.last_accumulation(tmp_path, asked=4) == 4

    @pytest.mark.parametrize("parts", [None, 2])
    def test_is_that_of_the_last_attempt(self, tmp_path: Path, parts: int | None) -> None:
        claimed = ledger.claim(tmp_path)
        assert claimed is not None
        if parts is not None:
            claimed.write(accumulation=parts)
        claimed.end("interrupted", reason="asked to stop")
        assert ledger.last_accumulation(tmp_path, asked=4) == (parts or 1)
