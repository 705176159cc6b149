from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from pfstudy.errors import ChildFailedError, PfstudyError
from pfstudy.launch.pool import Child, Event, Pool

Report = Callable[[str, Mapping[str, Any]], None]


def give(value: Any, report: Report) -> Any:
    return value


def tell(report: Report) -> None:
    for number in (1, 2):
        report("epoch", {"number": number})


def fail(kind: str, report: Report) -> None:
    if kind == "user":
        raise PfstudyError("the paint is wet; wait.")
    if kind == "bug":
        raise KeyError("first line\nsecond line")
    if kind == "silent":
        raise RuntimeError
    if kind == "sys.exit":
        sys.exit(3)
    if kind == "os._exit":
        os._exit(4)
    if kind == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)


def describe_process(report: Report) -> dict[str, Any]:
    return {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "daemon": __import__("multiprocessing").current_process().daemon,
        **{name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "MASTER_PORT", "COLOUR")},
    }


def print_on_both(report: Report) -> None:
    print("on stdout")
    print("on stderr", file=sys.stderr)
    os.system("echo from a child of it")


def sleep(report: Report) -> None:
    report("ready", {"pid": os.getpid()})
    time.sleep(600)


def ignore_sigterm(asked: str, report: Report) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: Path(asked).touch())
    report("ready", {"pid": os.getpid()})
    while True:
        time.sleep(600)


def end_oneself(ended: str, report: Report) -> None:
    """Take a moment to end, as one that writes a checkpoint does."""
    try:
        sleep(report)
    except KeyboardInterrupt:
        time.sleep(0.3)
        Path(ended).touch()
        raise


def wait_for(path: str, report: Report) -> str:
    report("ready", {"pid": os.getpid()})
    while not Path(path).exists():
        time.sleep(0.01)
    return "waited"


def find_cores(report: Report) -> set[int]:
    return os.sched_getaffinity(0)


def hang_somewhere(report: Report) -> None:
    threading.Thread(target=hang_in_a_thread, daemon=True).start()
    sleep(report)


def hang_in_a_thread() -> None:
    time.sleep(600)


def leave_a_process_behind(report: Report) -> int:
    if child := os.fork():
        return child
    time.sleep(600)
    os._exit(0)


def unpicklable(report: Report) -> Any:
    return lambda: None


def function(target: Callable[..., Any]) -> str:
    return f"{__name__}:{target.__name__}"


@pytest.fixture(scope="module", autouse=True)
def _forkserver_of_its_own() -> Iterator[None]:
    """One without preloads, and with variables left over from another launcher."""
    forkserver._forkserver._stop()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
            patch.setenv(name, "1")
        forkserver.ensure_running()
    yield
    forkserver._forkserver._stop()


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool(()) as opened:
        yield opened


def last_event(pool: Pool) -> Event:
    (event,) = pool.events()
    assert event.is_last
    return event


def start_ready(pool: Pool, target: Callable[..., Any], *arguments: Any, **options: Any) -> Child:
    """Start a function that says when it is under way."""
    child = pool.start(function(target), *arguments, **options)
    event = next(event for event in pool.events() if event.child is child)
    assert event.kind == "ready"
    return child


def kill_forkserver() -> int:
    process = forkserver._forkserver._forkserver_pid
    assert process is not None
    os.kill(process, signal.SIGKILL)
    return int(process)


def wait_until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_running(process: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class TestEvents:
    def test_result(self, pool: Pool) -> None:
        child = pool.start(function(give), {"a": [1, 2]}, tag="mine")
        event = last_event(pool)
        assert (event.kind, event.details) == ("result", {"value": {"a": [1, 2]}})
        assert event.child is child
        assert event.child.tag == "mine"
        assert pool.children == []

    def test_reports_come_in_order_before_the_result(self, pool: Pool) -> None:
        pool.start(function(tell))
        found = [(event.kind, event.details.get("number")) for event in pool.events()]
        assert found == [("epoch", 1), ("epoch", 2), ("result", None)]

    @pytest.mark.parametrize(
        ("how", "kind", "reason", "user"),
        [
            pytest.param("user", "error", "the paint is wet; wait.", True, id="users-mistake"),
            pytest.param("bug", "error", "KeyError: ", False, id="exception"),
            pytest.param("silent", "error", "RuntimeError", False, id="exception-without-words"),
            pytest.param("sys.exit", "error", "interrupted", False, id="sys.exit"),
            pytest.param("os._exit", "died", "its process ended with 4", False, id="os._exit"),
            pytest.param("SIGKILL", "died", "was killed by SIGKILL", False, id="SIGKILL"),
        ],
    )
    def test_failure(self, pool: Pool, how: str, kind: str, reason: str, user: bool) -> None:
        pool.start(function(fail), how)
        event = last_event(pool)
        assert (event.kind, event.details["user"]) == (kind, user)
        assert reason in event.details["reason"]
        assert "\n" not in event.details["reason"]

    def test_failing_child_leaves_the_others_alone(self, pool: Pool) -> None:
        pool.start(function(fail), "SIGKILL", tag="bad")
        pool.start(function(fail), "bug", tag="worse")
        pool.start(function(give), 1, tag="good")
        kinds = {event.child.tag: event.kind for event in pool.events()}
        assert kinds == {"bad": "died", "worse": "error", "good": "result"}

    def test_children_can_be_started_while_events_are_read(self, pool: Pool) -> None:
        pool.start(function(give), 0)
        values = []
        for event in pool.events():
            values.append(event.details["value"])
            if len(values) < 4:
                pool.start(function(give), len(values))
        assert values == [0, 1, 2, 3]

    def test_result_that_cannot_be_sent_is_an_error(self, pool: Pool) -> None:
        pool.start(function(unpicklable))
        event = last_event(pool)
        assert event.kind == "error"
        assert "pickle" in event.details["reason"].lower()

    def test_unknown_function_is_an_error(self, pool: Pool) -> None:
        pool.start(f"{__name__}:no_such_function")
        assert "no_such_function" in last_event(pool).details["reason"]


class TestCall:
    def test_returns_the_value(self, pool: Pool) -> None:
        assert pool.call(function(give), 7) == 7

    def test_users_mistake(self, pool: Pool) -> None:
        with pytest.raises(PfstudyError, match="the paint is wet"):
            pool.call(function(fail), "user")

    @pytest.mark.parametrize("how", ["bug", "SIGKILL"])
    def test_other_failure_is_not_a_users_mistake(self, pool: Pool, how: str) -> None:
        with pytest.raises(ChildFailedError):
            pool.call(function(fail), how)


class TestProcess:
    def test_is_fresh_with_a_session_of_its_own(self, pool: Pool) -> None:
        first, second = (pool.call(function(describe_process)) for _ in range(2))
        assert first["pid"] == first["session"] != os.getpid()
        assert second["pid"] != first["pid"]

    def test_may_have_processes_of_its_own(self, pool: Pool) -> None:
        assert pool.call(function(describe_process))["daemon"] is not True

    def test_variables_of_pool_and_child_are_set(self, pool: Pool) -> None:
        pool.environment["COLOUR"] = "red"
        assert pool.call(function(describe_process))["COLOUR"] == "red"
        blue = {"COLOUR": "blue"}
        assert pool.call(function(describe_process), environment=blue)["COLOUR"] == "blue"

    def test_ranks_left_over_are_cleared(self, pool: Pool) -> None:
        found = pool.call(function(describe_process))
        assert [found[name] for name in ("RANK", "LOCAL_RANK", "MASTER_PORT")] == [None] * 3

    def test_ranks_that_are_given_are_kept(self, pool: Pool) -> None:
        found = pool.call(function(describe_process), environment={"RANK": "0"})
        assert found["RANK"] == "0"

    def test_output_is_appended_to_its_log(
        self, pool: Pool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        log = tmp_path / "run.log"
        log.write_text("before\n")
        pool.call(function(print_on_both), log=log)
        lines = log.read_text().splitlines()
        assert lines[0] == "before"
        assert sorted(lines[1:]) == ["from a child of it", "on stderr", "on stdout"]
        assert capfd.readouterr() == ("", "")

    def test_traceback_goes_to_the_log(self, pool: Pool, tmp_path: Path) -> None:
        pool.start(function(fail), "bug", log=tmp_path / "run.log")
        last_event(pool)
        assert "Traceback" in (tmp_path / "run.log").read_text()

    def test_failing_import_of_a_preload_is_reported(self) -> None:
        with Pool(("json", "no_such_module")) as pool:
            pool.start(function(give), 1)
            event = last_event(pool)
        assert event.kind == "error"
        assert "no_such_module" in event.details["reason"]

    def test_what_it_leaves_in_its_session_is_ended(self, pool: Pool) -> None:
        left = pool.call(function(leave_a_process_behind))
        wait_until(lambda: not is_running(left))

    def test_cores_are_set(self, pool: Pool) -> None:
        every = os.sched_getaffinity(0)
        for core in sorted(every)[:2]:
            assert pool.call(function(find_cores), cores=(core,)) == {core}
        assert pool.call(function(find_cores)) == every

    def test_dump_says_where_each_thread_is(self, pool: Pool, tmp_path: Path) -> None:
        log = tmp_path / "run.log"
        child = start_ready(pool, hang_somewhere, log=log)
        pool.dump(child)
        wait_until(lambda: "in hang_somewhere" in log.read_text())
        assert "in hang_in_a_thread" in log.read_text()
        assert is_running(child.process.pid)


class TestNextEvent:
    def test_nothing_in_time_is_none(self, pool: Pool) -> None:
        child = start_ready(pool, sleep)
        assert pool.next_event(0.05) is None
        assert pool.children == [child]

    def test_child_that_is_killed_from_outside(self, pool: Pool) -> None:
        child = start_ready(pool, sleep)
        os.kill(child.process.pid, signal.SIGKILL)
        event = last_event(pool)
        assert (event.child, event.kind) == (child, "died")
        assert event.details["reason"] == "its process was killed by SIGKILL"

    def test_child_that_the_pool_kills(self, pool: Pool) -> None:
        child = start_ready(pool, sleep)
        pool.kill(child)
        assert last_event(pool).details["reason"] == "its process was killed by SIGKILL"
        assert not is_running(child.process.pid)


class TestForkserverKilled:
    def test_child_at_work_goes_on_and_its_result_arrives(self, pool: Pool, tmp_path: Path) -> None:
        go = tmp_path / "go"
        child = start_ready(pool, wait_for, str(go))
        killed = kill_forkserver()
        wait_until(lambda: not is_running(killed))
        assert pool.next_event(0.2) is None
        assert pool.next_event(0.2) is None
        assert pool.children == [child]
        assert is_running(child.process.pid)
        go.touch()
        event = last_event(pool)
        assert (event.child, event.kind) == (child, "result")
        assert event.details == {"value": "waited"}

    def test_next_start_works(self, pool: Pool, tmp_path: Path) -> None:
        child = start_ready(pool, wait_for, str(tmp_path / "go"))
        killed = kill_forkserver()
        pool.start(function(give), 7)
        (tmp_path / "go").touch()
        values = {event.details["value"] for event in pool.events()}
        assert values == {"waited", 7}
        assert forkserver._forkserver._forkserver_pid != killed
        wait_until(lambda: not is_running(child.process.pid))

    def test_start_at_the_moment_of_its_death(self, pool: Pool) -> None:
        for number in range(5):
            assert pool.call(function(give), number) == number
            kill_forkserver()  # and go on at once

    def test_orphan_that_is_killed_is_noticed(self, pool: Pool) -> None:
        child = start_ready(pool, sleep)
        kill_forkserver()
        assert pool.next_event(5) is None
        os.kill(child.process.pid, signal.SIGKILL)
        event = last_event(pool)
        assert (event.child, event.kind) == (child, "died")
        assert "its process" in event.details["reason"]

    def test_orphan_is_stopped(self, pool: Pool, tmp_path: Path) -> None:
        ended = tmp_path / "ended"
        child = start_ready(pool, end_oneself, str(ended))
        kill_forkserver()
        assert pool.next_event(5) is None
        pool.stop_s = 60
        pool.stop()
        assert ended.exists()
        wait_until(lambda: not is_running(child.process.pid))

    def test_child_killed_together_with_it(self, pool: Pool) -> None:
        child = start_ready(pool, sleep)
        kill_forkserver()
        os.kill(child.process.pid, signal.SIGKILL)
        event = last_event(pool)
        assert (event.child, event.kind) == (child, "died")


class TestStop:
    def test_ends_the_children(self) -> None:
        with Pool(()) as pool:
            processes = [start_ready(pool, sleep).process.pid for _ in range(2)]
            assert all(map(is_running, processes))
        assert not any(map(is_running, processes))
        assert pool.children == []

    def test_child_that_ends_itself_in_time_is_not_killed(self, pool: Pool, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("first", "second")]
        processes = [start_ready(pool, end_oneself, str(path)).process for path in paths]
        pool.stop_s = 60
        pool.stop()
        assert all(path.exists() for path in paths)
        assert [process.exitcode for process in processes] == [0, 0]
        assert pool.children == []

    def test_child_that_does_not_listen_is_killed(self, pool: Pool, tmp_path: Path) -> None:
        deaf = start_ready(pool, ignore_sigterm, str(tmp_path / "asked"))
        polite = start_ready(pool, end_oneself, str(tmp_path / "ended"))
        pool.stop_s = 2
        pool.stop()
        assert (tmp_path / "asked").exists()
        assert (tmp_path / "ended").exists()
        assert deaf.process.exitcode == -signal.SIGKILL
        assert polite.process.exitcode == 0
        assert not is_running(deaf.process.pid)

    def test_interruption_meanwhile_kills_at_once(self, pool: Pool, tmp_path: Path) -> None:
        asked = tmp_path / "asked"
        processes = [start_ready(pool, ignore_sigterm, str(asked)).process for _ in range(2)]

        def interrupt() -> None:
            wait_until(asked.exists)
            os.kill(os.getpid(), signal.SIGINT)

        impatient = threading.Thread(target=interrupt)
        impatient.start()
        pool.stop_s = 10_000
        with pytest.raises(KeyboardInterrupt):
            pool.stop()
        impatient.join()
        assert [process.exitcode for process in processes] == [-signal.SIGKILL] * 2
        assert pool.children == []

    def test_result_that_comes_meanwhile_does_no_harm(self, pool: Pool) -> None:
        pool.start(function(give), 1)
        pool.stop_s = 60
        pool.stop()
        assert pool.children == []
        assert pool.call(function(give), 2) == 2

    def test_sigterm_is_an_interruption_for_the_child(self, pool: Pool) -> None:
        child = start_ready(pool, sleep)
        os.killpg(child.process.pid, signal.SIGTERM)
        event = last_event(pool)
        assert (event.kind, event.details["reason"]) == ("error", "interrupted")
