"""Worker processes of their own, from one that has imported everything: a moment, not 10 s each.

Started as a program, this reads orders from standard input, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runs import Moment, signalled

PATIENCE_S = 120


@dataclass
class Child:
    """A process that trains a run as ``python -m pfstudy.worker`` does.

    Attributes:
        pid: Its id.
        log: What it has said.
    """

    nursery: Nursery
    pid: int
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def signal_group(self, number: int) -> None:
        os.killpg(self.pid, number)

    def wait(self) -> int:
        """Wait for its exit code; negative for the signal that has killed it."""
        return int(self.nursery.order(wait=self.pid))


class Nursery:
    """Starts worker processes.

    Args:
        environment: Their environment, but for what `start` is given.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        here = Path(__file__)
        places = [str(here.parent), str(here.parent.parent), environment.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, str(here)],
            env={**environment, "PYTHONPATH": os.pathsep.join(filter(None, places))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(
        self,
        log: Path,
        *arguments: str | Path,
        signal_at: tuple[Moment, int] | None = None,
        **environment: str | int,
    ) -> Child:
        """Start a worker.

        Args:
            log: Where its output goes.
            arguments: Its command line: the run directory.
            signal_at: A moment at which it gets a signal, and which one.
            environment: Further variables.
        """
        variables = {name: str(value) for name, value in environment.items()}
        command = [str(argument) for argument in arguments]
        at = signal_at and (signal_at[0].step, signal_at[0].number, signal_at[1])
        pid = self.order(command=command, log=str(log), signal_at=at, environment=variables)
        return Child(self, int(pid), log)

    def order(self, **order: Any) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End it, and what it has started."""
        self._process.communicate()


def serve() -> None:
    import pfstudy.worker.__main__  # noqa: F401

    children: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if "wait" in order:
            print(wait_for(order["wait"]), flush=True)
            children.discard(order["wait"])
            continue
        pid = os.fork()
        if not pid:
            work(order)
        children.add(pid)
        print(pid, flush=True)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


def wait_for(pid: int) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def work(order: Mapping[str, Any]) -> None:
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ |= order["environment"]
    sys.argv = ["pfstudy.worker", *order["command"]]
    code = 1
    try:
        with ExitStack() as stack:
            if order["signal_at"]:
                step, batch, number = order["signal_at"]
                stack.enter_context(signalled(Moment(step, batch), number))
            runpy.run_module("pfstudy.worker", run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    serve()
