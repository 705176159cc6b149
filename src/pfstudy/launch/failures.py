"""What went wrong with a run, as far as the processes that are left can tell."""

from __future__ import annotations

from collections import deque
from pathlib import Path

_NUM_LINES = 20
_MOST_CHARACTERS = 400


def log_tail(path: Path) -> list[str]:
    """The last lines of a log."""
    try:
        with path.open(errors="replace") as file:
            lines = deque(file, maxlen=_NUM_LINES)
    except OSError:
        return []
    return [line.rstrip("\n")[:_MOST_CHARACTERS] for line in lines]


def count_oom_kills() -> int:
    """How many processes the kernel has killed for memory since it started."""
    try:
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    except OSError:
        pass
    return 0
