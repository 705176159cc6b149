from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from measurements import measurement
from pfstudy import files, ledger, sources, store
from pfstudy.errors import PfstudyError
from pfstudy.sources import gather
from pfstudy.tracking import reading
from pfstudy.tracking.reading import Logged
from records import leave_records, make_record
from run_directories import write_run

MAXPOOL = "block.spatial=maxpool"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two runs that are done, and one of every other state."""
    root = tmp_path / "runs"
    write_run(root, state="done")
    write_run(root, MAXPOOL, state="done")
    write_run(root, MAXPOOL, seed=1, state="failed", reason="out of memory")
    write_run(root, MAXPOOL, seed=2, state="interrupted")
    write_run(root, MAXPOOL, seed=3)
    return root


def test_runs_that_are_not_done_are_counted_and_named(root: Path) -> None:
    found = gather([root])
    assert len(found.records) == 2
    assert {(run.name, run.state, run.reason) for run in found.incomplete} == {
        ("resnet_digits-digits-maxpool-seed1", "failed", "out of memory"),
        ("resnet_digits-digits-maxpool-seed2", "interrupted", None),
        ("resnet_digits-digits-maxpool-seed3", "pending", None),
    }


def test_a_record_says_where_it_lies(root: Path) -> None:
    for record in gather([root]).records:
        assert Path(record["directory"], ledger.RECORD).exists()


def test_members_of_a_study_alone_are_taken(root: Path) -> None:
    members = [f"{path.parent.name}/{path.name}" for path in root.glob("*maxpool*/seed[01]")]
    content = {"schema_version": 1, "name": "mine", "members": members}
    files.write_json(root / store.STUDIES / "mine.json", content)
    found = gather([root], "mine")
    assert [record["seed"] for record in found.records] == [0]
    assert [run.state for run in found.incomplete] == ["failed"]


def test_a_run_that_several_sources_have_counts_once(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_run(other, MAXPOOL, state="done")
    write_run(other, MAXPOOL, seed=1, state="done")
    found = gather([root, other])
    assert found.num_repeated == 1
    assert sorted(record["seed"] for record in found.records) == [0, 0, 1]
    assert {run.state for run in found.incomplete} == {"interrupted", "pending"}  # seed 1 is done
    assert Path(found.records[1]["directory"]).is_relative_to(root)


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PfstudyError, match=r"there is no directory .*gone; give the one"):
        gather([tmp_path / "gone"])


def test_an_empty_directory_has_nothing(tmp_path: Path) -> None:
    assert gather([tmp_path]) == sources.Gathered(())


def assert_left_out(found: sources.Gathered, sentence: str) -> None:
    """One run is named and left out, the other is there."""
    assert len(found.records) == 1
    (name,) = (run.name for run in found.incomplete if run.state == "damaged")
    assert name.endswith("-seed0")
    (refused,) = found.refused
    assert sentence in refused


def test_a_truncated_record_is_named(root: Path) -> None:
    path = next(root.glob(f"*/seed0/{ledger.RECORD}"))
    path.write_text(path.read_text()[:-20])
    assert_left_out(gather([root]), "record.json is damaged")


def test_a_record_of_another_schema_is_named(root: Path) -> None:
    path = next(root.glob(f"*/seed0/{ledger.RECORD}"))
    files.write_json(path, files.read_json(path) | {"schema_version": 99})
    assert_left_out(gather([root]), "has schema version 99, but this pfstudy reads 1")


def test_a_damaged_measurement_is_named(root: Path) -> None:
    path = next(root.glob(f"*/seed0/{ledger.RECORD}")).parent.parent / "speed" / "x.json"
    files.write_json(path, {"relative_latency": 1.0, "latency_ms": -5})
    told: list[str] = []
    found = gather([root], say=told.append)
    assert [record["speed"] for record in found.records] == [[], []]
    assert "damaged" not in [run.state for run in found.incomplete]
    assert told == [f"left out: {path} is damaged: latency_ms is -5, but must be a number above 0."]


class TestProjects:
    @pytest.fixture
    def record(self, root: Path) -> Mapping[str, Any]:
        record = dict(gather([root]).records[0])
        del record["directory"]
        return record

    def serve(
        self, monkeypatch: pytest.MonkeyPatch, runs: Sequence[Logged]
    ) -> list[tuple[str, str | None]]:
        asked: list[tuple[str, str | None]] = []

        def read_project(project: str, study: str | None, say: Any) -> Sequence[Logged]:
            asked.append((project, study))
            return runs

        monkeypatch.setattr(reading, "read_project", read_project)
        return asked

    def test_runs_are_told_from_others(
        self, monkeypatch: pytest.MonkeyPatch, record: Mapping[str, Any]
    ) -> None:
        key = (record["identity"]["hash"], 0)
        logged = [
            Logged("done", "finished", record, key),
            Logged("crashed", "crashed", None, (key[0], 1)),
            Logged("old", "finished", None, (key[0], 2)),
            Logged("a person's", "finished", None, None),
            Logged("first attempt at done", "crashed", None, key),
        ]
        asked = self.serve(monkeypatch, logged)
        found = gather(["wandb:me/project"], "mine")
        assert asked == [("me/project", "mine")]
        assert [r["seed"] for r in found.records] == [0]
        assert [(run.name, run.state) for run in found.incomplete] == [
            ("crashed", "crashed"),
            ("old", "without a record"),
        ]
        assert found.num_foreign == 1

    def test_another_schema_is_named(
        self, monkeypatch: pytest.MonkeyPatch, record: Mapping[str, Any]
    ) -> None:
        old = {**record, "schema_version": 0}
        self.serve(monkeypatch, [Logged("old", "finished", old, ("0123456789", 0))])
        found = gather(["wandb:me/p"])
        assert (found.records, [run.state for run in found.incomplete]) == ((), ["damaged"])
        assert found.refused[0].startswith("the run old of me/p has schema version 0, but")

    def test_they_merge_with_what_is_here(
        self, monkeypatch: pytest.MonkeyPatch, root: Path, record: Mapping[str, Any]
    ) -> None:
        key = (record["identity"]["hash"], 0)
        self.serve(monkeypatch, [Logged("same", "finished", record, key)])
        found = gather([root, "wandb:me/p"])
        assert (len(found.records), found.num_repeated) == (2, 1)
        assert all("directory" in r for r in found.records)


def test_a_damaged_measurement_of_a_project_is_named(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, damaged = measurement(), measurement(latency_ms=-5)
    record = {**gather([root]).records[0], "speed": [whole, damaged]}
    run = Logged("run0", "finished", record, (record["identity"]["hash"], 0))
    monkeypatch.setattr(reading, "read_project", lambda *_: [run])
    found = gather(["wandb:me/mine"])
    assert [each["speed"] for each in found.records] == [[whole]]
    (sentence,) = found.refused
    assert "the run run0 of me/mine is damaged: latency_ms is -5" in sentence


def test_the_config_of_a_run_says_whose_it_is() -> None:
    text = json.dumps({"schema_version": 1})
    config = {reading.IDENTITY_KEY: {"hash": "0123456789", "seed": 3}}
    made = reading._make("x", "finished", {reading.RECORD_KEY: text}, config)
    assert (made.key, made.record) == (("0123456789", 3), {"schema_version": 1})
    assert reading._make("x", "finished", {}, {"identity": "mine"}).key is None
    damaged = reading._make("x", "finished", {reading.RECORD_KEY: text[:-3]}, config)
    assert (damaged.record, damaged.state) == (None, "damaged")


def test_a_run_in_two_sources_keeps_its_directory_and_all_speeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here,) = leave_records(tmp_path / "runs", make_record(speed=(2.0, 1.0)))
    logged = make_record(speed=(1.0, 1.0), batch_size=8)
    found = [Logged("maxpool", "finished", logged, ("base", 0))]
    monkeypatch.setattr(reading, "read_project", lambda *_: found)
    for order in (["wandb:a/b", tmp_path / "runs"], [tmp_path / "runs", "wandb:a/b"]):
        (record,) = gather(order).records
        assert record["directory"] == str(tmp_path / "runs" / here)
        assert {measured["batch_size"] for measured in record["speed"]} == {1, 8}


def test_different_results_of_one_run_are_refused(tmp_path: Path) -> None:
    leave_records(tmp_path / "one", make_record(accuracy=97.8))
    leave_records(tmp_path / "two", make_record(accuracy=50.0))
    with pytest.raises(PfstudyError, match=r"original seed0 \(base\): 97\.80 and 50\.00 %"):
        gather([tmp_path / "one", tmp_path / "two"])


def test_a_run_with_the_settings_of_a_trial_is_the_one_that_was_tested(tmp_path: Path) -> None:
    trial = make_record(seed=3)
    trial["metrics"] |= {"val_top1_percent": 90.0}
    leave_records(tmp_path / "tuning", trial)
    leave_records(tmp_path / "runs", trial)
    for order in (["tuning", "runs"], ["runs", "tuning"]):
        (record,) = gather([tmp_path / name for name in order]).records
        assert record["metrics"]["test_top1_percent"] == 97.0


def test_trials_have_no_figures_of_the_test_images(tmp_path: Path) -> None:
    """Those of older versions have them in their records."""
    trial = make_record()
    trial["metrics"] |= {"val_top1_percent": 90.0, "test_loss": 0.1}
    leave_records(tmp_path / "tuning", trial)
    (record,) = gather([tmp_path / "tuning"]).records
    assert record["metrics"] == {"val_top1_percent": 90.0}
