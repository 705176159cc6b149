"""Peak memory, and an end of memory that is an error and no kill."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")


def start_counting(device: torch.device) -> int:
    """Begin to count a process's peak memory; returns what there is at the start."""
    if device.type == "cuda":
        if torch.cuda.is_initialized():  # else there is nothing to forget, and it would fail
            torch.cuda.reset_peak_memory_stats(device)
        return 0
    with suppress(OSError):  # where the kernel does not let us, earlier peaks count as the start
        Path("/proc/self/clear_refs").write_text("5")  # the peak becomes what there is now
    return peak_bytes(device)


def peak_bytes(device: torch.device) -> int:
    """The peak; of the host without files, as the libraries' own pages come in when first used."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    found = _status()
    return found["VmHWM"] - found["RssFile"]


def peak_of(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that a step has allocated at a time beyond what it was given.

    Counted by the allocators themselves, so it does not depend on what a process did before.

    Args:
        step: Has run before.
        device: Where it computes.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    now = most = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            now += event.nbytes()
            most = max(most, now)
    return most


@contextmanager
def limited_host_memory() -> Iterator[None]:
    """Let an allocation fail that the host has no memory for, instead of the process be killed."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _status()["VmData"] + _available_on_host()
    hard = before[1] if before[1] != resource.RLIM_INFINITY else limit
    resource.setrlimit(resource.RLIMIT_DATA, (min(limit, hard), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def available_bytes(device: torch.device) -> int:
    """Memory of a device that this process could still take."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        return int(torch.cuda.mem_get_info(device)[0])
    return _available_on_host()


def _available_on_host() -> int:
    found = _read_table(Path("/proc/meminfo"))["MemAvailable"]
    with suppress(OSError, ValueError):
        most = int((_CGROUP / "memory.max").read_text())
        found = min(found, most - int((_CGROUP / "memory.current").read_text()))
    return found


def _status() -> dict[str, int]:
    return _read_table(Path("/proc/self/status"))


def _read_table(path: Path) -> dict[str, int]:
    """Lines such as ``VmHWM:  100 kB``, in bytes."""
    found = {}
    for line in path.read_text().splitlines():
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[key] = 1024 * int(value.split()[0])
    return found
