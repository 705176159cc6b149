"""Real sweeps that are asked to stop, once or twice, and go on."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from pfstudy import files, ledger, store
from trouble import SMALL, set_pace, write_module
from under_way import Sweep, Sweeps, wait_until

NUM_EPOCHS = 30
LONG = (*SMALL, "-m", "imports=[trouble_ops]", f"recipe.epochs={NUM_EPOCHS}")
COMMANDS = {
    "ctrl-c": ("block.spatial=paced,paced_too,identity", "launcher.num_workers=2"),
    "sigterm": ("block.spatial=paced", "trainer.devices=2"),
    "twice": ("block.spatial=hangs,identity", "launcher.stop_seconds=10000"),
}


@pytest.fixture(scope="module")
def sweeps(executable: str, environment: Mapping[str, str]) -> Iterator[Sweeps]:
    with Sweeps(executable, environment) as started:
        yield started


@pytest.fixture(scope="module")
def begun(sweeps: Sweeps, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sweep]:
    """Three sweeps, started together, as they mostly import."""
    started = {}
    for name, overrides in COMMANDS.items():
        directory = tmp_path_factory.mktemp(name)
        write_module(directory)
        set_pace(directory, 0.5)
        started[name] = sweeps.start(directory, *LONG, *overrides)
    return started


@dataclass(frozen=True)
class Stopped:
    """A sweep that was asked to stop.

    Attributes:
        sweep: The sweep.
        states: What ``state.json`` said of every run afterwards, by label.
        checkpoints: The runs that had one.
        again: The same command, given again, which has ended.
    """

    sweep: Sweep
    states: dict[str, str]
    checkpoints: set[str]
    again: Sweep


@pytest.fixture(scope="module")
def stopped(sweeps: Sweeps, begun: dict[str, Sweep]) -> dict[str, Stopped]:
    """Ctrl-C for a sweep of three runs, SIGTERM for a run of two ranks; then both again."""
    begun["ctrl-c"].wait_for_epochs(2, "paced", "paced_too")
    begun["ctrl-c"].parent.send_signal(signal.SIGINT)
    begun["sigterm"].wait_for_epochs(2, "paced")
    begun["sigterm"].parent.send_signal(signal.SIGTERM)
    ended = {}
    for name in ("ctrl-c", "sigterm"):
        sweep = begun[name]
        sweep.wait()
        sweep.wait_until_nothing_is_left()
        runs = {path.parent.name.split("-")[2]: path for path in sweep.runs_dir.glob("*/seed0")}
        states = {label: sweep.state(label)["state"] for label in runs}
        checkpoints = {label for label, path in runs.items() if (path / store.RESUME).exists()}
        set_pace(sweep.directory, 0)
        again = sweeps.start(sweep.directory, *LONG, *COMMANDS[name])
        ended[name] = Stopped(sweep, states, checkpoints, again)
    for one in ended.values():
        one.again.wait()
    return ended


BOTH = pytest.mark.parametrize("name", ["ctrl-c", "sigterm"])


@pytest.mark.slow
class TestStopped:
    @BOTH
    def test_exit_code_and_one_sentence(self, stopped: dict[str, Stopped], name: str) -> None:
        sweep = stopped[name].sweep
        assert sweep.parent.returncode == 130
        assert sweep.output.splitlines()[-1] == (
            "pfstudy: interrupted; the same command goes on with what is not done."
        )
        assert "Traceback" not in sweep.output
        assert "stopping: 2 processes may write a checkpoint" in sweep.output

    def test_states(self, stopped: dict[str, Stopped]) -> None:
        assert stopped["ctrl-c"].states == {
            "paced": "interrupted",
            "paced_too": "interrupted",
            "identity": "pending",
        }
        assert stopped["sigterm"].states == {"paced": "interrupted"}

    def test_each_run_under_way_has_written_a_checkpoint(self, stopped: dict[str, Stopped]) -> None:
        assert stopped["ctrl-c"].checkpoints == {"paced", "paced_too"}
        assert stopped["sigterm"].checkpoints == {"paced"}

    @BOTH
    def test_same_command_trains_what_is_not_done(
        self, stopped: dict[str, Stopped], name: str
    ) -> None:
        again = stopped[name].again
        assert again.parent.returncode == 0, again.output
        assert "0 done before" in again.output
        assert "top-1" in again.output
        for label in stopped[name].states:
            assert again.state_of(label) == "done"

    @BOTH
    def test_attempts_are_counted_each_with_a_run_of_wandb(
        self, stopped: dict[str, Stopped], name: str
    ) -> None:
        again = stopped[name].again
        for label, state in stopped[name].states.items():
            numbers = [1, 2] if state == "interrupted" else [1]
            assert again.attempts(label) == len(numbers)
            record = files.read_json(again.run_dir(label) / ledger.RECORD)
            assert record["training"]["attempts"] == len(numbers)
            identity = record["identity"]["hash"]
            assert again.tracked(label) == [f"{identity}-0-{n}" for n in numbers]

    @BOTH
    def test_metrics_have_each_epoch_once(self, stopped: dict[str, Stopped], name: str) -> None:
        again = stopped[name].again
        for label in stopped[name].states:
            lines = (again.run_dir(label) / "metrics.csv").read_text().splitlines()
            epochs = [line.split(",")[0] for line in lines]
            assert epochs == ["epoch", *(str(epoch) for epoch in range(1, NUM_EPOCHS + 1))]

    def test_two_ranks_are_recorded(self, stopped: dict[str, Stopped]) -> None:
        run_dir = stopped["sigterm"].again.run_dir("paced")
        assert files.read_json(run_dir / ledger.RECORD)["training"]["world_size"] == 2

    @BOTH
    def test_nothing_is_left(self, stopped: dict[str, Stopped], name: str) -> None:
        stopped[name].again.wait_until_nothing_is_left()


@pytest.fixture(scope="module")
def stubborn(begun: dict[str, Sweep]) -> Sweep:
    """A run that hangs, so that it cannot write a checkpoint, and two Ctrl-C."""
    sweep = begun["twice"]
    wait_until((sweep.directory / "hanging").exists, "it hangs", sweep.parent)
    sweep.parent.send_signal(signal.SIGINT)
    sweep.wait_for_output("Ctrl-C again stops at once")
    sweep.parent.send_signal(signal.SIGINT)
    sweep.wait()
    return sweep


@pytest.mark.slow
class TestTwice:
    def test_ends_at_once(self, stubborn: Sweep) -> None:
        assert stubborn.parent.returncode == 130
        assert stubborn.output.splitlines()[-1].startswith("pfstudy: interrupted")
        assert "Traceback" not in stubborn.output

    def test_nothing_is_left(self, stubborn: Sweep) -> None:
        stubborn.wait_until_nothing_is_left()

    def test_run_that_could_not_end_itself_is_interrupted(self, stubborn: Sweep) -> None:
        stubborn.wait_until_nothing_is_left()
        assert stubborn.state_of("hangs") == "interrupted"
