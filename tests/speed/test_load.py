from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pfstudy.speed import load
from pfstudy.speed.load import GpuLoad, Load

WATCHED_S = 0.5
BURNER = """
import os, sys
os.sched_setaffinity(0, [int(sys.argv[1])])
print("burning", flush=True)
while True:
    pass
"""

pytestmark = pytest.mark.skipif(
    not Path("/proc/stat").exists(), reason="the kernel does not tell how busy its cores are"
)


@pytest.fixture
def core() -> Iterator[int]:
    """The core to which this process is pinned meanwhile."""
    before = os.sched_getaffinity(0)
    chosen = max(before)
    os.sched_setaffinity(0, [chosen])
    yield chosen
    os.sched_setaffinity(0, before)


def test_another_process_on_the_same_core_is_seen(core: int) -> None:
    command = [sys.executable, "-S", "-c", BURNER, str(core)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as burner:
        try:
            assert burner.stdout is not None
            burner.stdout.readline()
            seen = Load([core])
            time.sleep(WATCHED_S)
            assert 0.5 < seen.of_others() < 1.2
        finally:
            burner.kill()


def test_what_this_process_burns_is_not_counted(core: int) -> None:
    """Others have at most what is left of the core, whatever else runs on this machine."""
    seen, began, used = Load([core]), time.monotonic(), time.process_time()
    while time.monotonic() - began < WATCHED_S:
        pass
    found = seen.of_others()
    own = (time.process_time() - used) / (time.monotonic() - began)
    assert own > 0.25  # else this shows nothing
    assert found < 1 - own + 0.15


def test_cores_that_do_not_count_are_not_counted(core: int) -> None:
    seen, began = Load([]), time.monotonic()
    while time.monotonic() - began < 0.05:
        pass
    assert seen.of_others() == 0


STAT = """cpu  99 99 99 99 99 99 99 99 99 99
cpu0 {0} 20 30 1000 500 1 2 3 400 500
cpu1 {1} 0 0 0 0 0 0 0 0 0
cpu10 {1} 0 0 0 0 0 0 0 0 0
intr 5 6 7
"""


def test_only_busy_time_of_the_cores_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = tmp_path / "stat"
    monkeypatch.setattr(load, "_STAT", stat)
    stat.write_text(STAT.format(10, 0))
    seen = Load([0])
    assert seen._busy == (10 + 20 + 30 + 1 + 2 + 3) / os.sysconf("SC_CLK_TCK")
    stat.write_text(STAT.format(10, 10_000_000))
    assert seen.of_others() <= 0  # less what this test has computed
    stat.write_text(STAT.format(10_000_000, 0))
    assert seen.of_others() > 1


def test_a_kernel_that_does_not_tell_shows_no_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "_STAT", tmp_path / "gone")
    assert Load([0]).of_others() == 0


@pytest.mark.parametrize(
    ("percent", "expected"),
    [
        pytest.param([90, 30, 80, 10], 0.3, id="before"),
        pytest.param([90, 0, 80, 20], 0.2, id="after"),
    ],
)
def test_a_gpu_is_looked_at_when_our_own_work_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, percent: list[int], expected: float
) -> None:
    """What is seen at once is our own."""
    monkeypatch.setattr(load, "_PAUSE_S", 0)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "utilization", lambda: percent.pop(0))
    assert GpuLoad().of_others() == expected


def test_a_gpu_that_does_not_tell_has_an_unknown_load(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "utilization", refuse)
    assert GpuLoad().of_others() is None
