"""Fresh processes, forked from one that has the whole stack imported.

The parent imports no torch. A child has its own session, so Ctrl-C reaches only the parent, and
ends itself when the parent is gone, however that ended.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

from pfstudy.errors import ChildFailedError, PfstudyError
from pfstudy.launch.child import Setting, run_child

PRELOAD = (
    "torch",
    "lightning",
    "timm",
    "torchmetrics",
    "sklearn.datasets.data",
    "sklearn.datasets.descr",
    "sklearn.model_selection",
    "pfstudy.worker.run",
    "pfstudy.speed.measure",
    "pfstudy.launch.check",
    "pfstudy.launch.warm",
    "pfstudy.data.digits",
    "pfstudy.cli",
)
PRELOAD_TRACKING = ("wandb", "pfstudy.launch.warm_tracking")

_GRACE_S = 10.0
_NOT_YET_GONE_S = 0.02
_TICK_S = 1.0  # a signal that comes just before a wait begins does not end it
_FORKSERVER_GONE = 255


@dataclass(frozen=True)
class Event:
    """Something that a child said, or that happened to it.

    Attributes:
        child: Which one.
        kind: What its function reported, or ``result``, ``error`` or ``died``.
        details: What was said: ``{"value": ...}`` of a result; ``{"reason": ..., "user": ...}``
            otherwise.
    """

    child: Child
    kind: str
    details: Mapping[str, Any]

    @property
    def is_last(self) -> bool:
        """Whether the child is gone with it."""
        return self.kind in ("result", "error", "died")


@dataclass(eq=False)
class Child:
    """A process that runs one function.

    Attributes:
        process: The process.
        events: The end of the pipe that it talks to.
        tag: Whatever the caller wants to know it by.
        is_orphan: Whether the forkserver has died, which would tell how the child ends.
    """

    process: Any
    events: connection.Connection
    tag: Any = None
    is_orphan: bool = False


class Pool:
    """Starts functions in fresh processes.

    Args:
        preload: Modules that the forkserver imports once.
        stop_s: What a child gets to end when it is asked to, before it is forced.
    """

    def __init__(self, preload: Sequence[str], stop_s: float = _GRACE_S) -> None:
        self.preload = tuple(preload)
        self.stop_s = stop_s
        self.environment: dict[str, str] = {}
        self.children: list[Child] = []
        self._leaving: list[Child] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(self.preload))

    def __enter__(self) -> Pool:
        _ensure_forkserver()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        pid = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # left alone, it would take a while

    def start(
        self,
        function: str,
        *arguments: Any,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        cores: Sequence[int] = (),
        tag: Any = None,
    ) -> Child:
        """Start ``function(*arguments, report)`` in a fresh process.

        Args:
            function: ``module:function``, so that the parent need not import it; its last
                argument is ``report(kind, details)``.
            arguments: Picklable; they and what it returns must not need torch here.
            log: File that its output is appended to.
            environment: Variables to set before anything else.
            cores: The cores that it may use; empty for all.
            tag: Kept with the child.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        variables = {**self.environment, **(environment or {})}
        setting = Setting(variables, log, tuple(cores), self.preload, self.stop_s)

        deadline = time.monotonic() + _GRACE_S
        while True:
            _ensure_forkserver()
            process: Any = self._context.Process(
                target=run_child, args=(theirs, function, arguments, setting)
            )
            try:
                process.start()
                break
            except (EOFError, ConnectionError):  # the forkserver was killed, but is not yet gone
                if time.monotonic() > deadline:
                    raise
                time.sleep(_NOT_YET_GONE_S)
        theirs.close()
        child = Child(process, ours, tag)
        self.children.append(child)
        return child

    def call(
        self,
        function: str,
        *arguments: Any,
        on_report: Callable[[str, Mapping[str, Any]], None] | None = None,
        **options: Any,
    ) -> Any:
        """Run a function in a fresh process and return what it returns.

        Args:
            function: As for `start`.
            arguments: As for `start`.
            on_report: Told what the function reports meanwhile.
            options: As for `start`.

        Raises:
            PfstudyError: It raised one.
            ChildFailedError: It failed otherwise.
        """
        child = self.start(function, *arguments, **options)
        for event in self.events():
            if event.child is child and not event.is_last and on_report is not None:
                on_report(event.kind, event.details)
            if event.child is child and event.is_last:
                child.process.join(_GRACE_S)
                self._reap()
                if event.kind == "result":
                    return event.details["value"]
                reason = str(event.details["reason"])
                raise PfstudyError(reason) if event.details["user"] else ChildFailedError(reason)
        raise AssertionError("a child ends with a last event")

    def events(self) -> Iterator[Event]:
        """Yield what happens to the children, as it happens, until none is left."""
        while self.children:
            event = self.next_event(_TICK_S)
            if event is not None:
                yield event

    def next_event(self, timeout_s: float | None = None) -> Event | None:
        """Wait for the next thing that happens to a child.

        Returns:
            What happened; ``None`` if nothing did in time, or nothing that matters.
        """
        self._reap()
        by_source: dict[Any, Child] = {}
        for child in self.children:
            by_source[child.events] = child
            if not child.is_orphan:
                by_source[child.process.sentinel] = child
        ready = connection.wait(list(by_source), timeout_s)
        for source in sorted(ready, key=lambda source: source is not by_source[source].events):
            child = by_source[source]
            if source is child.events:
                return self._receive(child)
            if child.events.poll():
                continue
            if _lives_on(child):
                child.is_orphan = True
                return None
            return self._bury(child)
        return None

    def stop(self) -> None:
        """End all children: first asked, after a while forced; at once if interrupted meanwhile."""
        for child in self.children:  # not what it has started: it may need that to end well
            with suppress(ProcessLookupError):
                os.kill(child.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + self.stop_s
        try:
            while self.children and (left := deadline - time.monotonic()) > 0:
                self.next_event(min(left, _TICK_S))
            for child in self._leaving:
                child.process.join(max(0.0, min(_GRACE_S, deadline - time.monotonic())))
        finally:
            for child in [*self.children, *self._leaving]:
                self.kill(child)
                child.process.join()
                child.events.close()
            self.children.clear()
            self._leaving.clear()

    def kill(self, child: Child) -> None:
        """End a child, and whatever it has started, at once."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.process.pid, signal.SIGKILL)

    def dump(self, child: Child) -> None:
        """Have a child write to its output where each of its threads is."""
        with suppress(ProcessLookupError):
            os.kill(child.process.pid, signal.SIGUSR1)

    def _receive(self, child: Child) -> Event:
        try:
            kind, details = child.events.recv()
        except (EOFError, OSError):
            return self._bury(child)
        event = Event(child, kind, details)
        if event.is_last:
            self._remove(child)
        return event

    def _bury(self, child: Child) -> Event:
        child.process.join()
        code = child.process.exitcode or 0
        self.kill(child)  # whatever it left in its session
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        self._remove(child)
        return Event(child, "died", {"reason": f"its process {how}", "user": False})

    def _remove(self, child: Child) -> None:
        """Let a child go that has said its last; that it ends is not waited for."""
        self.children.remove(child)
        self._leaving.append(child)
        child.events.close()

    def _reap(self) -> None:
        for child in [child for child in self._leaving if not child.process.is_alive()]:
            self._leaving.remove(child)
            self.kill(child)  # whatever it left in its session
            child.process.join()


def _ensure_forkserver() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the forkserver inherits it
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, previous)


def _lives_on(child: Child) -> bool:
    """Whether it was the forkserver that ended, and not the child."""
    child.process.join(0)
    if child.process.exitcode != _FORKSERVER_GONE:
        return False
    try:
        os.kill(child.process.pid, 0)
    except ProcessLookupError:
        return False
    return True
