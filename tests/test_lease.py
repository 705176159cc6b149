from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pfstudy import lease
from pfstudy.errors import PfstudyError

HOLDER = """
import sys
from pfstudy import lease
kind, device = sys.argv[1:]
with getattr(lease, kind)(device, on_wait=lambda: print("waits", flush=True)):
    print("holds", flush=True)
    sys.stdin.readline()
print("ended", flush=True)
"""


class Holder:
    """A process that takes a lease, says so, and keeps it until it is told to let go."""

    def __init__(self, kind: str, device: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, kind, device],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def let_go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


Take = Callable[..., Holder]


@pytest.fixture
def take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Take]:
    monkeypatch.setenv(lease.DIRECTORY, str(tmp_path / "leases"))
    holders = []

    def start(kind: str, device: str = "cpu") -> Holder:
        holders.append(Holder(kind, device))
        return holders[-1]

    yield start
    for holder in holders:
        holder.process.kill()
        holder.process.communicate()


class TestSharing:
    def test_training_runs_share_a_device(self, take: Take) -> None:
        assert [take("training").says() for _ in range(3)] == ["holds"] * 3

    def test_measuring_waits_for_training_to_end(self, take: Take) -> None:
        trainings = [take("training") for _ in range(2)]
        assert [training.says() for training in trainings] == ["holds"] * 2
        measuring = take("measuring")
        assert measuring.says() == "waits"
        for training in trainings:
            training.let_go()
            assert training.says() == "ended"
        assert measuring.says() == "holds"

    @pytest.mark.parametrize("kind", ["training", "measuring"])
    def test_measuring_keeps_others_out(self, take: Take, kind: str) -> None:
        measuring = take("measuring")
        assert measuring.says() == "holds"
        other = take(kind)
        assert other.says() == "waits"
        measuring.let_go()
        assert measuring.says() == "ended"
        assert other.says() == "holds"

    def test_waiting_measurement_goes_before_a_later_training_run(self, take: Take) -> None:
        first = take("training")
        assert first.says() == "holds"
        measuring = take("measuring")
        assert measuring.says() == "waits"
        later = take("training")
        assert later.says() == "waits"
        first.let_go()
        assert measuring.says() == "holds"
        measuring.let_go()
        assert later.says() == "holds"

    def test_other_devices_are_not_affected(self, take: Take) -> None:
        assert take("measuring", "GPU-1").says() == "holds"
        assert take("measuring", "GPU-2").says() == "holds"

    @pytest.mark.parametrize("kind", ["training", "measuring"])
    def test_ends_with_the_process_that_holds_it(self, take: Take, kind: str) -> None:
        holder = take(kind)
        assert holder.says() == "holds"
        waiting = take("measuring")
        assert waiting.says() == "waits"
        holder.process.kill()
        assert waiting.says() == "holds"

    def test_waiting_measurement_that_is_killed_lets_training_in(self, take: Take) -> None:
        first = take("training")
        assert first.says() == "holds"
        measuring = take("measuring")
        assert measuring.says() == "waits"
        later = take("training")
        assert later.says() == "waits"
        measuring.process.kill()
        assert later.says() == "holds"


class TestInProcess:
    @pytest.mark.parametrize("kind", [lease.training, lease.measuring])
    def test_free_again_after_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[..., object]
    ) -> None:
        monkeypatch.setenv(lease.DIRECTORY, str(tmp_path))
        with pytest.raises(ZeroDivisionError), kind("cpu"):  # type: ignore[attr-defined]
            raise ZeroDivisionError
        waited: list[bool] = []
        with lease.measuring("cpu", on_wait=lambda: waited.append(True)):
            assert waited == []

    def test_handles_are_closed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(lease.DIRECTORY, str(tmp_path))
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with lease.training("cpu"):
            pass
        with lease.measuring("cpu"):
            pass
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208

    def test_files_are_for_all_users(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(lease.DIRECTORY, str(tmp_path / "leases"))
        with lease.training("cpu"):
            pass
        assert (tmp_path / "leases").stat().st_mode & 0o7777 == 0o1777
        modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "leases").iterdir()}
        assert modes == {0o666}

    def test_unusable_directory_is_a_users_mistake(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv(lease.DIRECTORY, str(tmp_path / "file"))
        with pytest.raises(PfstudyError, match=lease.DIRECTORY), lease.training("cpu"):
            pass

    def test_link_in_its_place_is_not_followed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(lease.DIRECTORY, str(tmp_path))
        (tmp_path / "target").touch(mode=0o600)
        (tmp_path / "cpu.gate.lock").symlink_to(tmp_path / "target")
        with pytest.raises(PfstudyError, match="cannot be opened"), lease.training("cpu"):
            pass
        assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600
