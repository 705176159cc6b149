from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pfstudy import files, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.inventory import list_candidates
from records import make_record

MakeRun = Callable[..., store.Run]


class TestMakeRun:
    def test_directory_is_readable_and_unique(self, make_run: MakeRun) -> None:
        run = make_run("block.stage2.spatial=maxpool", "seed=3")
        name = f"resnet_digits-digits-stage2=maxpool-{run.variant.hash}"
        assert run.directory == Path(run.variant.config.runs_dir) / name / "seed3"
        assert not run.directory.exists()

    def test_found_by_identity_under_another_name(self, make_run: MakeRun) -> None:
        run = make_run("block.spatial=maxpool")
        renamed = run.directory.parent.with_name(f"old-name-{run.variant.hash}")
        renamed.mkdir(parents=True)
        assert make_run("block.spatial=maxpool").directory == renamed / "seed0"


class TestCheckWritable:
    @pytest.mark.parametrize("root", [".", "new", "new/deep/er"], ids=["here", "new", "deep"])
    def test_makes_nothing(self, tmp_path: Path, root: str) -> None:
        store.check_writable(tmp_path / root)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("root", ["file", "file/runs"])
    def test_file_in_the_way(self, tmp_path: Path, root: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(PfstudyError, match=r"cannot be written to.*choose another"):
            store.check_writable(tmp_path / root)

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
    def test_directory_without_permission(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(PfstudyError, match="Permission denied"):
            store.check_writable(tmp_path / "runs")
        tmp_path.chmod(0o700)


class TestPrepare:
    def test_writes_config_and_pending_state(self, make_run: MakeRun) -> None:
        run = make_run("block.spatial=maxpool")
        store.prepare(run)
        names = {path.name for path in run.directory.iterdir()}
        assert names == {"config.json", "config.yaml", "state.json"}
        assert files.read_json(run.directory / ledger.STATE) == {"state": "pending", "attempt": 0}
        identity = files.read_json(run.directory / store.CONFIG)["identity"]
        assert (identity["hash"], identity["seed"]) == (run.variant.hash, 0)

    def test_keeps_the_state_of_an_earlier_attempt(self, make_run: MakeRun) -> None:
        run = make_run()
        store.prepare(run)
        claimed = ledger.claim(run.directory)
        assert claimed is not None
        claimed.end("failed", reason="why")
        before = files.read_json(run.directory / ledger.STATE)
        store.prepare(run)
        assert files.read_json(run.directory / ledger.STATE) == before
        assert ledger.state_of(run.directory) == "failed"


class TestCheckDirectory:
    def test_own_or_no_directory_is_fine(self, make_run: MakeRun) -> None:
        run = make_run("block.spatial=maxpool")
        store.check_directory(run)
        store.prepare(run)
        store.check_directory(run)

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param(["block.spatial=avgpool"], id="variant"),
            pytest.param(["block.spatial=maxpool", "seed=1"], id="seed"),
            pytest.param(["block.spatial=maxpool", "recipe.lr=0.1"], id="recipe"),
        ],
    )
    def test_written_by_another_config(self, make_run: MakeRun, other: list[str]) -> None:
        run = make_run("block.spatial=maxpool")
        store.prepare(replace(make_run(*other), directory=run.directory))
        with pytest.raises(PfstudyError, match="written by another config"):
            store.check_directory(run)


class TestStudy:
    def test_members_are_added_once_and_stay(self, make_run: MakeRun, tmp_path: Path) -> None:
        root = tmp_path / "runs"
        first, second = make_run("block.spatial=conv"), make_run("block.spatial=maxpool")
        store.add_to_study(root, "mine", [second])
        members = store.add_to_study(root, "mine", [first, second, first])
        expected = [str(run.directory.relative_to(root)) for run in (second, first)]
        assert members == store.read_study(root, "mine") == expected

    def test_unknown_study_lists_those_that_exist(self, make_run: MakeRun, tmp_path: Path) -> None:
        store.add_to_study(tmp_path, "pooling", [replace(make_run(), directory=tmp_path / "a")])
        with pytest.raises(PfstudyError, match=r"'poling'.*choose from: pooling.*Did you mean"):
            store.read_study(tmp_path, "poling")


class TestLooks:
    """A study of two variants, ``a`` and ``b``."""

    @pytest.fixture
    def add(self, make_run: MakeRun, tmp_path: Path) -> Callable[..., list[str]]:
        """Add runs, such as ``a0=done`` for ``a`` with seed 0, to the study; returns all."""
        run = make_run()

        def add(*looks: int, **states: str) -> list[str]:
            for name, state in states.items():
                directory = tmp_path / name[0] / f"seed{name[1:]}"
                if state == "done":
                    files.write_json(directory / ledger.RECORD, {})
                elif state != "pending":
                    written = {"state": state, "attempt": 0}
                    files.write_json(directory / ledger.STATE, written)
            runs = [replace(run, directory=tmp_path / n[0] / f"seed{n[1:]}") for n in states]
            return store.add_to_study(tmp_path, "mine", runs, looks)

        return add

    def test_declared_ones_stay(self, add: Callable[..., list[str]], tmp_path: Path) -> None:
        add(3, 5, a0="pending")
        add(a1="pending")
        assert store.read_looks(tmp_path, "mine") == store.Looks(declared=(3, 5))

    def test_others_may_be_declared_before_the_first_look(
        self, add: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        add(3, 5, a0="pending")
        add(3, 10)
        assert store.read_looks(tmp_path, "mine").declared == (3, 10)

    def test_are_those_of_finished_sweeps(
        self, add: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        members = add(1, 3, a0="done", b0="done")
        assert store.add_look(tmp_path, "mine", members) == 1
        members = add(a1="done", b1="done")
        assert store.add_look(tmp_path, "mine", members) == 2
        looks = store.read_looks(tmp_path, "mine")
        assert looks == store.Looks(declared=(1, 3), taken=(1, 2))
        assert looks.undeclared == (2,)
        assert store.read_study(tmp_path, "mine") == members

    def test_same_one_counts_once(self, add: Callable[..., list[str]], tmp_path: Path) -> None:
        members = add(a0="done", b0="done")
        path = tmp_path / store.STUDIES / "mine.json"
        store.add_look(tmp_path, "mine", members)
        before = path.read_bytes()
        assert store.add_look(tmp_path, "mine", members) == 1
        assert path.read_bytes() == before
        assert files.read_json(path)["looks"] == {"declared": [], "taken": [1]}

    @pytest.mark.parametrize("state", ["pending", "interrupted"])
    def test_none_while_a_run_may_still_end(
        self, add: Callable[..., list[str]], tmp_path: Path, state: str
    ) -> None:
        members = add(a0="done", b0=state)
        assert store.add_look(tmp_path, "mine", members) is None
        assert store.read_looks(tmp_path, "mine").taken == ()

    def test_a_failed_run_has_an_outcome(
        self, add: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        members = add(a0="done", a1="failed", b0="done")
        assert store.add_look(tmp_path, "mine", members) == 2

    def test_none_where_nothing_is_to_be_seen(
        self, add: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        assert store.add_look(tmp_path, "mine", add(a0="failed", b0="failed")) is None

    def test_seeds_are_those_that_a_variant_of_the_sweep_has_in_the_study(
        self, add: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        *_, last = add(a0="done", a1="done", a2="pending", b0="done", b1="done", b2="done")
        assert store.add_look(tmp_path, "mine", ["a/seed1"]) == 2
        assert store.add_look(tmp_path, "mine", [last]) == 3

    def test_none_in_an_older_file_or_where_there_is_none(self, tmp_path: Path) -> None:
        path = tmp_path / store.STUDIES / "mine.json"
        assert store.read_looks(tmp_path, "mine") == store.Looks()
        files.write_json(path, {"schema_version": 1, "name": "mine", "members": ["a/seed0"]})
        assert store.read_looks(tmp_path, "mine") == store.Looks()
        files.write_json(tmp_path / "a" / "seed0" / ledger.RECORD, {})
        assert store.add_look(tmp_path, "mine", ["a/seed0"]) == 1
        assert store.read_looks(tmp_path, "mine") == store.Looks(taken=(1,))

    @pytest.mark.parametrize("looks", [[3], {"taken": 3}, {"declared": ["few"]}])
    def test_damaged_ones_are_named(self, tmp_path: Path, looks: object) -> None:
        path = tmp_path / store.STUDIES / "mine.json"
        files.write_json(path, {"members": [], "looks": looks})
        with pytest.raises(PfstudyError, match=r"mine\.json is damaged: its looks are no lists"):
            store.read_looks(tmp_path, "mine")

    def test_what_else_the_file_says_is_kept(
        self, add: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        path = tmp_path / store.STUDIES / "mine.json"
        members = add(2, a0="done")
        files.write_json(path, {**files.read_json(path), "later": "key"})
        add(a1="done")
        store.add_look(tmp_path, "mine", members)
        assert files.read_json(path)["later"] == "key"


class TestCheckLooks:
    @pytest.fixture
    def look_at(self, tmp_path: Path) -> Callable[[list[int]], None]:
        """Write a study that was looked at with 2 and 3 seeds, with some looks declared."""

        def write(declared: list[int]) -> None:
            looks = {"declared": declared, "taken": [2, 3]}
            path = tmp_path / store.STUDIES / "mine.json"
            files.write_json(path, {"members": [], "looks": looks})

        return write

    @pytest.mark.parametrize(
        ("declared", "sentence"),
        [
            pytest.param(
                [2, 5],
                "study.looks=[3,5] comes too late: study mine has study.looks=[2,5] and was "
                "looked at with 2, 3 seeds; leave study.looks out, give study.looks=[2,5], or "
                "choose another study.name.",
                id="others",
            ),
            pytest.param(
                [],
                "study.looks=[3,5] comes too late: study mine has study.looks=[] and was "
                "looked at with 2, 3 seeds; leave study.looks out, or choose another study.name.",
                id="none",
            ),
        ],
    )
    def test_others_come_too_late(
        self,
        look_at: Callable[[list[int]], None],
        tmp_path: Path,
        declared: list[int],
        sentence: str,
    ) -> None:
        look_at(declared)
        for refuse in (store.check_looks, self.add):
            with pytest.raises(PfstudyError) as caught:
                refuse(tmp_path, "mine", (3, 5))
            assert str(caught.value) == sentence
        assert store.read_looks(tmp_path, "mine") == store.Looks(tuple(declared), (2, 3))

    @pytest.mark.parametrize("looks", [(), (2, 5)], ids=["none", "the same"])
    def test_none_or_the_same_are_fine(
        self, look_at: Callable[[list[int]], None], tmp_path: Path, looks: tuple[int, ...]
    ) -> None:
        look_at([2, 5])
        store.check_looks(tmp_path, "mine", looks)
        self.add(tmp_path, "mine", looks)
        assert store.read_looks(tmp_path, "mine") == store.Looks((2, 5), (2, 3))

    def add(self, root: Path, name: str, looks: tuple[int, ...]) -> None:
        store.add_to_study(root, name, [], looks)


class TestReadRecords:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        for name in ("a/seed0", "a/seed1", "b/seed0"):
            record = {**make_record(), "name": name}
            files.write_json(tmp_path / name / ledger.RECORD, record)
        (tmp_path / "b" / "seed1").mkdir()
        files.write_json(tmp_path / "a" / "speed" / "x.json", {"relative_latency": 1})
        return tmp_path

    def test_all_with_the_speed_beside_them(self, root: Path) -> None:
        found = {
            record["name"]: record["speed"] for record in store.read_records(list_candidates(root))
        }
        speed = [{"relative_latency": 1}]
        assert found == {"a/seed0": speed, "a/seed1": speed, "b/seed0": []}

    def test_none_that_was_moved_aside(self, root: Path) -> None:
        target = root / "forgotten" / "a" / "seed0"
        target.parent.mkdir(parents=True)
        (root / "a" / "seed0").rename(target)
        found = [record["name"] for record in store.read_records(list_candidates(root))]
        assert found == ["a/seed1", "b/seed0"]

    def test_members_in_their_order_without_those_not_done(self, root: Path) -> None:
        members = ["b/seed0", "b/seed1", "a/seed1"]
        found = [record["name"] for record in store.read_records(root / m for m in members)]
        assert found == ["b/seed0", "a/seed1"]

    def test_unknown_schema(self, root: Path) -> None:
        files.write_json(root / "b" / "seed0" / ledger.RECORD, {"schema_version": 99})
        with pytest.raises(PfstudyError, match="schema version 99"):
            list(store.read_records([root / "b" / "seed0"]))

    @pytest.mark.parametrize(
        "place",
        ["identity.hash", "variant.label", "seed", "metrics.test_top1_percent", "cost.macs"],
    )
    @pytest.mark.parametrize("value", [None, float("nan"), "missing"], ids=str)
    def test_a_record_that_lacks_something_is_refused(
        self, root: Path, place: str, value: Any
    ) -> None:
        record = make_record()
        *parents, last = place.split(".")
        tree = record
        for parent in parents:
            tree = tree[parent]
        if value == "missing":
            del tree[last]
        else:
            tree[last] = value
        path = root / "b" / "seed0" / ledger.RECORD
        files.write_json(path, record)
        with pytest.raises(PfstudyError, match=rf"record.json is damaged: it has no {place}"):
            list(store.read_records([path.parent]))


class TestFiles:
    @pytest.mark.parametrize(
        "content", ["", "{", "[1]", '"text"'], ids=["empty", "cut", "list", "text"]
    )
    def test_damaged_json(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "x.json").write_text(content)
        with pytest.raises(PfstudyError, match=r"x\.json is damaged"):
            files.read_json(tmp_path / "x.json")

    def test_missing_json(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match="cannot be read: No such file"):
            files.read_json(tmp_path / "x.json")

    @pytest.mark.parametrize("durable", [False, True], ids=["fast", "durable"])
    def test_write_replaces_the_whole_file(self, tmp_path: Path, durable: bool) -> None:
        path = tmp_path / "new" / "x.json"
        contents: list[dict[str, Any]] = [{"a": "long" * 1000}, {"b": 1}]
        for content in contents:
            files.write_json(path, content, durable=durable)
            assert json.loads(path.read_text()) == content
        assert [p.name for p in path.parent.iterdir()] == ["x.json"]

    def test_failed_write_keeps_the_old_file_and_leaves_no_draft(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "x.txt"
        files.write_text(path, "old")

        def full(self: Path, target: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(PfstudyError, match=r"x\.txt cannot be written: No space left"):
            files.write_text(path, "new")
        assert path.read_text() == "old"
        assert [p.name for p in tmp_path.iterdir()] == ["x.txt"]

    def test_unwritable_place(self) -> None:
        with pytest.raises(PfstudyError, match="cannot be written"):
            files.write_text(Path("/dev/null/x"), "text")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param("AMD EPYC 7B13 (64 cores)", "amd-epyc-7b13-64-cores", id="device"),
            pytest.param("stage2=maxpool", "stage2=maxpool", id="label"),
            pytest.param("../a/b", "a-b", id="path"),
            pytest.param("ü", "", id="nothing-left"),
        ],
    )
    def test_file_name(self, text: str, expected: str) -> None:
        assert files.file_name(text) == expected
