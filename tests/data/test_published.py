from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import pytest
import torchvision.datasets

from configs import compose
from pfstudy.data import find_source, fingerprint
from pfstudy.data.published import load
from pfstudy.data.tensors import load_splits
from pfstudy.data.versions import VERSIONS
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from published_files import WRITERS, draw_images, files_of, publish, write_cifar10_binary

KINDS = {
    "cifar10": torchvision.datasets.CIFAR10,
    "cifar100": torchvision.datasets.CIFAR100,
    "svhn": torchvision.datasets.SVHN,
    "stl10": torchvision.datasets.STL10,
}
every_writer = pytest.mark.parametrize("written", WRITERS)
every_dataset = pytest.mark.parametrize("name", KINDS)


def write(written: str, folder: Path, **fields: Any) -> Data:
    """Write a dataset in one of its versions, and describe it as unverified."""
    WRITERS[written](folder)
    return describe(written, path=str(folder), **fields)


def describe(written: str, **fields: Any) -> Data:
    name = written.partition(" ")[0]
    size, classes = 96 if name == "stl10" else 32, 100 if name == "cifar100" else 10
    described = {"verify": False, "num_validation": 10, **fields}
    if name == "cifar100":
        described["num_validation"] = 100
    return Data(name, size, 3, classes, 0, **described)


def read_by_torchvision(data: Data, part: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    kind, is_train = KINDS[data.name], part == "train"
    if data.name == "svhn":
        url, name, _ = torchvision.datasets.SVHN.split_list[part]
        monkeypatch.setattr(kind, "split_list", {part: [url, name, None]})
        return kind(data.path, split=part)
    for files in ("train_list", "test_list"):
        names = [name for name, _ in getattr(kind, files) if not name.startswith("unlabeled")]
        monkeypatch.setattr(kind, files, [[name, None] for name in names])
    if data.name == "stl10":
        return kind(data.path, split=part)
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": None})
    return kind(data.path, train=is_train)


class TestReading:
    @every_dataset
    @pytest.mark.parametrize("part", ["train", "test"])
    def test_agrees_with_torchvision(
        self, name: str, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = write(name, tmp_path / "data")
        arrays, theirs = load(data), read_by_torchvision(data, part, monkeypatch)
        ours = arrays.split == part
        images = theirs.data.transpose(0, 3, 1, 2) if name.startswith("cifar") else theirs.data
        labels = theirs.targets if name.startswith("cifar") else theirs.labels
        np.testing.assert_array_equal(arrays.images_NCHW[ours], images)
        assert arrays.labels_N[ours].tolist() == list(labels)
        assert len(set(arrays.labels_N[ours])) == data.num_classes

    @every_writer
    def test_gives_what_was_drawn(self, written: str, tmp_path: Path) -> None:
        data = write(written, tmp_path / "data")
        arrays = load(data)
        counts = {part: int((arrays.split == part).sum()) for part in ("train", "test")}
        drawn = [
            draw_images(counts[part], data.num_classes, data.image_size, seed)
            for part, seed in (("train", 0), ("test", 1))
        ]
        assert sum(counts.values()) == len(arrays.labels_N)
        assert (arrays.images_NCHW.dtype, arrays.labels_N.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(arrays.images_NCHW, np.concatenate([x for x, _ in drawn]))
        np.testing.assert_array_equal(arrays.labels_N, np.concatenate([y for _, y in drawn]))

    @every_writer
    def test_holds_validation_images_out_of_the_training_images(
        self, written: str, tmp_path: Path
    ) -> None:
        data = write(written, tmp_path / "data", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
        arrays, splits = load(data), load_splits(data)
        sizes = {name: len(split) for name, split in splits.items()}
        held_out, given = data.num_validation or 0, int((arrays.split == "train").sum())
        assert sizes["train"] == given - held_out
        assert sizes["validation"] == held_out
        assert splits["test"].labels_N.tolist() == arrays.labels_N[arrays.split == "test"].tolist()

    @every_writer
    def test_finds_the_inner_folder_too(self, written: str, tmp_path: Path) -> None:
        data = write(written, tmp_path / "data")
        inner = replace(data, path=str(files_of(data)[0].parent))
        np.testing.assert_array_equal(load(inner).images_NCHW, load(data).images_NCHW)
        assert fingerprint(inner) == fingerprint(data)

    @every_dataset
    def test_finds_the_cache(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        data = write(name, platformdirs.user_cache_path("pfstudy") / name)
        assert Path(str(data.path)).is_relative_to(tmp_path)
        assert fingerprint(replace(data, path=None)) == fingerprint(data)

    def test_takes_the_version_that_is_whole(self, tmp_path: Path) -> None:
        data = write("cifar10", tmp_path / "data")
        before = fingerprint(data)
        write_cifar10_binary(tmp_path / "data")
        files_of(data)[0].unlink()
        assert fingerprint(data) == before


class TestPresets:
    @every_dataset
    def test_describe_the_published_data(self, name: str) -> None:
        data = compose(f"data={name}").data
        assert (data.name, data.path, data.download, data.verify) == (name, None, True, True)
        assert len(data.mean or ()) == len(data.std or ()) == data.channels
        assert find_source(name).fingerprint.__module__ == "pfstudy.data.published"

    def test_name_the_digests_that_torchvision_has(self) -> None:
        for name in ("cifar10", "cifar100", "stl10"):
            version, kind = VERSIONS[name][0], KINDS[name]
            known = dict([*kind.train_list, *kind.test_list])
            known.pop("unlabeled_X.bin", None)
            assert version.digests == known
            assert set(version.test) == {file for file, _ in kind.test_list}
            assert version.folder == kind.base_folder
        (svhn,) = VERSIONS["svhn"]
        parts = torchvision.datasets.SVHN.split_list
        assert svhn.train == {parts["train"][1]: parts["train"][2]}
        assert svhn.test == {parts["test"][1]: parts["test"][2]}


class TestFingerprint:
    @every_writer
    def test_is_the_same_wherever_the_files_lie(self, written: str, tmp_path: Path) -> None:
        data, moved = write(written, tmp_path / "one"), write(written, tmp_path / "other")
        assert fingerprint(data) == fingerprint(moved)

    @every_writer
    def test_changes_with_any_byte_of_images_or_labels(self, written: str, tmp_path: Path) -> None:
        data = write(written, tmp_path / "data")
        seen = {fingerprint(data)}
        for path in files_of(data):
            content = bytearray(path.read_bytes())
            place = len(content) // 2  # of a pickle, somewhere in its images
            content[place] ^= 1
            path.write_bytes(content)
            seen.add(fingerprint(data))
        assert len(seen) == 1 + len(files_of(data))

    @pytest.mark.parametrize("name", ["cifar10", "cifar100"])
    def test_does_not_depend_on_the_version_of_cifar(self, name: str, tmp_path: Path) -> None:
        data, binary = write(name, tmp_path / "py"), write(f"{name} binary", tmp_path / "bin")
        assert fingerprint(data) == fingerprint(binary)

    def test_does_not_depend_on_being_verified(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = write("cifar10", tmp_path / "data")
        assert fingerprint(publish(data, monkeypatch)) == fingerprint(data)

    def test_tells_training_from_test_images(self, tmp_path: Path) -> None:
        data = write("cifar100", tmp_path / "data")
        before, (one, other) = fingerprint(data), files_of(data)
        one.rename(tmp_path / "aside")
        other.rename(one)
        (tmp_path / "aside").rename(other)
        assert fingerprint(data) != before

    def test_reads_a_file_once_until_it_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = write("stl10", tmp_path / "data")
        read: list[Path] = []
        whole = np.fromfile
        monkeypatch.setattr(
            np, "fromfile", lambda path, kind: read.append(path) or whole(path, kind)
        )
        fingerprint(data)
        fingerprint(data)
        assert sorted(read) == files_of(data)
        files_of(data)[0].touch()
        fingerprint(data)
        assert len(read) == len(files_of(data)) + 1

    @every_writer
    def test_needs_neither_torch_nor_scipy(self, written: str, tmp_path: Path) -> None:
        data = write(written, tmp_path / "data")
        program = (
            "import sys; from pfstudy.data import fingerprint; "
            "from pfstudy.schema.config import Data; "
            f"print(fingerprint(Data({data.name!r}, 32, 3, 10, 0, path={data.path!r}, "
            "verify=False))); print(*{name.partition('.')[0] for name in sys.modules})"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        )
        digest, modules = done.stdout.splitlines()
        assert digest == fingerprint(data)
        assert not {"torch", "scipy", "sklearn", "torchvision"} & set(modules.split())


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def halve(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


class TestTrouble:
    @every_writer
    def test_published_files_are_taken(
        self, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = publish(write(written, tmp_path / "data"), monkeypatch)
        assert len(load(data).labels_N)

    @every_writer
    @pytest.mark.parametrize("damage", [empty, halve])
    @pytest.mark.parametrize("call", [fingerprint, load])
    def test_a_file_that_differs_is_refused(
        self,
        written: str,
        damage: Callable[[Path], None],
        call: Callable[[Data], object],
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        data = publish(write(written, tmp_path / "data"), monkeypatch)
        damage(files_of(data)[-1])
        with pytest.raises(PfstudyError) as raised:
            call(data)
        said = str(raised.value)
        assert said.startswith(f"{files_of(data)[-1]} is not as it was published")
        assert "copy it again, or set data.verify=false" in said

    @every_writer
    def test_a_file_of_the_cache_that_differs_is_to_be_removed(
        self, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        name = written.partition(" ")[0]
        data = write(written, platformdirs.user_cache_path("pfstudy") / name)
        cached = replace(data, path=None, verify=True, download=True)
        with pytest.raises(PfstudyError, match="remove it, and it is downloaded again"):
            fingerprint(cached)

    @every_writer
    def test_a_missing_file_is_named(self, written: str, tmp_path: Path) -> None:
        data = write(written, tmp_path / "data", download=True)
        gone = files_of(data)[-1]
        gone.unlink()
        with pytest.raises(PfstudyError, match="is missing: copy it there") as raised:
            fingerprint(data)
        assert str(raised.value).startswith(f"{gone} of {data.name} is")

    @every_dataset
    def test_a_folder_of_other_things_is_left_alone(self, name: str, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("not images")
        with pytest.raises(PfstudyError, match=f"does not hold {name}: give the folder with "):
            fingerprint(describe(name, path=str(tmp_path), download=True))
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_a_folder_that_is_not_there_is_not_made(self, tmp_path: Path) -> None:
        folder = tmp_path / "mistyped"
        with pytest.raises(
            PfstudyError, match="is no folder: give the folder with cifar-10-batches"
        ):
            fingerprint(describe("cifar10", path=str(folder), download=True))
        assert not folder.exists()

    def test_nothing_is_downloaded_unless_asked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        with pytest.raises(PfstudyError, match=r"set data\.download=true, or give data\.path"):
            fingerprint(describe("cifar10", download=False))
        assert not list(tmp_path.iterdir())

    def test_a_class_that_the_config_does_not_have_is_refused(self, tmp_path: Path) -> None:
        data = replace(write("cifar10", tmp_path / "data"), num_classes=5)
        with pytest.raises(PfstudyError, match="num_classes is 5, but the labels run from 0 to 9"):
            load_splits(data)

    def test_one_folder_may_hold_several_datasets(self, tmp_path: Path) -> None:
        for name in KINDS:
            WRITERS[name](tmp_path / name)
            shutil.copytree(tmp_path / name, tmp_path / "all", dirs_exist_ok=True)
        together = {n: fingerprint(describe(n, path=str(tmp_path / "all"))) for n in KINDS}
        assert together == {n: fingerprint(describe(n, path=str(tmp_path / n))) for n in KINDS}
