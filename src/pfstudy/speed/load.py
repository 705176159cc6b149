"""How much of the machine others use while something is measured."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterable
from pathlib import Path

_STAT = Path("/proc/stat")
_PAUSE_S = 1.2  # NVML's utilization is of up to a second
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_LEAST_TICKS = 2
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, irq, softirq, steal


class Load:
    """Counts the cores' time that went to others since it was made.

    Args:
        cores: The cores that count.
    """

    def __init__(self, cores: Iterable[int]) -> None:
        self._cores = frozenset(cores)
        self._began = time.monotonic()
        self._busy, self._own = self._busy_s(), _own_s()

    def of_others(self) -> float:
        """Number of cores that others have used on average; 0 where the kernel does not tell.

        The kernel counts the cores' time in ticks and ours exactly, so a few ticks mean nothing.
        """
        elapsed = time.monotonic() - self._began
        others = self._busy_s() - self._busy - (_own_s() - self._own)
        return others / elapsed if self._busy and others > _LEAST_TICKS / _TICKS_PER_S else 0.0

    def _busy_s(self) -> float:
        """Time that the cores were not idle; what a hypervisor took away counts, too."""
        try:
            lines = _STAT.read_text().splitlines()
        except OSError:
            return 0.0
        ticks = 0
        for line in lines:
            name, *counts = line.split()
            number = name.removeprefix("cpu")
            if name.startswith("cpu") and number.isdigit() and int(number) in self._cores:
                ticks += sum(int(counts[column]) for column in _BUSY)
        return ticks / _TICKS_PER_S


class GpuLoad:
    """Looks at how busy others keep the GPU of this process, before it is used and afterwards.

    Meanwhile nobody could tell what is theirs. Waits each time until our own work is forgotten.
    """

    def __init__(self) -> None:
        self._before = _utilization_by_others()

    def of_others(self) -> float | None:
        """Share of the time in which others used the GPU, the larger of the two; may be unknown."""
        after = _utilization_by_others()
        return None if self._before is None or after is None else max(self._before, after)


def _utilization_by_others() -> float | None:
    import torch

    torch.cuda.synchronize()
    try:
        torch.cuda.utilization()  # where it is not known, there is nothing to wait for
        time.sleep(_PAUSE_S)
        return torch.cuda.utilization() / 100
    except Exception:  # NVML's bindings are not installed, or it does not tell
        return None


def _own_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
