"""Real sweeps that are ended from outside, wholly or in part."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from pfstudy import files, ledger, store

MARK = "PFSTUDY_TEST_MARK"
PATIENCE_S = 120
LONG = ("-m", "block.spatial=maxpool,identity", "speed=none")


def wait_until(
    condition: Callable[[], Any], what: str, while_runs: subprocess.Popen[bytes] | None = None
) -> None:
    """Poll, and give up after a long while, or when a process has ended before its time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        assert while_runs is None or while_runs.poll() is None, f"it ended before {what}"
        time.sleep(0.02)


@dataclass
class Victim:
    """A sweep under way, in a session of its own; its processes are known by a variable."""

    directory: Path
    mark: str
    parent: subprocess.Popen[bytes]

    @property
    def output(self) -> str:
        return (self.directory / "output").read_text()

    def processes(self) -> dict[int, str]:
        """Process ids of the sweep with their command lines; zombies have ended."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if f"{MARK}={self.mark}".encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):
                continue
        return found

    def state(self, label: str) -> dict[str, Any]:
        paths = list((self.directory / "runs").glob(f"*-{label}-*/seed0/state.json"))
        return files.read_json(paths[0]) if paths else {}

    def state_of(self, label: str) -> store.State:
        (directory,) = (self.directory / "runs").glob(f"*-{label}-*/seed0")
        return ledger.state_of(directory)

    def has_metrics(self, label: str) -> bool:
        return any((self.directory / "runs").glob(f"*-{label}-*/seed0/metrics.csv"))

    def num_epochs(self, label: str) -> int:
        (path,) = (self.directory / "runs").glob(f"*-{label}-*/seed0/metrics.csv")
        return len(path.read_text().splitlines()) - 1

    def wait_for_training(self, *labels: str) -> None:
        for label in labels:
            wait_until(lambda label=label: self.has_metrics(label), "it trains", self.parent)

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not self.processes(), f"these end: {self.processes()}")

    def kill_all(self) -> None:
        for process in self.processes():
            os.kill(process, signal.SIGKILL)
        self.parent.wait()


Start = Callable[..., Victim]


@pytest.fixture(scope="module")
def start(
    tmp_path_factory: pytest.TempPathFactory, executable: str, environment: Mapping[str, str]
) -> Iterator[Start]:
    """Start a sweep that goes on until it is ended, or the tests are over."""
    victims = []

    def begin(*arguments: str) -> Victim:
        directory, mark = tmp_path_factory.mktemp("victim"), uuid4().hex
        with (directory / "output").open("wb") as output:
            parent = subprocess.Popen(
                [executable, *LONG, *arguments],
                cwd=directory,
                env={**environment, MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        victims.append(Victim(directory, mark, parent))
        return victims[-1]

    yield begin
    for victim in victims:
        victim.kill_all()


@pytest.fixture(scope="module")
def mauled(start: Start) -> Victim:
    """A tracked sweep of two: one child is killed, then W&B's service, then Ctrl-C comes."""
    victim = start("recipe.epochs=600")
    victim.wait_for_training("maxpool", "identity")
    os.kill(victim.state("maxpool")["pid"], signal.SIGKILL)
    wait_until(lambda: "was killed by SIGKILL" in victim.output, "it says so", victim.parent)
    services = [pid for pid, command in victim.processes().items() if "wandb-core" in command]
    assert services
    for service in services:
        os.kill(service, signal.SIGKILL)
    wait_until(lambda: "tracking is lost" in victim.output, "it says so", victim.parent)
    before = victim.num_epochs("identity")
    wait_until(lambda: victim.num_epochs("identity") > before + 3, "it goes on", victim.parent)
    victim.parent.send_signal(signal.SIGINT)
    victim.parent.wait(PATIENCE_S)
    return victim


class TestChildKilled:
    def test_failure_is_recorded_with_its_reason(self, mauled: Victim) -> None:
        state = mauled.state("maxpool")
        assert state["state"] == "failed"
        assert "killed by SIGKILL" in state["reason"]
        assert state["attempt"] == 1

    def test_failure_is_said_once_with_the_run_and_its_log(self, mauled: Victim) -> None:
        (line,) = [line for line in mauled.output.splitlines() if "SIGKILL" in line]
        assert "[1/2] maxpool seed0: failed" in line
        assert "run.log" in line


class TestServiceKilled:
    def test_loss_of_tracking_is_said_once_and_training_goes_on(self, mauled: Victim) -> None:
        assert mauled.output.count("tracking is lost") == 1
        assert "identity seed0: tracking is lost" in mauled.output
        assert mauled.num_epochs("identity") > 3


class TestInterrupted:
    def test_exit_code_and_one_sentence(self, mauled: Victim) -> None:
        assert mauled.parent.returncode == 130
        assert "interrupted; the same command goes on" in mauled.output.splitlines()[-1]
        assert "Traceback" not in mauled.output

    def test_run_under_way_is_interrupted(self, mauled: Victim) -> None:
        assert mauled.state("identity")["state"] == "interrupted"

    def test_nothing_is_left(self, mauled: Victim) -> None:
        mauled.wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def untracked(start: Start) -> dict[str, Victim]:
    """Sweeps that train one run and have one waiting, started together to save time."""
    alone = ("logger=none", "launcher.num_workers=1")
    victims = {
        "parent-killed": start("recipe.epochs=30", *alone),
        "parent-terminated": start("recipe.epochs=600", *alone),
        "forkserver-killed": start("recipe.epochs=600", *alone),
    }
    victims["parent-killed"].wait_for_training("maxpool")
    victims["parent-killed"].parent.kill()
    victims["parent-terminated"].wait_for_training("maxpool")
    victims["parent-terminated"].parent.terminate()
    server = victims["forkserver-killed"]
    server.wait_for_training("maxpool")
    forkserver = _parent_of(server.state("maxpool")["pid"])
    assert forkserver in server.processes()
    assert forkserver != server.parent.pid
    os.kill(forkserver, signal.SIGKILL)
    server.wait_for_training("identity")
    server.parent.send_signal(signal.SIGINT)
    for victim in victims.values():
        victim.parent.wait(PATIENCE_S)
    return victims


def _parent_of(process: int) -> int:
    stat = Path(f"/proc/{process}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


class TestParentKilled:
    def test_nothing_is_left(self, untracked: dict[str, Victim]) -> None:
        victim = untracked["parent-killed"]
        assert victim.parent.returncode == -signal.SIGKILL
        victim.wait_until_nothing_is_left()

    def test_states(self, untracked: dict[str, Victim]) -> None:
        victim = untracked["parent-killed"]
        victim.wait_until_nothing_is_left()
        assert victim.state("maxpool")["state"] == "running"
        assert victim.state_of("maxpool") == "interrupted"
        assert victim.state_of("identity") == "pending"

    def test_same_command_trains_what_is_not_done(
        self, untracked: dict[str, Victim], pfstudy: Any
    ) -> None:
        victim = untracked["parent-killed"]
        victim.wait_until_nothing_is_left()
        again = pfstudy(victim.directory, *LONG, "recipe.epochs=30", "logger=none")
        assert again.returncode == 0, again.stderr
        assert "2 runs, 0 done before" in again.stderr
        for label, attempt in (("maxpool", 2), ("identity", 1)):
            state = victim.state(label)
            assert (state["state"], state["attempt"]) == ("done", attempt)
            assert victim.num_epochs(label) == 30
        assert "top-1" in again.stdout


class TestParentTerminated:
    def test_is_like_ctrl_c(self, untracked: dict[str, Victim]) -> None:
        victim = untracked["parent-terminated"]
        assert victim.parent.returncode in (128 + signal.SIGINT, 128 + signal.SIGTERM)
        assert "interrupted; the same command goes on" in victim.output.splitlines()[-1]
        assert "Traceback" not in victim.output

    def test_states(self, untracked: dict[str, Victim]) -> None:
        victim = untracked["parent-terminated"]
        assert victim.state("maxpool")["state"] == "interrupted"
        assert victim.state_of("identity") == "pending"

    def test_nothing_is_left(self, untracked: dict[str, Victim]) -> None:
        untracked["parent-terminated"].wait_until_nothing_is_left()


class TestForkserverKilled:
    def test_run_under_way_failed(self, untracked: dict[str, Victim]) -> None:
        victim = untracked["forkserver-killed"]
        assert victim.state("maxpool")["state"] == "failed"
        assert "its process" in victim.state("maxpool")["reason"]
        assert "[1/2] maxpool seed0: failed" in victim.output

    def test_waiting_run_is_trained_from_a_new_forkserver(
        self, untracked: dict[str, Victim]
    ) -> None:
        victim = untracked["forkserver-killed"]
        assert victim.num_epochs("identity") > 0
        assert victim.state("identity")["state"] == "interrupted"
        assert victim.parent.returncode == 130
        assert "Traceback" not in victim.output

    def test_nothing_is_left(self, untracked: dict[str, Victim]) -> None:
        untracked["forkserver-killed"].wait_until_nothing_is_left()
