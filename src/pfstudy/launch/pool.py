"""Fresh processes, forked from one that has the whole stack imported.

The parent imports no torch. A child has its own session, so Ctrl-C reaches only the parent, and
ends itself when the parent is gone, however that ended.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection, forkserver
from pathlib import Path
from typing import Any

from pfstudy.errors import ChildFailedError, PfstudyError

PRELOAD = (
    "torch",
    "lightning",
    "timm",
    "torchmetrics",
    "sklearn.datasets.data",
    "sklearn.datasets.descr",
    "sklearn.model_selection",
    "pfstudy.worker",
    "pfstudy.speed.measure",
    "pfstudy.launch.check",
    "pfstudy.launch.warm",
    "pfstudy.data.digits",
    "pfstudy.cli",
)
PRELOAD_TRACKING = ("wandb", "pfstudy.launch.warm_tracking")

_LEFT_OVER = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "MASTER_PORT")
_GRACE_S = 10.0


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
    """

    process: Any
    events: connection.Connection
    tag: Any = None


class Pool:
    """Starts functions in fresh processes.

    Args:
        preload: Modules that the forkserver imports once.
    """

    def __init__(self, preload: Sequence[str]) -> None:
        self.preload = tuple(preload)
        self.environment: dict[str, str] = {}
        self.children: list[Child] = []
        self._leaving: list[Child] = []
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(self.preload))

    def __enter__(self) -> Pool:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the forkserver inherits it
        try:
            forkserver.ensure_running()
        finally:
            signal.signal(signal.SIGINT, previous)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        pid = getattr(forkserver, "_forkserver")._forkserver_pid  # noqa: B009
        if kind is not None and pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)  # or it would end only when its imports are done

    def start(
        self,
        function: str,
        *arguments: Any,
        log: Path | None = None,
        environment: Mapping[str, str] | None = None,
        tag: Any = None,
    ) -> Child:
        """Start ``function(*arguments, report)`` in a fresh process.

        Args:
            function: ``module:function``, so that the parent need not import it; its last
                argument is ``report(kind, details)``.
            arguments: Picklable; they and what it returns must not need torch here.
            log: File that its output is appended to.
            environment: Variables to set before anything else.
            tag: Kept with the child.
        """
        ours, theirs = self._context.Pipe(duplex=False)
        variables = {**self.environment, **(environment or {})}
        process = self._context.Process(
            target=_child_main, args=(theirs, function, arguments, variables, log, self.preload)
        )
        process.start()
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
            self._reap()
            by_source: dict[Any, Child] = {}
            for child in self.children:
                by_source |= {child.events: child, child.process.sentinel: child}
            for source in connection.wait(list(by_source)):
                child = by_source[source]
                if child in self.children and source is child.events:
                    yield self._receive(child)
                elif child in self.children and not child.events.poll():
                    yield self._bury(child)

    def stop(self) -> None:
        """End all children: first asked, after a while forced."""
        for child in self.children:
            _signal(child, signal.SIGTERM)
        deadline = time.monotonic() + _GRACE_S
        for child in [*self.children, *self._leaving]:
            child.process.join(max(0.0, deadline - time.monotonic()))
            _signal(child, signal.SIGKILL)
            child.process.join()
            child.events.close()
        self.children.clear()
        self._leaving.clear()

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
        _signal(child, signal.SIGKILL)  # it lives on if only the forkserver has died
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
            _signal(child, signal.SIGKILL)  # whatever it left in its session
            child.process.join()


def _signal(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.process.pid, number)


def _child_main(
    events: connection.Connection,
    function: str,
    arguments: tuple[Any, ...],
    variables: Mapping[str, str],
    log: Path | None,
    preload: Sequence[str],
) -> None:
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.signal(signal.SIGTERM, _interrupt)
    if log is not None:
        _redirect(log)
    for name in _LEFT_OVER:
        os.environ.pop(name, None)
    os.environ.update(variables)

    def report(kind: str, details: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            events.send((kind, dict(details)))

    try:
        missing = [name for name in preload if name not in sys.modules]
        for name in missing:  # the forkserver swallows a failing import
            importlib.import_module(name)
        module_name, _, function_name = function.partition(":")
        run = getattr(importlib.import_module(module_name), function_name)
        report("result", {"value": run(*arguments, report)})
    except PfstudyError as error:
        report("error", {"reason": str(error), "user": True})
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        report("error", {"reason": "interrupted", "user": False})
    except BaseException as error:
        traceback.print_exc()
        lines = str(error).strip().splitlines()
        reason = type(error).__name__ + (f": {lines[0]}" if lines else "")
        report("error", {"reason": reason, "user": False})
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.killpg(0, signal.SIGKILL)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _redirect(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
