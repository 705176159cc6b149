"""Requests to stop: signals that are noted, and handed on when training has stopped."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import TINY, Moment, Reports, make_task, signalled

from pfstudy import ledger, store
from pfstudy.worker.run import train_run
from pfstudy.worker.stopping import StopRequest

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


@pytest.fixture(autouse=True)
def _handlers_stay() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number: int) -> None:
    os.kill(os.getpid(), number)


class TestStopRequest:
    def test_nobody_asked(self) -> None:
        request = StopRequest()
        with request.deferred():
            pass
        assert not request

    def test_is_noted_and_not_acted_upon(self) -> None:
        request = StopRequest()
        with request.deferred():
            send(signal.SIGTERM)  # or this process would end here
            assert request
        assert request
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL

    def test_hands_on_to_whom_the_signal_was_for(self) -> None:
        heard: list[int] = []
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
        request = StopRequest()
        with request.deferred():
            send(signal.SIGUSR1)
            assert request
            assert heard == []
        with pytest.raises(KeyboardInterrupt):
            request.hand_on()
        assert heard == [signal.SIGUSR1]

    def test_whoever_heard_it_may_end_in_another_way(self) -> None:
        def leave(number: int, frame: object) -> None:
            raise SystemExit(number)

        signal.signal(signal.SIGTERM, leave)
        request = StopRequest()
        with request.deferred():
            send(signal.SIGTERM)
        with pytest.raises(SystemExit) as caught:
            request.hand_on()
        assert caught.value.code == signal.SIGTERM

    def test_stops_also_where_another_process_was_asked(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            StopRequest().hand_on()

    def test_signals_that_nobody_waits_for_are_none_of_a_preemption(self) -> None:
        with StopRequest().deferred():
            assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL
            assert signal.getsignal(signal.SIGUSR2) == signal.SIG_DFL

    def test_takes_signals_back(self) -> None:
        request = StopRequest()
        with request.deferred():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            request.listen()
            send(signal.SIGTERM)
            assert request

    def test_in_a_thread_nobody_sends_signals(self) -> None:
        request, errors = StopRequest(), []

        def defer() -> None:
            try:
                with request.deferred():
                    request.listen()
            except ValueError as error:  # only the main thread may set handlers
                errors.append(error)

        thread = threading.Thread(target=defer)
        thread.start()
        thread.join()
        assert errors == []
        assert not request


def test_preempted_run_is_put_down_before_the_cluster_hears_of_it(tmp_path: Path) -> None:
    """A cluster's handler may start the run elsewhere: all must be written by then."""
    task = make_task(tmp_path, *TINY)
    seen: list[tuple[str, bool]] = []

    def requeue(number: int, frame: object) -> None:
        written = ledger.read_status(task.directory).state
        seen.append((written, (task.directory / store.RESUME).exists()))

    signal.signal(signal.SIGUSR2, requeue)
    moment = Moment("training", 1)
    with signalled(moment, signal.SIGUSR2), pytest.raises(KeyboardInterrupt):
        train_run(task, Reports())
    assert seen == [("interrupted", True)]
    assert signal.getsignal(signal.SIGUSR2) is requeue
    reports = Reports()
    assert train_run(task, reports) == "done"
    assert len(reports.of("epoch")) == 2
