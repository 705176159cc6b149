"""Being asked to stop: training ends at the next step that can be gone on from."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn


class Stopped(BaseException):
    """Training has stopped because it was asked to, behind a checkpoint."""


class StopRequest:
    """Whether this process was asked to stop: by SIGTERM, or the signal of a preemption."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._received: tuple[int, FrameType | None] | None = None

    def __bool__(self) -> bool:
        return self._received is not None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Note signals to stop instead of acting on them."""
        if threading.current_thread() is not threading.main_thread():
            yield  # where somebody else's thread trains, nobody sends us signals
            return
        self._handlers = {
            number: signal.getsignal(number)
            for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
            if number == signal.SIGTERM or callable(signal.getsignal(number))
        }
        self.listen()
        try:
            yield
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def listen(self) -> None:
        """Take the signals back from whoever took them over meanwhile, as Lightning does."""
        for number in self._handlers:
            signal.signal(number, self._note)

    def hand_on(self) -> NoReturn:
        """Do what would have been done at once, such as asking a cluster to start again.

        Raises:
            KeyboardInterrupt: In any case, also where another process of the run was asked.
        """
        if self._received is not None:
            number, frame = self._received
            handler = self._handlers.get(number)
            if callable(handler):
                handler(number, frame)
        raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._received = (number, frame)
