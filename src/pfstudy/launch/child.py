"""The side of the child: a fresh process that runs one function and reports to its pool."""

from __future__ import annotations

import faulthandler
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from pfstudy.errors import PfstudyError

_LEFT_OVER = (  # of whatever started pfstudy itself, such as torchrun or sbatch
    *("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT", "SLURM_PROCID", "SLURM_NTASKS"),
)


@dataclass(frozen=True)
class Setting:
    """What a child sets before it does anything.

    Attributes:
        variables: Variables of the environment.
        log: File that its output is appended to.
        cores: The cores that it may use; empty for all.
        preload: Modules that must be imported.
        stop_s: What it gets to end when its parent is gone, before it is forced.
    """

    variables: Mapping[str, str]
    log: Path | None
    cores: tuple[int, ...]
    preload: tuple[str, ...]
    stop_s: float


def run_child(
    events: connection.Connection,
    function: str,
    arguments: tuple[Any, ...],
    setting: Setting,
) -> None:
    """Run a function and send its reports, and at last its result or why there is none.

    Args:
        events: The end of the pipe to write to.
        function: ``module:function``.
        arguments: Its arguments but for the last, the function to report with.
        setting: What is set before.
    """
    os.setsid()
    threading.Thread(target=_end_with_parent, args=(setting.stop_s,), daemon=True).start()
    signal.signal(signal.SIGTERM, _interrupt)

    def report(kind: str, details: Mapping[str, Any]) -> None:
        with suppress(BrokenPipeError):
            events.send((kind, dict(details)))

    try:
        _set_up(setting)
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


def _set_up(setting: Setting) -> None:
    if setting.log is not None:
        _redirect(setting.log)
    faulthandler.register(signal.SIGUSR1, file=2)
    if setting.cores:
        os.sched_setaffinity(0, setting.cores)
    for name in _LEFT_OVER:
        os.environ.pop(name, None)
    os.environ.update(setting.variables)
    for name in setting.preload:  # the forkserver swallows a failing import
        if name not in sys.modules:
            importlib.import_module(name)


def _end_with_parent(stop_s: float) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)  # a run writes a checkpoint
    time.sleep(stop_s)
    os.killpg(0, signal.SIGKILL)


def _interrupt(number: int, frame: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _redirect(log: Path) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
