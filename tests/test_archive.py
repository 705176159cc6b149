"""Runs of an earlier build: read, tabulated, skipped and resumed by this one.

See tests/archive/make.sh for what the archive holds.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pfstudy import files, inventory, ledger, searches, store
from pfstudy.sources import gather
from pfstudy.speed.blocktable import read_table
from pfstudy.tables.rows import make_rows

if TYPE_CHECKING:
    from conftest import Call, Pfstudy

ARCHIVE = Path(__file__).with_name("archive") / "archive.tar.xz"
PLACE = "@ARCHIVE@"

SMALL = (
    *("model=resnet_digits", "model.args.channels=[4,8]", "model.args.stem_channels=4"),
    *("logger=none", "trainer.accelerator=cpu", "launcher.num_workers=1"),
    *("recipe.epochs=3", "recipe.warmup_epochs=1"),
)
QUIET = (*SMALL, "speed=none")
IMAGES = (
    *("data=imagefolder", "data.path=images", "data.image_size=8", "data.channels=1"),
    *("data.num_classes=10", "data.num_validation=20", "data.mean=[0.5]", "data.std=[0.5]"),
    *("data.num_workers=0", "recipe.batch_size=32", "recipe.epochs=8"),
)
OWN = ("imports=[own_ops]", "block.spatial=paced")
DONE = {
    "digits": ("-m", *QUIET, "seeds=2", "block.spatial=original,maxpool,identity"),
    "images": ("-m", *QUIET, *IMAGES, "seeds=2", "block.spatial=original,maxpool,avgpool"),
    "own": (*QUIET, *IMAGES, *OWN),
    "tuned": ("-m", *QUIET, "tune.trials=2", "tune.epochs=2", "block.spatial=original,maxpool"),
}
STOPPED = {
    "stopped_own": (*QUIET, *IMAGES, *OWN, "recipe.epochs=4"),
    "stopped": (*QUIET, *IMAGES, "block.spatial=maxpool", "recipe.epochs=150"),
}


def unpack(place: Path) -> Path:
    """Unpack the archive, and give its configs the paths that they have there."""
    with tarfile.open(ARCHIVE) as packed:
        packed.extractall(place, filter="data")
    root = place / "archive"
    for path in root.rglob("*"):
        if path.suffix in (".json", ".yaml") and PLACE in (text := path.read_text()):
            path.write_text(text.replace(PLACE, str(root)))
    return root


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(tmp_path_factory.mktemp("of_then"))


@pytest.fixture
def call(archive: Path, call_here: Call, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Call the command line in this process and in the archive, where nothing may be trained."""
    from pfstudy.launch.training import RunTrainer

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something is trained")

    monkeypatch.setattr(RunTrainer, "train", refuse)
    monkeypatch.chdir(archive)
    return call_here


def states(root: Path) -> dict[str, str]:
    return {str(path.parent): path.read_text() for path in root.rglob(ledger.RECORD)}


def test_it_is_small_and_names_no_machine() -> None:
    assert ARCHIVE.stat().st_size < 1_000_000
    with tarfile.open(ARCHIVE) as packed:
        assert all(not member.name.startswith(("/", "..")) for member in packed)


def test_all_runs_are_read_and_described(archive: Path) -> None:
    runs = inventory.find_runs(archive / "runs")
    assert Counter(ledger.state_of(run) for run in runs) == {"done": 15, "interrupted": 2}
    for run in runs:
        described = inventory.describe(run)
        assert run.parent.name.endswith(f"-{described.hash}")
    assert {path.stem for path in (archive / "runs" / store.STUDIES).glob("*.json")} == {
        *DONE,
        *STOPPED,
    }


@pytest.mark.parametrize("study", DONE)
def test_finished_runs_are_tabulated_as_they_were(archive: Path, study: str) -> None:
    gathered = gather([archive / "runs"], study)
    frame = make_rows(gathered.records, incomplete=gathered.incomplete).frame
    for row in frame.to_dict("records"):
        seeds = [r for r in gathered.records if r["identity"]["hash"] == row["hash"]]
        accuracies = [record["metrics"]["test_top1_percent"] for record in seeds]
        assert row["test_top1_percent"] == pytest.approx(sum(accuracies) / len(accuracies))
        assert row["unverified"] == {"images": "data", "own": "data,source"}.get(study, "")
    assert len(frame) == {"own": 1, "tuned": 2}.get(study, 3)


@pytest.mark.parametrize("study", DONE)
def test_the_same_command_trains_nothing(call: Call, archive: Path, study: str) -> None:
    before = states(archive / "runs")
    code, out, err = call(*DONE[study], f"study.name={study}")
    assert code == 0, err
    number = len(store.read_study(archive / "runs", study))
    assert f"{number} done before" in err
    assert states(archive / "runs") == before
    is_of_images = study in ("images", "own")
    assert ("Data not verified by content" in " ".join(out.split())) is is_of_images
    assert ("identified by an older rule" in err) is is_of_images


def test_a_search_is_not_repeated(call: Call, archive: Path) -> None:
    code, _, err = call(
        *("search", *SMALL, "search=darts", "search.operations=[conv,maxpool,identity]"),
        *("search.epochs=2", "search.warmup_epochs=1", "search.name=found"),
    )
    assert code == 0, err
    assert "done before" in err
    assert searches.list_searches(archive / "runs") == ["found"]


def test_speeds_and_block_tables_are_read(archive: Path) -> None:
    (path,) = (archive / "runs" / "speed" / "tables").glob("*.json")
    assert set(read_table(path).cells["stage1.block1"]) == {"original", "maxpool"}
    gathered = gather([archive / "runs"], "digits")
    assert all(record["speed"] for record in gathered.records)


def test_why_explains_both(call: Call) -> None:
    code, out, _ = call("why", *QUIET, *IMAGES, *OWN)
    said = " ".join(out.split())
    assert code == 0
    assert "would be skipped: done since" in said
    assert "the names and sizes of its images, not their content" in said
    assert "which followed fewer imports" in said


def test_why_compares_by_the_same_rules(call: Call) -> None:
    code, out, _ = call("why", *QUIET, *IMAGES, "block.spatial=dwconv", "recipe.epochs=8")
    assert code == 0
    assert "would be trained: new: differs from" in " ".join(out.split())
    assert "fingerprint" not in out


def test_a_variant_that_is_forgotten_is_identified_by_content(
    call_here: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = unpack(tmp_path)
    monkeypatch.chdir(root)
    why = ("why", *QUIET, *IMAGES, "block.spatial=maxpool")
    said = " ".join(call_here(*why)[1].split())
    (advised,) = re.findall(r"pfstudy forget (\S+)", said)
    assert (root / advised / "speed").is_dir()  # which stays
    assert call_here("forget", advised, "--yes")[0] == 0
    _, out, _ = call_here(*why)
    assert "would be trained: new" in out
    assert "older rule" not in out


def test_images_of_other_sizes_are_another_dataset(
    call_here: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = unpack(tmp_path)
    monkeypatch.chdir(root)
    path = root / "images" / "train" / "0" / "00.bmp"
    path.write_bytes(path.read_bytes() + b"\0")
    _, out, _ = call_here("why", *QUIET, *IMAGES, "block.spatial=maxpool")
    assert "would be trained: new: differs from" in out


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory, pfstudy: Pfstudy) -> Path:
    root = unpack(tmp_path_factory.mktemp("resumed"))
    done = pfstudy(root, "resume", "runs")
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.slow
def test_interrupted_runs_are_resumed_where_they_are(archive: Path, resumed: Path) -> None:
    runs = inventory.find_runs(resumed / "runs")
    assert Counter(ledger.state_of(run) for run in runs) == {"done": 17}
    for study, number in (("stopped_own", 4), ("stopped", 150)):
        (member,) = store.read_study(resumed / "runs", study)
        directory = resumed / "runs" / member
        record = files.read_json(directory / ledger.RECORD)
        assert directory.parent.name.endswith(record["identity"]["hash"])
        assert record["training"]["epochs"] == number
        assert record["training"]["attempts"] == 2
        before = (archive / "runs" / member / store.METRICS).read_text().splitlines()
        now = (directory / store.METRICS).read_text().splitlines()
        assert now[: len(before)] == before, "it began again"  # epochs with their seconds
        assert len(now) == 1 + number
        (read,) = gather([resumed / "runs"], study).records
        assert "data" in read["unverified"]


@pytest.mark.slow
def test_new_variants_are_compared_with_older_runs(resumed: Path, pfstudy: Pfstudy) -> None:
    done = pfstudy(
        resumed, *DONE["images"][:-1], "study.name=images", "block.spatial=original,dwconv"
    )
    assert done.returncode == 0, done.stderr
    assert "4 runs, 2 done before" in done.stderr
    gathered = gather([resumed / "runs"], "images")
    frame = make_rows(gathered.records).frame.set_index("label")
    assert len(frame) == 4
    assert set(frame["family"]) == {frame.loc["original", "hash"]}
    assert frame["difference_points"].notna().all()
    assert frame["unverified"].to_dict() == {
        **dict.fromkeys(("original", "maxpool", "avgpool"), "data"),
        "dwconv": "",
    }
