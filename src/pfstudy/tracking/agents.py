"""Runs that an agent of a W&B sweep asks for: it waits for the run whose id it has made up."""

from __future__ import annotations

import os
from pathlib import Path

_PARAMETERS = "WANDB_SWEEP_PARAM_PATH"
_OF_AGENT = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", _PARAMETERS)


def agent_waits() -> bool:
    """Whether an agent has started this command, and none of its runs is what it waits for yet."""
    taken = _taken()
    return taken is not None and not taken.exists()


def take_agents_run() -> None:
    """Become the run that the agent waits for, or else leave its sweep.

    Of a command's attempts at runs the first one takes it, because an id serves once; the others
    are runs of W&B by themselves.
    """
    taken = _taken()
    if taken is not None:
        try:
            taken.touch(exist_ok=False)
        except OSError:
            pass
        else:
            return
    leave_agent()


def leave_agent() -> None:
    """Be no run that an agent waits for."""
    for name in _OF_AGENT:
        os.environ.pop(name, None)


def _taken() -> Path | None:
    """The file that says that the agent's run is taken, beside what the agent wrote for it."""
    parameters = os.environ.get(_PARAMETERS)
    if parameters is None or not Path(parameters).exists():
        return None
    return Path(f"{parameters}.taken")
