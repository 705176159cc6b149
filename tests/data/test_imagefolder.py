from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from pfstudy.data import fingerprint
from pfstudy.data.imagefolder import Images, list_splits, list_test, name_lacking
from pfstudy.data.packing import pack
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

DescribeFolder = Callable[..., Data]
TRAIN_VAL = {"train/ape": 8, "train/bee": 12, "train/cat": 4,
             "val/ape": 3, "val/bee": 2, "val/cat": 4}  # fmt: skip
WITH_TEST = {**TRAIN_VAL, "test/ape": 2, "test/bee": 2, "test/cat": 3}
HEAP = {"ape": 20, "bee": 10, "cat": 30}


def files_of(images: Images) -> list[str]:
    root = images.folder.parent if images.folder.name in ("train", "val", "test") else images.folder
    return [str(images.path(index).relative_to(root)) for index in range(len(images))]


def files_below(data: Data, pattern: str) -> list[str]:
    root = Path(str(data.path))
    return sorted(str(path.relative_to(root)) for path in root.glob(pattern))


def classes_of(files: list[str]) -> Counter[str]:
    return Counter(Path(file).parent.name for file in files)


class TestLayouts:
    def test_with_test_folder_each_folder_is_a_split(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(WITH_TEST)
        splits = {name: files_of(images) for name, images in list_splits(data).items()}
        for name, folder in (("train", "train"), ("validation", "val"), ("test", "test")):
            assert splits[name] == files_below(data, f"{folder}/*/*")

    def test_without_test_folder_val_is_the_test(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(TRAIN_VAL, num_validation=6)
        splits = {name: files_of(images) for name, images in list_splits(data).items()}
        assert sorted([*splits["train"], *splits["validation"]]) == files_below(data, "train/*/*")
        assert splits["test"] == files_below(data, "val/*/*")
        assert classes_of(splits["validation"]) == {"ape": 2, "bee": 3, "cat": 1}

    def test_heap_is_split_by_class(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(HEAP, num_validation=12, num_test=18)
        splits = {name: files_of(images) for name, images in list_splits(data).items()}
        assert sorted(chain(*splits.values())) == files_below(data, "*/*")
        assert classes_of(splits["train"]) == {"ape": 10, "bee": 5, "cat": 15}
        assert classes_of(splits["validation"]) == {"ape": 4, "bee": 2, "cat": 6}
        assert classes_of(splits["test"]) == {"ape": 6, "bee": 3, "cat": 9}

    @pytest.mark.parametrize(
        ("counts", "numbers"),
        [
            pytest.param(TRAIN_VAL, {"num_validation": 6}, id="held out of train"),
            pytest.param(HEAP, {"num_validation": 12, "num_test": 18}, id="heap"),
        ],
    )
    def test_split_depends_on_its_seed_alone(
        self, describe_folder: DescribeFolder, counts: dict[str, int], numbers: dict[str, int]
    ) -> None:
        data = describe_folder(counts, **numbers)
        drawn = [
            files_of(list_splits(replace(data, split_seed=seed))["validation"])
            for seed in (0, 0, 1)
        ]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_labels_count_the_classes_by_name(self, describe_folder: DescribeFolder) -> None:
        images = list_splits(describe_folder(WITH_TEST))["test"]
        assert images.classes == ("ape", "bee", "cat")
        assert images.labels_N.tolist() == [0, 0, 1, 1, 2, 2, 2]

    def test_class_of_a_heap_may_be_called_train(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder({"plane": 9, "train": 9}, num_validation=4, num_test=4)
        assert list_splits(data)["train"].classes == ("plane", "train")

    def test_test_folder_without_labels_is_not_used(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(TRAIN_VAL, num_validation=6)
        before = fingerprint(data)
        unlabelled = Path(str(data.path), "test")
        unlabelled.mkdir()
        (unlabelled / "ILSVRC2012_test_00000001.JPEG").write_bytes(b"image")
        assert files_of(list_splits(data)["test"])[0] == "val/ape/000.png"
        assert fingerprint(data) == before

    def test_hidden_files_and_stray_files_are_no_images(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(WITH_TEST)
        before = [files_of(images) for images in list_splits(data).values()], fingerprint(data)
        root = Path(str(data.path))
        (root / "README.txt").write_text("about")
        (root / "train" / "synsets.txt").write_text("about")
        (root / "train" / "ape" / ".DS_Store").write_text("about")
        (root / "train" / ".cache").mkdir()
        after = [files_of(images) for images in list_splits(data).values()], fingerprint(data)
        assert after == before

    def test_names_need_not_be_text(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(WITH_TEST)
        folder = Path(str(data.path), "test", "ape")
        (folder / "000.png").rename(folder / os.fsdecode(b"\xff\xc3\xa9 \n.png"))
        images = list_test(data)
        assert all(images.path(index).exists() for index in range(len(images)))
        assert len(fingerprint(data)) == 64


class TestListTest:
    @pytest.mark.parametrize(
        ("counts", "expected"),
        [
            pytest.param({"val/ape": 2, "val/bee": 1}, "val/ape/000.png", id="val alone"),
            pytest.param({"test/ape": 2, "test/bee": 1}, "test/ape/000.png", id="test alone"),
            pytest.param(WITH_TEST, "test/ape/000.png", id="all parts"),
            pytest.param(TRAIN_VAL, "val/ape/000.png", id="train and val"),
        ],
    )
    def test_needs_the_test_part_alone(
        self, describe_folder: DescribeFolder, counts: dict[str, int], expected: str
    ) -> None:
        images = list_test(describe_folder(counts, num_validation=6))
        assert files_of(images)[0] == expected

    def test_of_a_heap_is_that_of_its_split(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(HEAP, num_validation=12, num_test=18)
        assert files_of(list_test(data)) == files_of(list_splits(data)["test"])

    def test_train_alone_has_none(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder({"train/ape": 2, "train/bee": 1})
        with pytest.raises(PfstudyError, match=r"has neither 'test' nor 'val' with class folders"):
            list_test(data)


def add(root: Path) -> None:
    (root / "train" / "ape" / "new.png").write_bytes(b"image")


def remove(root: Path) -> None:
    (root / "val" / "bee" / "000.png").unlink()


def resize(root: Path) -> None:
    with (root / "test" / "cat" / "000.png").open("ab") as file:
        file.write(b"!")


def rename(root: Path) -> None:
    (root / "train" / "ape" / "000.png").rename(root / "train" / "ape" / "000.jpg")


def move_to_another_class(root: Path) -> None:
    (root / "train" / "ape" / "007.png").rename(root / "train" / "bee" / "012.png")


def move_to_another_part(root: Path) -> None:
    (root / "train" / "ape" / "007.png").rename(root / "val" / "ape" / "003.png")


class TestClassWithoutTestImages:
    """It keeps its number, in the folder and packed."""

    @pytest.fixture(params=["no folder", "empty folder"])
    def data(self, request: pytest.FixtureRequest, describe_folder: DescribeFolder) -> Data:
        empty = {"val/bee": 0} if request.param == "empty folder" else {}
        counts = {name: number for name, number in TRAIN_VAL.items() if name != "val/bee"}
        return describe_folder(counts | empty, num_validation=6)

    def test_labels_stay(self, data: Data) -> None:
        for images in (list_splits(data)["test"], list_test(data)):
            assert images.classes == ("ape", "bee", "cat")
            assert images.labels_N.tolist() == [0] * 3 + [2] * 4
            assert files_of(images) == files_below(data, "val/*/*")
            assert name_lacking(images) == "'bee'"
        assert name_lacking(list_splits(data)["train"]) is None

    def test_packed_is_the_same(self, data: Data, tmp_path: Path) -> None:
        pack(Path(str(data.path)), tmp_path / "packed")
        copy = replace(data, path=str(tmp_path / "packed"))
        assert fingerprint(copy) == fingerprint(data)
        images = list_splits(copy)["test"]
        assert images.classes == ("ape", "bee", "cat")
        assert images.labels_N.tolist() == [0] * 3 + [2] * 4
        assert [images.path(index).parent.name for index in (0, 6)] == ["ape", "cat"]


class TestFingerprint:
    @pytest.mark.parametrize(
        "change",
        [add, remove, resize, rename, move_to_another_class, move_to_another_part],
        ids=lambda change: change.__name__,
    )
    def test_notices(self, describe_folder: DescribeFolder, change: Callable[[Path], None]) -> None:
        data = describe_folder(WITH_TEST)
        before = fingerprint(data)
        assert fingerprint(data) == before
        change(Path(str(data.path)))
        assert fingerprint(data) != before

    def test_does_not_depend_on_path_or_settings(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(WITH_TEST)
        before = fingerprint(data)
        Path(str(data.path)).rename(tmp_path / "moved")
        moved = replace(data, name="imagenet", path=str(tmp_path / "moved"), num_workers=3)
        assert fingerprint(moved) == before

    def test_tells_a_heap_from_its_classes_under_train(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder({"train/ape": 2, "train/bee": 2})
        heap = replace(data, path=str(Path(str(data.path)) / "train"))
        assert fingerprint(heap) != fingerprint(data)

    def test_needs_neither_torch_nor_pillow(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(WITH_TEST)
        program = (
            "import sys; from pfstudy.data import fingerprint; "
            "from pfstudy.schema.config import Data; "
            f"print(fingerprint(Data('imagefolder', 8, 3, 3, 0, path={data.path!r}))); "
            "print(*{name.partition('.')[0] for name in sys.modules})"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
        )
        digest, modules = done.stdout.splitlines()
        assert digest == fingerprint(data)
        assert not {"torch", "PIL", "sklearn", "torchvision", "timm"} & set(modules.split())


def empty_class(root: Path) -> None:
    for path in (root / "train" / "bee").iterdir():
        path.unlink()


def nested_folder(root: Path) -> None:
    (root / "train" / "cat" / "more").mkdir()


def broken_link(root: Path) -> None:
    (root / "train" / "cat" / "zzz.png").symlink_to("nowhere.png")


def root_is_a_file(root: Path) -> None:
    root.rename(root.parent / "elsewhere")
    root.write_text("no folder")


def root_is_missing(root: Path) -> None:
    root.rename(root.parent / "elsewhere")


def root_is_empty(root: Path) -> None:
    root.rename(root.parent / "elsewhere")
    root.mkdir()


def flat_val(root: Path) -> None:
    for path in (root / "val").iterdir():
        path.rename(root.parent / path.name)
    (root / "val" / "001.png").write_bytes(b"image")


def flat_test_alone(root: Path) -> None:
    root_is_empty(root)
    (root / "test").mkdir()
    (root / "test" / "001.png").write_bytes(b"image")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(empty_class, "{root}/train/bee has no images: fill or remove",
                     id="empty class"),
        pytest.param(nested_folder, "{root}/train/cat/more is a folder: the images of a class lie",
                     id="folder in a class"),
        pytest.param(broken_link, "{root}/train/cat/zzz.png cannot be read: No such file",
                     id="broken link"),
        pytest.param(root_is_a_file, "data.path={root} cannot be read: Not a directory",
                     id="file instead of folder"),
        pytest.param(root_is_missing, "data.path={root} cannot be read: No such file",
                     id="no folder"),
        pytest.param(root_is_empty, "data.path={root} has no class folders: expected train/CLASS/",
                     id="empty folder"),
        pytest.param(flat_val, "{root}/val has no class folders: expected val/CLASS/.",
                     id="val without classes"),
        pytest.param(flat_test_alone, "data.path={root} has no class folders", id="test alone"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_identified(
    describe_folder: DescribeFolder, change: Callable[[Path], None], sentence: str
) -> None:
    data = describe_folder(WITH_TEST)
    change(Path(str(data.path)))
    with pytest.raises(PfstudyError) as caught:
        fingerprint(data)
    assert str(caught.value).startswith(sentence.format(root=data.path))
    assert str(caught.value).endswith(".")
    assert str(caught.value).count("\n") == 0


MANY = {f"val/{n}": 1 for n in range(5)} | {"train/0": 1}


@pytest.mark.parametrize(
    ("counts", "fields", "sentence"),
    [
        pytest.param(WITH_TEST, {"path": None}, "data=imagefolder needs data.path=FOLDER.",
                     id="no path"),
        pytest.param({**WITH_TEST, "val/dog": 1, "val/cow": 1, "train/eel": 1, "test/eel": 1}, {},
                     "data.path={root}: val must have no other class folders than train, but val "
                     "alone has 'cow', 'dog'.", id="other classes in val"),
        pytest.param({**WITH_TEST, "test/dog": 1}, {"num_classes": 3}, "data.path={root}: test "
                     "must have no other class folders than train, but test alone has 'dog'.",
                     id="another class in test"),
        pytest.param(MANY, {}, "data.path={root}: val must have no other class folders than train, "
                     "but val alone has '1', '2', '3' and 1 more.", id="many classes"),
        pytest.param({"train/ape": 2, "val/ape": 0}, {"num_validation": 1}, "{root}/val has no "
                     "images: fill its class folders.", id="no images in val"),
        pytest.param({**HEAP, "cow": 2}, {"num_validation": 6, "num_test": 20}, "data imagefolder: "
                     "class 'cow' has 2 images, too few for a split into train, validation and "
                     "test, each of which needs one or more: add images, or remove the class and "
                     "set data.num_classes=3, or lay the images out as train/ and val/ and set "
                     "data.num_test=null.", id="class of two images"),
        pytest.param({**HEAP, "cow": 1}, {"num_validation": 6, "num_test": 20}, "data imagefolder: "
                     "class 'cow' has 1 image, too few", id="class of one image"),
        pytest.param({**TRAIN_VAL, "train/cow": 1, "val/cow": 1}, {"num_validation": 6},
                     "data imagefolder: class 'cow' has 1 image, too few for a split into train "
                     "and validation, each of which needs one or more: add images, or remove the "
                     "class and set data.num_classes=3.", id="class of one training image"),
        pytest.param(WITH_TEST, {"num_classes": 4}, "data.num_classes is 4, but {root}/train has 3 "
                     "class folders; set the number, or copy what is missing.", id="num_classes"),
        pytest.param(HEAP, {"num_classes": 2}, "data.num_classes is 2, but {root} has 3 class "
                     "folders; set the number, or", id="num_classes of a heap"),
        pytest.param({"train/ape": 2}, {}, "data.path={root} has no folder 'val': expected "
                     "train/CLASS/ and val/CLASS/, or CLASS/ alone.", id="no val"),
        pytest.param({"val/ape": 2}, {}, "data.path={root} has no folder 'train': expected",
                     id="no train"),
        pytest.param(TRAIN_VAL, {}, "data=imagefolder needs data.num_validation=NUMBER: there is "
                     "no {root}/test, so {root}/val is for the test.", id="num_validation missing"),
        pytest.param(HEAP, {"num_validation": 9}, "data=imagefolder needs data.num_test=NUMBER.",
                     id="num_test of a heap missing"),
        pytest.param(HEAP, {"num_test": 9}, "data=imagefolder needs data.num_validation=NUMBER.",
                     id="num_validation of a heap missing"),
        pytest.param(WITH_TEST, {"num_validation": 6}, "data.num_validation is 6, but {root}/val "
                     "has these images; set data.num_validation=null.", id="num_validation unused"),
        pytest.param(WITH_TEST, {"num_test": 6}, "data.num_test is 6, but {root}/test has these "
                     "images; set data.num_test=null.", id="num_test unused"),
        pytest.param(TRAIN_VAL, {"num_test": 6, "num_validation": 6}, "data.num_test is 6, but "
                     "{root}/val has these images; set data.num_test=null.",
                     id="num_test unused without test folder"),
        pytest.param(TRAIN_VAL, {"num_validation": 24}, "data imagefolder: 24 validation images "
                     "cannot be held out of the 24 training images: ", id="nothing left to train"),
        pytest.param(TRAIN_VAL, {"num_validation": 2}, "data imagefolder: 2 validation images "
                     "cannot be held out of the 24 training images: ", id="fewer than classes"),
    ],
)  # fmt: skip
def test_folders_that_are_not_what_the_config_says(
    describe_folder: DescribeFolder,
    counts: dict[str, int],
    fields: dict[str, object],
    sentence: str,
) -> None:
    data = describe_folder(counts, **fields)
    root = data.path
    with pytest.raises(PfstudyError) as caught:
        list_splits(data)
    assert str(caught.value).startswith(sentence.format(root=root))
    assert str(caught.value).endswith(".")
    assert not str(caught.value).endswith("..")


def test_names_of_files_take_no_more_than_their_length(describe_folder: DescribeFolder) -> None:
    """A million of them are shared with every process that reads images."""
    images = list_splits(describe_folder(WITH_TEST))["train"]
    assert images.names_N.dtype == np.dtype("S7")
    assert images.labels_N.dtype == np.int64


class TestEmptyFiles:
    def test_are_named_before_anything_is_read(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(WITH_TEST)
        empty = Path(str(data.path), "val", "cat", "002.png")
        empty.write_bytes(b"")
        with pytest.raises(PfstudyError) as caught:
            fingerprint(data)
        assert str(caught.value) == (
            f"{empty} is empty: copied only in part? Copy it anew, or remove it."
        )

    def test_are_skipped_if_told_so(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(WITH_TEST, on_error="skip")
        Path(str(data.path), "val", "cat", "002.png").write_bytes(b"")
        assert len(fingerprint(data)) == 64
