from __future__ import annotations

import io
import json
import os
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from pfstudy import files, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.tables import status
from pfstudy.tables.status import Row, as_data, count, is_settled, read_rows, render
from run_directories import let_age, let_owner_vanish, write_run

MAXPOOL = "block.spatial=maxpool"


def written(rows: list[Row], *, all_rows: bool = False) -> str:
    """What a person sees, without the spaces at the end of lines."""
    out = io.StringIO()
    Console(file=out, width=160).print(render(rows, all_rows=all_rows), soft_wrap=True)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def line_of(text: str, start: str) -> list[str]:
    """The words of the line that begins with something."""
    (line,) = (line for line in text.splitlines() if line.strip().startswith(start))
    return line.split()


class TestReadRows:
    def test_done(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="done", epoch=15, num_epochs=15, val_top1_percent=96.5)
        (row,) = read_rows(tmp_path)
        assert (row.run, row.directory, row.state) == ("original seed0", str(run), "done")
        assert (row.epoch, row.num_epochs, row.val_top1_percent) == (15, 15, 96.5)
        assert (row.attempt, row.pid, row.reason) == (1, os.getpid(), None)

    def test_pending(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        assert read_rows(tmp_path) == [Row("original seed0", str(run), "pending")]

    def test_running_has_the_age_of_its_heartbeat(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="running", epoch=3, num_epochs=40, accumulation=2)
        let_age(run, 1000)
        (row,) = read_rows(tmp_path)
        assert row.state == "running"
        assert row.heartbeat_age_s is not None
        assert 1000 <= row.heartbeat_age_s < 2000
        assert row.accumulation == 2

    def test_failed_has_its_reason_and_its_log(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="failed", reason="the loss is nan", kind="diverged")
        assert read_rows(tmp_path)[0].log is None
        (run / "run.log").touch()
        (row,) = read_rows(tmp_path)
        assert (row.reason, row.kind) == ("the loss is nan", "diverged")
        assert row.log == str(run / "run.log")
        assert row.heartbeat_age_s is None

    def test_process_that_is_gone(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="running", epoch=3)
        let_owner_vanish(run)
        (row,) = read_rows(tmp_path)
        assert (row.state, row.reason, row.epoch) == ("interrupted", "its process is gone", 3)

    def test_nothing_of_an_earlier_attempt(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="failed", reason="why", epoch=3, val_top1_percent=9.5)
        state = (run / ledger.STATE).read_bytes()
        assert ledger.claim(run) is not None
        (run / ledger.STATE).write_bytes(state)
        (row,) = read_rows(tmp_path)
        assert (row.state, row.attempt) == ("running", 2)
        assert (row.reason, row.epoch, row.val_top1_percent, row.pid) == (None,) * 4

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            pytest.param('{"state": "runn', "state.json is damaged", id="half-written"),
            pytest.param('{"state": "asleep"}', "unknown state, 'asleep'", id="unknown-state"),
        ],
    )
    def test_damaged_ledger_is_a_row(self, tmp_path: Path, content: str, says: str) -> None:
        damaged, _ = write_run(tmp_path, MAXPOOL), write_run(tmp_path)
        (damaged / ledger.STATE).write_text(content)
        rows = {row.run: row for row in read_rows(tmp_path)}
        assert rows["maxpool seed0"].state == status.DAMAGED
        assert says in str(rows["maxpool seed0"].reason)
        assert rows["original seed0"].state == "pending"

    @pytest.mark.parametrize("content", [None, "{"], ids=["missing", "half-written"])
    def test_run_without_a_readable_config_is_named_by_its_directory(
        self, tmp_path: Path, content: str | None
    ) -> None:
        run = write_run(tmp_path, state="done")
        (run / store.CONFIG).unlink()
        if content is not None:
            (run / store.CONFIG).write_text(content)
        (row,) = read_rows(tmp_path)
        assert (row.run, row.state) == (f"{run.parent.name} seed0", "done")

    def test_values_of_another_type_are_left_out(self, tmp_path: Path) -> None:
        write_run(tmp_path, state="failed", epoch="three", val_top1_percent=None, host=7)
        (row,) = read_rows(tmp_path)
        assert (row.epoch, row.val_top1_percent, row.host) == (None, None, None)

    def test_of_a_variant_and_of_a_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, seed=1)
        write_run(tmp_path, seed=0)
        write_run(tmp_path, MAXPOOL)
        assert [row.run for row in read_rows(run.parent)] == ["original seed0", "original seed1"]
        assert [row.directory for row in read_rows(run)] == [str(run)]

    def test_of_a_study_in_its_order_with_those_that_have_no_directory_yet(
        self, tmp_path: Path
    ) -> None:
        members = [write_run(tmp_path, MAXPOOL, state="done"), tmp_path / "new-1" / "seed0"]
        members.append(write_run(tmp_path))
        write_run(tmp_path, "block.spatial=avgpool")
        names = [str(member.relative_to(tmp_path)) for member in members]
        files.write_json(tmp_path / store.STUDIES / "mine.json", {"members": names})
        found = [(row.run, row.state) for row in read_rows(tmp_path, "mine")]
        expected = [("maxpool seed0", "done"), ("new-1 seed0", "pending")]
        assert found == [*expected, ("original seed0", "pending")]

    def test_unknown_study(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match="study 'none' does not exist"):
            read_rows(tmp_path, "none")

    def test_run_that_vanishes_meanwhile(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        vanishing, staying = write_run(tmp_path, MAXPOOL), write_run(tmp_path)

        def late(directory: Path) -> ledger.Status:
            shutil.rmtree(vanishing.parent, ignore_errors=True)
            return read_status(directory)

        read_status = ledger.read_status
        monkeypatch.setattr(ledger, "read_status", late)
        assert [row.directory for row in read_rows(tmp_path)] == [str(staying)]


def row_of(state: str, number: int = 0) -> Row:
    return Row(f"run{number:03}", f"runs/{number}", state)


class TestCount:
    def test_by_state(self) -> None:
        rows = [row_of(state) for state in ("failed", "done", "damaged", "done")]
        assert list(count(rows).items()) == [("done", 2), ("failed", 1), ("damaged", 1)]

    @pytest.mark.parametrize(
        ("states", "expected"),
        [
            pytest.param([], True, id="none"),
            pytest.param(["done", "failed", "interrupted", "damaged"], True, id="ended"),
            pytest.param(["done", "running"], False, id="running"),
            pytest.param(["done", "pending"], False, id="pending"),
        ],
    )
    def test_is_settled(self, states: list[str], expected: bool) -> None:
        assert is_settled([row_of(state) for state in states]) is expected

    def test_as_data(self) -> None:
        data = json.loads(json.dumps(as_data([row_of("done")])))
        assert data["counts"] == {"done": 1}
        assert (data["runs"][0]["state"], data["runs"][0]["epoch"]) == ("done", None)


class TestRender:
    def test_everything(self, tmp_path: Path) -> None:
        failed = {"epoch": 2, "num_epochs": 40, "val_top1_percent": 9.876}
        run = write_run(tmp_path, state="failed", reason="it is nan", kind="diverged", **failed)
        (run / "run.log").touch()
        (row,) = read_rows(tmp_path)
        text = written([row])
        host = files.read_json(run / ledger.STATE)["host"]
        assert text.splitlines()[0] == "1 run: 1 failed"
        where = [host, str(os.getpid())]
        words = ["original", "seed0", "failed", "2/40", "9.88", *where, "(diverged)"]
        assert line_of(text, "original") == [*words, "it", "is", "nan"]
        assert text.splitlines()[-1] == f"log of original seed0: {run / 'run.log'}"

    def test_running(self) -> None:
        row = Row("a", "a", "running", epoch=1, accumulation=4, heartbeat_age_s=12.3)
        words = ["a", "running", "1/?", "12", "s", "ago", "batch", "in", "4", "parts"]
        assert line_of(written([row]), "a ") == words

    def test_columns_that_are_empty_are_left_out(self) -> None:
        text = written([row_of("pending"), row_of("done", 1)])
        assert line_of(text, "run ") == ["run", "state"]

    def test_markup_in_a_reason_is_text(self) -> None:
        assert "[red]x[/]" in written([Row("[bold]", "a", "failed", reason="[red]x[/]")])

    @pytest.mark.parametrize(
        ("num_done", "all_rows", "listed"),
        [
            pytest.param(28, False, 30, id="few"),
            pytest.param(29, False, 2, id="many"),
            pytest.param(29, True, 31, id="all"),
        ],
    )
    def test_of_many_runs_only_those_that_are_not_done_are_listed(
        self, num_done: int, all_rows: bool, listed: int
    ) -> None:
        rows = [row_of("done", number) for number in range(num_done)]
        rows += [row_of("failed", 100), row_of("pending", 101)]
        text = written(rows, all_rows=all_rows)
        assert sum(line.strip().startswith("run") for line in text.splitlines()) - 1 == listed
        assert f"{num_done} done" in text.splitlines()[0]
        assert ("--all lists" in text.splitlines()[0]) is (listed == 2)

    def test_many_that_are_all_done(self) -> None:
        text = written([row_of("done", number) for number in range(40)])
        assert text == "40 runs: 40 done; --all lists those that are done, too"

    def test_no_runs(self) -> None:
        assert written([]) == "no runs"


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.4, "0 s"), (59, "59 s"), (61, "1 min"), (3 * 3600, "3 h"), (50 * 3600, "2 d")],
)
def test_age(seconds: float, expected: str) -> None:
    assert status.age(seconds) == expected
