from __future__ import annotations

from pathlib import Path

import pytest

from pfstudy import keeping, ledger, store
from pfstudy.errors import DiskError, PfstudyError
from pfstudy.inventory import find_runs
from pfstudy.keeping import Keep, forget, plan_forgetting, plan_pruning, prune
from run_directories import let_owner_vanish, write_run, write_weights

LAST, BEST, RESUME = "last.safetensors", "best.safetensors", "resume.ckpt"
DRAFT = f".{RESUME}.draft"


def files_below(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A finished run with all checkpoints there are, and other files beside them."""
    run = write_run(tmp_path / "runs", "block.spatial=maxpool", state="done")
    write_weights(run, LAST, BEST, RESUME, DRAFT, "mine.txt")
    (run / "metrics.csv").touch()
    return run


class TestPrune:
    @pytest.mark.parametrize(
        ("keep", "deleted"),
        [
            pytest.param("last", {BEST, RESUME, DRAFT}, id="last"),
            pytest.param("best", {LAST, RESUME, DRAFT}, id="best"),
            pytest.param("none", {LAST, BEST, RESUME, DRAFT}, id="none"),
        ],
    )
    def test_deletes_checkpoints_and_nothing_else(
        self, done: Path, keep: Keep, deleted: set[str]
    ) -> None:
        before = files_below(done)
        plan = plan_pruning([done], keep)
        assert files_below(done) == before
        assert {path.name for path in plan.num_bytes} == deleted
        assert sum(plan.num_bytes.values()) == 1000 * len(deleted)
        assert (plan.unfinished, plan.keeping_other) == ([], [])
        assert set(prune(plan)) == set(plan.num_bytes)
        assert files_below(done) == before - {f"checkpoints/{name}" for name in deleted}

    @pytest.mark.parametrize(
        ("keep", "has", "leaves"),
        [
            pytest.param("best", LAST, LAST, id="no-best"),
            pytest.param("last", BEST, BEST, id="no-last"),
            pytest.param("none", LAST, None, id="none-wanted"),
        ],
    )
    def test_run_without_the_weights_to_keep_keeps_those_it_has(
        self, tmp_path: Path, keep: Keep, has: str, leaves: str | None
    ) -> None:
        run = write_run(tmp_path, state="done")
        write_weights(run, has, RESUME)
        plan = plan_pruning([run], keep)
        prune(plan)
        left = files_below(run / "checkpoints")
        assert left == ({leaves} if leaves else set())
        assert plan.keeping_other == ([run] if leaves else [])

    def test_run_without_any_weights(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="done")
        plan = plan_pruning([run], "best")
        assert (plan.num_bytes, plan.keeping_other, plan.unfinished) == ({}, [], [])

    @pytest.mark.parametrize("state", ["pending", "running", "failed", "interrupted"])
    def test_run_that_is_not_done_is_left_alone(self, tmp_path: Path, state: ledger.State) -> None:
        run = write_run(tmp_path, state=state)
        write_weights(run, LAST, BEST, RESUME)
        plan = plan_pruning([run], "none")
        assert (plan.num_bytes, plan.unfinished) == ({}, [run])

    def test_run_whose_ledger_is_damaged_is_left_alone(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        write_weights(run, RESUME)
        (run / ledger.STATE).write_text("{")
        assert plan_pruning([run], "none").unfinished == [run]

    def test_run_that_is_begun_anew_before_it_is_pruned(self, done: Path) -> None:
        plan = plan_pruning([done], "none")
        (done / ledger.RECORD).unlink()
        before = files_below(done)
        assert prune(plan) == []
        assert files_below(done) == before

    def test_file_that_is_gone_by_then(self, done: Path) -> None:
        plan = plan_pruning([done], "last")
        (done / store.RESUME).unlink()
        assert {path.name for path in prune(plan)} == {BEST, DRAFT}

    def test_links_are_not_followed(self, done: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        (done / "checkpoints").rename(outside)
        (done / "checkpoints").symlink_to(outside)
        assert plan_pruning([done], "none").num_bytes == {}
        (done / "checkpoints").unlink()
        (done / "checkpoints").mkdir()
        (done / store.WEIGHTS).symlink_to(outside / LAST)
        assert plan_pruning([done], "none").num_bytes == {}

    def test_best_that_is_only_a_link_to_the_last(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="done")
        write_weights(run, LAST)
        (run / store.BEST_WEIGHTS).symlink_to(LAST)
        plan = plan_pruning([run], "best")
        assert (plan.num_bytes, plan.keeping_other) == ({}, [run])

    def test_what_cannot_be_deleted(self, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(self: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(DiskError, match="cannot be deleted: Permission denied"):
            prune(plan_pruning([done], "none"))

    def test_unknown_choice(self) -> None:
        assert keeping.parse_keep("best") == "best"
        with pytest.raises(PfstudyError, match=r"'bst'.*last, best, none.*Did you mean 'best'"):
            keeping.parse_keep("bst")


class TestForget:
    def test_the_whole_directory_is_moved_aside(self, done: Path) -> None:
        before = files_below(done)
        moves = plan_forgetting(done)
        root = done.parent.parent
        target = root / "forgotten" / done.parent.name / "seed0"
        assert [(move.source, move.target) for move in moves] == [(done, target)]
        assert done.exists()
        assert not target.exists()
        forget(moves)
        assert files_below(target) == before
        assert not done.parent.exists()
        assert ledger.state_of(done) == "pending"
        assert list(store.read_records(find_runs(root))) == []

    def test_all_seeds_of_a_variant_but_not_its_speed(self, tmp_path: Path) -> None:
        runs = [write_run(tmp_path, seed=seed, state="done") for seed in (0, 1)]
        other = write_run(tmp_path, "block.spatial=maxpool", state="done")
        variant = runs[0].parent
        (variant / "speed").mkdir()
        forget(plan_forgetting(variant))
        assert [path.name for path in variant.iterdir()] == ["speed"]
        kept = (tmp_path / "forgotten" / variant.name).iterdir()
        assert {path.name for path in kept} == {"seed0", "seed1"}
        assert other.exists()

    def test_again_takes_another_name(self, tmp_path: Path) -> None:
        for accuracy in range(3):
            run = write_run(tmp_path, state="done")
            (run / "number").write_text(str(accuracy))
            forget(plan_forgetting(run))
        kept = tmp_path / "forgotten" / run.parent.name
        numbers = {path.name: (path / "number").read_text() for path in kept.iterdir()}
        assert numbers == {"seed0": "0", "seed0.2": "1", "seed0.3": "2"}

    @pytest.mark.parametrize("state", ["pending", "failed", "interrupted"])
    def test_run_that_is_not_done(self, tmp_path: Path, state: ledger.State) -> None:
        run = write_run(tmp_path, state=state)
        forget(plan_forgetting(run))
        assert not run.exists()

    def test_run_that_is_being_trained(self, tmp_path: Path) -> None:
        write_run(tmp_path, seed=0, state="done")
        running = write_run(tmp_path, seed=1, state="running")
        for directory in (running, running.parent):
            with pytest.raises(PfstudyError, match=r"seed1 is being trained \(process \d+ on"):
                plan_forgetting(directory)
        let_owner_vanish(running)
        assert len(plan_forgetting(running.parent)) == 2

    def test_run_whose_training_begins_before_it_is_moved(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        moves = plan_forgetting(run)
        assert ledger.claim(run) is not None
        with pytest.raises(PfstudyError, match="is being trained by now"):
            forget(moves)
        assert run.exists()

    def test_from_inside(self, done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(done)
        expected = done.parent.parent / "forgotten" / done.parent.name / "seed0"
        assert [move.target for move in plan_forgetting(Path())] == [expected]
        (done / "checkpoints").mkdir(exist_ok=True)
        monkeypatch.chdir(done / "checkpoints")
        assert [move.target for move in plan_forgetting(Path(".."))] == [expected]

    @pytest.mark.parametrize("name", ["", "empty", "file"], ids=["runs", "empty", "no-run"])
    def test_no_directory_of_a_run(self, tmp_path: Path, name: str) -> None:
        write_run(tmp_path)
        (tmp_path / "empty").mkdir()
        (tmp_path / "file").mkdir()
        (tmp_path / "file" / "notes.txt").touch()
        before = files_below(tmp_path)
        with pytest.raises(PfstudyError, match="no directory of a run or of a variant"):
            plan_forgetting(tmp_path / name)
        assert files_below(tmp_path) == before

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match="there is no directory"):
            plan_forgetting(tmp_path / "none")

    def test_one_that_is_forgotten_already(self, done: Path) -> None:
        moves = plan_forgetting(done)
        forget(moves)
        for directory in (moves[0].target, moves[0].target.parent):
            with pytest.raises(PfstudyError, match="is forgotten already"):
                plan_forgetting(directory)

    def test_where_nothing_can_be_written(self, done: Path) -> None:
        moves = plan_forgetting(done)
        (done.parent.parent / "forgotten").touch()
        with pytest.raises(DiskError, match="cannot be moved"):
            forget(moves)
        assert done.exists()
