from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wandb_server
from pfstudy import tracking
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Logger

KEY = "0123456789" * 4


def make_logger(**changes: Any) -> Logger:
    return Logger(**{"name": "wandb", "mode": "auto", "project": "test", "entity": None, **changes})


@pytest.fixture
def _fresh_wandb() -> Iterator[None]:
    """A test may kill the service, and leaves none behind."""
    tracking.stop_service()
    yield
    tracking.stop_service()
    os.environ.pop("WANDB_SERVICE", None)


def read_entries(directory: Path) -> list[dict[str, Any]]:
    (run,) = (directory / "wandb").glob("offline-run-*/*.wandb")
    wandb = str(Path(sys.executable).with_name("wandb"))
    command = [wandb, "leet", "inspect", "--json", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def service_processes() -> list[int]:
    """Services that are descendants of this process."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            is_service = "wandb-core" in (entry / "cmdline").read_text()
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        if is_service and parent == os.getpid():
            found.append(int(entry.name))
    return found


class TestChooseMode:
    @pytest.mark.parametrize(
        ("logger", "expected"),
        [
            pytest.param(make_logger(), "offline", id="auto"),
            pytest.param(make_logger(mode="offline"), "offline", id="offline"),
            pytest.param(make_logger(name="none"), "disabled", id="none"),
        ],
    )
    def test_nobody_is_logged_in(self, logger: Logger, expected: str) -> None:
        assert tracking.choose_mode(logger) == expected

    def test_online_needs_a_login(self) -> None:
        with pytest.raises(PfstudyError, match=r"nobody is logged in.*logger\.mode=offline"):
            tracking.choose_mode(make_logger(mode="online"))

    @pytest.mark.parametrize("mode", ["auto", "online"])
    def test_malformed_key(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "abc")
        with pytest.raises(PfstudyError, match=r"key is malformed.*WANDB_API_KEY") as raised:
            tracking.choose_mode(make_logger(mode=mode))
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("logger", [make_logger(mode="offline"), make_logger(name="none")])
    def test_malformed_key_does_not_matter_offline(
        self, monkeypatch: pytest.MonkeyPatch, logger: Logger
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "abc")
        assert tracking.choose_mode(logger) != "online"


@pytest.mark.usefixtures("_fresh_wandb")
class TestTracker:
    @staticmethod
    def start(directory: Path, mode: tracking.Mode = "offline") -> tuple[Any, list[str]]:
        said: list[str] = []
        tracker = tracking.Tracker(make_logger(), mode, directory, said.append)
        tracker.start("abc-0-1", "maxpool-seed0", "mine", {"lr": 0.1, "sites": [1, 2]})
        return tracker, said

    def test_offline_run_holds_what_was_logged(
        self, tmp_path: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        tracker, said = self.start(tmp_path)
        tracker.log({"loss": 2.0}, step=1)
        tracker.log({"loss": 1.0}, step=2)
        tracker.summarise({"params": 7})
        tracker.finish(0)
        entries = read_entries(tmp_path)
        (run,) = [entry["run"] for entry in entries if entry["type"] == "run"]
        assert {"abc-0-1", "maxpool-seed0", "mine", "train", "test"} <= {
            value for value in run.values() if isinstance(value, str)
        }
        history = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
        assert [(row["_step"], row["loss"]) for row in history] == [(1, 2), (2, 1)]
        summary: dict[str, Any] = {}
        for entry in entries:
            summary |= entry.get("summary", {}).get("update", {})
        assert summary["params"] == 7
        assert [e["exit"]["exit_code"] for e in entries if e["type"] == "exit"] == [0]
        assert said == []
        assert capfd.readouterr() == ("", "")

    def test_disabled_writes_nothing(self, tmp_path: Path) -> None:
        tracker, said = self.start(tmp_path, "disabled")
        tracker.log({"loss": 2.0}, step=1)
        tracker.summarise({"params": 7})
        tracker.finish(0)
        assert list(tmp_path.iterdir()) == []
        assert said == []

    def test_loss_of_the_service_is_said_once(self, tmp_path: Path) -> None:
        tracker, said = self.start(tmp_path)
        services = service_processes()
        assert services
        for service in services:
            os.kill(service, signal.SIGKILL)
            os.waitpid(service, 0)
        for step in range(1, 4):
            tracker.log({"loss": 1.0}, step=step)
        tracker.summarise({"params": 7})
        tracker.finish(0)
        assert len(said) == 1
        assert said[0].startswith("tracking is lost")

    def test_shared_service_that_is_gone_is_replaced_by_an_own_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_SERVICE", f"3-{os.getpid()}-unix-{tmp_path / 'gone'}")
        tracker, said = self.start(tmp_path)
        tracker.log({"loss": 2.0}, step=1)
        tracker.finish(0)
        assert said == []
        assert [e["type"] for e in read_entries(tmp_path)].count("history") == 1

    def test_without_network_it_goes_offline_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        monkeypatch.setattr(tracking.runs, "_INIT_TIMEOUT_S", 2)
        tracker, said = self.start(tmp_path, "online")
        tracker.log({"loss": 2.0}, step=1)
        tracker.finish(0)
        (sentence,) = said
        assert "not to be reached" in sentence
        assert "offline" in sentence
        assert [e["type"] for e in read_entries(tmp_path)].count("history") == 1

    def test_network_that_is_gone_at_the_end_is_not_waited_for(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracking.runs, "_FINISH_TIMEOUT_S", 1)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        with wandb_server.serve() as server:
            monkeypatch.setenv("WANDB_BASE_URL", server.url)
            tracker, said = self.start(tmp_path, "online")
        tracker.log({"loss": 2.0}, step=1)
        tracker.finish(0)
        (sentence,) = said
        assert sentence.startswith("tracking is lost (Timed out")
        assert "`pfstudy sync` tells W&B later" in sentence
        assert (tmp_path / tracking.runs.LOST).exists()


@pytest.mark.usefixtures("_fresh_wandb")
class TestService:
    def test_children_are_told_where_it_is(self) -> None:
        environment = tracking.start_service()
        assert set(environment) == {"WANDB_SERVICE"}
        assert len(service_processes()) == 1

    def test_stopped_leaves_no_process(self) -> None:
        tracking.start_service()
        tracking.stop_service()
        assert service_processes() == []

    def test_stopping_what_is_gone_is_fine(self) -> None:
        tracking.start_service()
        for service in service_processes():
            os.kill(service, signal.SIGKILL)
        tracking.stop_service()
        tracking.stop_service()


def test_service_that_dies_at_its_start_is_done_without() -> None:
    """wandb.setup() would hold a lock that its own error handling waits for."""
    code = (
        "import wandb.sdk.lib.service.service_process as process\n"
        "def die(*_, **__): raise RuntimeError('died')\n"
        "process._launch_server = die\n"
        "from pfstudy import tracking\n"
        "print(tracking.start_service())\n"
        "tracking.stop_service()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "{}", done.stderr
