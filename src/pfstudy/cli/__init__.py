"""The command line: Hydra's grammar for anything that trains, subcommands for the rest.

Imports neither torch nor Hydra before it needs them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from pfstudy.cli import (  # noqa: F401  (they register subcommands)
    costs,
    design,
    evaluation,
    explain,
    ledger,
    packing,
    pictures,
    plan,
    results,
    search,
    speed,
    tracking,
    training,
)
from pfstudy.cli.app import app
from pfstudy.cli.overrides import compose
from pfstudy.errors import PfstudyError, RunsFailedError

_OURS = {"--help", "-h", "--version", "--install-completion", "--show-completion"}


def main() -> None:
    """Run the command line; a user's mistake is one sentence and exit code 2."""
    arguments = sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # a terminal is closed, without nohup
        signal.signal(signal.SIGHUP, _terminate)
    try:
        if goes_to_hydra(arguments):
            configs = compose(arguments[1:] if arguments[0] == "train" else arguments)
            if configs:
                training.run_configs(configs)
        else:
            app(arguments or ["--help"])
    except RunsFailedError as error:
        _fail(str(error), 1)
    except PfstudyError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on with what is not done.", 130)
    except BrokenPipeError:  # the reader of our output has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def goes_to_hydra(arguments: Sequence[str]) -> bool:
    """Whether the first argument is an override, an option of Hydra's, or ``train``."""
    if not arguments:
        return False
    first = arguments[0]
    if first.partition("=")[0] in _OURS:
        return False
    return first == "train" or "=" in first or first[0] in "+~-"


def _terminate(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    print(f"pfstudy: {message}", file=sys.stderr)
    sys.exit(code)
