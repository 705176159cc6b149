from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from pfstudy import files, ledger, store
from pfstudy.cli import ledger as commands
from run_directories import write_run, write_weights

MAXPOOL = "block.spatial=maxpool"


@dataclass(frozen=True)
class Ended:
    code: int | str | None
    out: str
    err: str


Call = Callable[..., Ended]


@pytest.fixture
def call(call_here: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line in this process and an empty directory, without a terminal."""
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    return lambda *arguments: Ended(*call_here(*map(str, arguments)))


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], list[str]]:
    """Sit at a terminal and answer every question; returns the questions."""

    def sit(says: bool) -> list[str]:
        questions: list[str] = []

        def confirm(question: str, *, abort: bool) -> bool:
            questions.append(question)
            if abort and not says:
                raise typer.Abort
            return says

        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(typer, "confirm", confirm)
        return questions

    return sit


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A directory of runs: one is done, one has failed."""
    root = tmp_path / "runs"
    done = write_run(root, state="done", epoch=15, num_epochs=15, val_top1_percent=97.25)
    write_weights(done, "last.safetensors", "best.safetensors", num_bytes=1_234_567)
    write_run(root, MAXPOOL, state="failed", reason="the loss is nan", kind="diverged")
    return root


def run_of(root: Path, label: str) -> Path:
    (found,) = root.glob(f"*-{label}-*/seed0")
    return found


def files_below(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def mistake(ended: Ended) -> str:
    """The sentence that says what the user did wrong."""
    assert ended.code == 2, ended
    (sentence,) = ended.err.strip().splitlines()
    assert sentence.startswith("pfstudy: ")
    return sentence


class TestStatus:
    def test_counts_and_lists(self, call: Call, runs: Path) -> None:
        ended = call("status")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.splitlines()[0] == "2 runs: 1 done, 1 failed"
        assert "97.25" in ended.out
        assert "(diverged) the loss is nan" in ended.out

    def test_of_one_run_as_json(self, call: Call, runs: Path) -> None:
        run = run_of(runs, "maxpool").relative_to(runs.parent)
        data = json.loads(call("status", run, "--json").out)
        assert data["counts"] == {"failed": 1}
        (row,) = data["runs"]
        assert (row["directory"], row["reason"]) == (str(run), "the loss is nan")

    def test_of_a_study(self, call: Call, runs: Path) -> None:
        member = str(run_of(runs, "original").relative_to(runs))
        files.write_json(runs / store.STUDIES / "mine.json", {"members": [member]})
        assert call("status", "--study", "mine").out.splitlines()[0] == "1 run: 1 done"
        assert "study 'none' does not exist" in mistake(call("status", "--study", "none"))

    def test_lists_all_of_many_when_asked_to(self, call: Call, runs: Path) -> None:
        for seed in range(1, 31):
            write_run(runs, seed=seed, state="done")
        assert "seed30" not in call("status").out
        assert "seed30" in call("status", "--all").out

    def test_without_a_directory(self, call: Call) -> None:
        assert "there is no directory runs" in mistake(call("status"))

    def test_watching_is_for_people(self, call: Call, runs: Path) -> None:
        assert "leave out --json" in mistake(call("status", "--watch", "--json"))

    def test_imports_nothing_heavy(self, runs: Path) -> None:
        script = (
            "import sys\nfrom pfstudy.cli import main\n"
            "try:\n    main()\nexcept SystemExit as ended:\n    assert not ended.code\n"
            "heavy = {'torch', 'lightning', 'wandb', 'hydra', 'omegaconf', 'pandas', 'numpy'}\n"
            "print('imported:', sorted(heavy & set(sys.modules)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, "status"],
            cwd=runs.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.splitlines()[0] == "2 runs: 1 done, 1 failed"
        assert done.stdout.splitlines()[-1] == "imported: []"


class TestWatch:
    @pytest.fixture
    def meanwhile(self, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[float]]:
        """Let things happen between two looks; returns how long was slept each time."""

        def schedule(*events: Callable[[], Any]) -> list[float]:
            slept: list[float] = []

            def sleep(seconds: float) -> None:
                slept.append(seconds)
                events[len(slept) - 1]()

            monkeypatch.setattr(time, "sleep", sleep)
            return slept

        return schedule

    def test_until_nothing_is_running_or_pending(
        self, call: Call, runs: Path, meanwhile: Callable[..., list[float]]
    ) -> None:
        run = write_run(runs, "block.spatial=avgpool")
        claims: list[ledger.Claim | None] = []

        def end() -> None:
            assert claims[0] is not None
            claims[0].end("interrupted", reason="asked to stop")

        slept = meanwhile(lambda: claims.append(ledger.claim(run)), end)
        ended = call("status", "--watch")
        assert (ended.code, ended.err) == (0, "")
        assert slept == [commands.REFRESH_S] * 2
        assert "1 done, 1 interrupted, 1 failed" in ended.out
        assert "asked to stop" in ended.out

    def test_runs_that_come_and_go_and_are_half_written(
        self, call: Call, runs: Path, meanwhile: Callable[..., list[float]]
    ) -> None:
        run = write_run(runs, "block.spatial=avgpool")
        other = runs / "new-1" / "seed0"

        def appear() -> None:
            other.mkdir(parents=True)
            (other / ledger.STATE).write_text('{"state":')
            (other / store.CONFIG).write_text("{")

        def vanish() -> None:
            run.rename(runs / "moved")

        slept = meanwhile(appear, vanish)
        ended = call("status", "--watch")
        assert ended.code == 0
        assert len(slept) == 2
        assert "1 done, 1 failed, 1 damaged" in ended.out

    def test_ctrl_c_ends_it_quietly(
        self, call: Call, runs: Path, meanwhile: Callable[..., list[float]]
    ) -> None:
        write_run(runs, "block.spatial=avgpool")

        def interrupt() -> None:
            raise KeyboardInterrupt

        slept = meanwhile(interrupt)
        ended = call("status", "--watch")
        assert (ended.code, ended.err, len(slept)) == (0, "", 1)


class TestWhy:
    def test_two_runs(self, call: Call, runs: Path) -> None:
        left, right = run_of(runs, "original"), run_of(runs, "maxpool")
        ended = call("why", left, right)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.splitlines()[0] == "two variants"
        assert "stage1.block1-2, stage2.block1-2" in ended.out
        data = json.loads(call("why", left, right, "--json").out)
        assert data["differences"][0]["key"] == "stage1.block1"

    def test_one_run(self, call: Call, runs: Path) -> None:
        ended = call("why", run_of(runs, "maxpool"))
        expected = "would be trained: attempt 1 failed (diverged): the loss is nan; it begins anew"
        assert ended.out == f"maxpool seed0 {expected}\n"
        (data,) = json.loads(call("why", run_of(runs, "original"), "--json").out)
        assert (data["state"], data["action"]) == ("done", "skipped")

    def test_all_seeds_of_a_variant(self, call: Call, runs: Path) -> None:
        done = run_of(runs, "original")
        write_run(runs, seed=1)
        ended = call("why", done.parent)
        assert [line.split()[:3] for line in ended.out.splitlines() if "seed" in line] == [
            ["original", "seed0", "skipped"],
            ["original", "seed1", "trained"],
        ]

    @pytest.mark.parametrize(
        ("what", "says"),
        [
            pytest.param(["none"], "there is no directory none", id="none"),
            pytest.param(["runs", "a=b"], "there is no directory a=b", id="mixed"),
            pytest.param(["runs/x-stage2=maxpool-1/seed0"], "there is no directory", id="mistyped"),
            pytest.param(["runs", "runs", "runs"], "there are 3 directories", id="three"),
            pytest.param(["runs", "runs"], "no directory of a run or of a variant", id="root"),
            pytest.param(["empty"], "there are no runs in empty", id="empty"),
            pytest.param(["block.spatial=maxpol"], "Did you mean 'maxpool'?", id="override"),
        ],
    )
    def test_mistakes(
        self, call: Call, runs: Path, tmp_path: Path, what: list[str], says: str
    ) -> None:
        (tmp_path / "empty").mkdir()
        if what == ["runs/x-stage2=maxpool-1/seed0"]:
            (runs / "x-stage2=maxpool-1").mkdir()
        assert says in mistake(call("why", *what))

    def test_what_would_be_trained(self, pfstudy: Any, tmp_path: Path, make_run: Any) -> None:
        root = tmp_path / "runs"
        done = make_run("block.spatial=conv", "recipe.lr=0.3")
        store.prepare(done)
        files.write_json(done.directory / ledger.RECORD, {"metrics": {"test_top1_percent": 97}})
        before = files_below(tmp_path)
        command = ["why", "-m", "block.spatial=conv,maxpool", "recipe.lr=0.3"]
        command += ["hydra/launcher=joblib", "+hydra.launcher.n_jobs=2"]
        ended = pfstudy(tmp_path, *command)
        assert (ended.returncode, ended.stderr) == (0, "")
        there = done.directory.relative_to(tmp_path)
        text = " ".join(ended.stdout.split())
        assert "original seed0 skipped done since" in text
        assert f"maxpool seed0 trained new: differs from {there} in stage1.block1-2" in text
        assert "original there, maxpool here" in text
        ended = pfstudy(tmp_path, "why", "block.spatial=maxpool", "recipe.lr=0.3", "--json")
        (data,) = json.loads(ended.stdout)
        assert (data["state"], data["action"], data["nearest"]) == ("new", "trained", str(there))
        assert data["differences"][0] == {
            "key": "stage1.block1",
            "left": "original",
            "right": "maxpool",
        }
        assert files_below(tmp_path) == before
        assert {path.name for path in tmp_path.iterdir()} == {root.name}

    def test_directory_of_another_config(self, pfstudy: Any, tmp_path: Path, make_run: Any) -> None:
        run = make_run(MAXPOOL)
        store.prepare(run)
        path = run.directory / store.CONFIG
        path.write_text(path.read_text().replace('"seed": 0', '"seed": 7'))
        ended = pfstudy(tmp_path, "why", MAXPOOL)
        assert ended.returncode == 2
        assert "was written by another config" in ended.stderr


class TestPrune:
    def test_says_what_it_deletes_and_asks(
        self, call: Call, runs: Path, answer: Callable[[bool], list[str]]
    ) -> None:
        questions = answer(True)
        run = run_of(runs, "original")
        ended = call("prune", "--keep", "last")
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.splitlines() == [
            "1 run not done: left alone",
            "to delete: 1 best.safetensors (1.2 MB)",
            "deleted 1 file, 1.2 MB",
        ]
        assert questions == ["Delete them?"]
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.safetensors"]
        assert call("prune", "--keep", "last").out.splitlines()[-1] == "nothing to delete"
        assert len(questions) == 1

    def test_no_is_no(self, call: Call, runs: Path, answer: Callable[[bool], list[str]]) -> None:
        answer(False)
        before = files_below(runs)
        assert call("prune", "--keep", "none").code == 1
        assert files_below(runs) == before

    @pytest.mark.parametrize("options", [[], ["--json"]], ids=["people", "json"])
    def test_without_a_terminal_it_must_be_told(
        self, call: Call, runs: Path, options: list[str]
    ) -> None:
        before = files_below(runs)
        assert "give --yes" in mistake(call("prune", "--keep", "none", *options))
        assert files_below(runs) == before

    def test_json_is_not_mixed_with_a_question(
        self, call: Call, runs: Path, answer: Callable[[bool], list[str]]
    ) -> None:
        assert answer(True) == []
        assert "give --yes" in mistake(call("prune", "--keep", "none", "--json"))

    def test_yes_and_json(self, call: Call, runs: Path) -> None:
        checkpoints = run_of(runs, "original").relative_to(runs.parent) / "checkpoints"
        data = json.loads(call("prune", "--keep", "none", "--yes", "--json").out)
        names = ("last.safetensors", "best.safetensors")
        assert data == {"deleted": [str(checkpoints / n) for n in names], "bytes": 2_469_134}
        assert list(checkpoints.iterdir()) == []

    def test_run_that_keeps_other_weights_is_named(self, call: Call, runs: Path) -> None:
        run = run_of(runs, "original").relative_to(runs.parent)
        (run / store.BEST_WEIGHTS).unlink()
        ended = call("prune", "--keep", "best", "--yes")
        says = f"1 run without best.safetensors: kept are the last weights ({run})"
        assert says in ended.out.splitlines()
        assert (run / store.WEIGHTS).exists()

    def test_of_a_study_only_its_members(self, call: Call, runs: Path) -> None:
        other = write_run(runs, "block.spatial=avgpool", state="done")
        write_weights(other, "last.safetensors")
        members = [str(other.relative_to(runs)), "gone/seed0"]
        files.write_json(runs / store.STUDIES / "mine.json", {"members": members})
        ended = call("prune", "--keep", "none", "--study", "mine", "--yes")
        assert ended.out.splitlines()[0] == "to delete: 1 last.safetensors (1.0 kB)"
        assert not (other / store.WEIGHTS).exists()
        assert (run_of(runs, "original") / store.WEIGHTS).exists()

    def test_unknown_choice(self, call: Call, runs: Path) -> None:
        assert "Did you mean 'best'?" in mistake(call("prune", "--keep", "bst", "--yes"))


class TestForget:
    def test_moves_aside_and_says_where(
        self, call: Call, runs: Path, answer: Callable[[bool], list[str]]
    ) -> None:
        questions = answer(True)
        run = run_of(runs, "original").relative_to(runs.parent)
        target = Path("runs") / "forgotten" / run.parent.name / "seed0"
        ended = call("forget", run)
        assert (ended.code, ended.err) == (0, "")
        said, done = ended.out.splitlines()
        assert said == f"{run} -> {target}"
        assert "the same command" in done
        assert questions == ["Move it there?"]
        assert (target / ledger.RECORD).exists()
        assert not run.exists()

    def test_no_is_no(self, call: Call, runs: Path, answer: Callable[[bool], list[str]]) -> None:
        answer(False)
        before = files_below(runs)
        assert call("forget", run_of(runs, "original")).code == 1
        assert files_below(runs) == before

    def test_without_a_terminal_it_must_be_told(self, call: Call, runs: Path) -> None:
        run = run_of(runs, "original")
        assert "give --yes" in mistake(call("forget", run))
        data = json.loads(call("forget", run, "--yes", "--json").out)
        target = runs / "forgotten" / run.parent.name / "seed0"
        assert data == {str(run): str(target)}
        assert target.exists()

    def test_running_run(self, call: Call, runs: Path) -> None:
        run = write_run(runs, "block.spatial=avgpool", state="running")
        assert "is being trained" in mistake(call("forget", run, "--yes"))
        assert run.exists()

    def test_no_run(self, call: Call, runs: Path) -> None:
        says = "runs is no directory of a run or of a variant"
        assert says in mistake(call("forget", "runs", "--yes"))


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e15, "5000.0 TB")],
)
def test_size(num_bytes: float, expected: str) -> None:
    assert commands._size(num_bytes) == expected
