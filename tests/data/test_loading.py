from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pfstudy.data.imagefolder import Images
from pfstudy.data.loading import (
    check_augmentation,
    check_batch_size,
    count_training_images,
    make_loaders,
    open_test,
)
from pfstudy.data.tensors import Batches, load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

DescribeFolder = Callable[..., Data]
CPU = torch.device("cpu")
DIGITS = Data("digits", 8, 1, 10, 0, num_validation=150, num_test=500)
CLASSES = {"train/ape": 5, "train/bee": 6, "val/ape": 3, "val/bee": 4, "test/ape": 2, "test/bee": 3}


def labels_of(batches: object) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]  # type: ignore[attr-defined]


class TestMakeLoaders:
    def test_small_data_lies_on_the_device(self) -> None:
        loaders = make_loaders(DIGITS, 64, 256, 3, 4, CPU)
        splits = load_splits(DIGITS)
        for name, size in (("train", 64), ("validation", 256), ("test", 256)):
            batches = getattr(loaders, name)
            assert isinstance(batches, Batches)
            assert batches.indices.batch_size == size
            assert torch.equal(batches.split.images_NCHW, splits[name].images_NCHW)
        assert len(loaders.train) == 1147 // 64
        assert loaders.train.sampler.seed == 3  # type: ignore[attr-defined]
        assert labels_of(loaders.test) == splits["test"].labels_N.tolist()

    def test_parts_of_a_folder(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES)
        loaders = make_loaders(data, 5, 4, 0, 0, CPU)
        assert [len(getattr(loaders, name)) for name in ("train", "validation", "test")] == [2] * 3
        assert labels_of(loaders.validation) == [0, 0, 0, 1, 1, 1, 1]
        assert labels_of(loaders.test) == [0, 0, 1, 1, 1]

    def test_order_and_augmentation_have_seeds_of_their_own(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        ramp = np.arange(100, dtype=np.uint8).reshape(10, 10)
        for number, path in enumerate(sorted(Path(str(data.path)).glob("train/*/*"))):
            Image.fromarray(ramp + 10 * number).save(path)

        def first(order_seed: int, augmentation_seed: int) -> torch.Tensor:
            loaders = make_loaders(data, 11, 4, order_seed, augmentation_seed, CPU)
            ((images, _),) = loaders.train
            return images

        def in_any_order(images: torch.Tensor) -> list[list[float]]:
            return sorted(images.flatten(1).tolist())

        assert torch.equal(first(1, 2), first(1, 2))
        assert not torch.equal(first(1, 2), first(3, 2))
        assert in_any_order(first(1, 2)) == in_any_order(first(3, 2))
        assert in_any_order(first(1, 2)) != in_any_order(first(1, 3))

    def test_processes_last_as_long_as_the_loaders(self, describe_folder: DescribeFolder) -> None:
        before = set(active_children())
        with make_loaders(describe_folder(CLASSES, num_workers=1), 5, 4, 0, 0, CPU) as loaders:
            for loader in (loaders.train, loaders.validation, loaders.test):
                list(loader)
            assert len(set(active_children()) - before) == 2  # what is tested is read once
        assert set(active_children()) <= before

    @pytest.mark.parametrize("kind", ["digits", "folder"])
    def test_batch_larger_than_the_training_images(
        self, describe_folder: DescribeFolder, kind: str
    ) -> None:
        data, number = (DIGITS, 1147) if kind == "digits" else (describe_folder(CLASSES), 11)
        with pytest.raises(PfstudyError) as caught:
            make_loaders(data, number + 1, 4, 0, 0, CPU)
        assert str(caught.value) == (
            f"recipe.batch_size is {number + 1}, but there are only {number} training images."
        )
        check_batch_size(number, number)

    @pytest.mark.parametrize("kind", ["digits", "folder"])
    def test_training_images_alone_are_augmented_and_repeated(
        self, describe_folder: DescribeFolder, kind: str
    ) -> None:
        data = DIGITS if kind == "digits" else describe_folder(CLASSES)
        augmentation = Augmentation(repeats=2, flip=True)
        plain = make_loaders(data, 4, 4, 0, 0, CPU)
        loaders = make_loaders(data, 4, 4, 0, 0, CPU, None, augmentation)
        assert loaders.train.sampler.repeats == 2  # type: ignore[attr-defined]
        assert labels_of(loaders.train)[0::2] == labels_of(loaders.train)[1::2]
        for (images, _), (others, _) in zip(loaders.test, plain.test, strict=True):
            assert torch.equal(images, others)

    def test_what_was_skipped_is_said_of_all_parts(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES, on_error="skip")
        damaged = [Path(str(data.path), name) for name in ("train/bee/001.png", "test/ape/001.png")]
        for path in damaged:
            path.write_text("no image")
        loaders = make_loaders(data, 11, 4, 0, 0, CPU)
        assert loaders.skipped == {}
        for part in (loaders.train, loaders.validation, loaders.test, loaders.test):
            list(part)
        assert sorted(loaders.skipped) == sorted(map(str, damaged))
        assert make_loaders(DIGITS, 64, 256, 3, 4, CPU).skipped == {}


class TestCheckAugmentation:
    @pytest.mark.parametrize(
        "asked",
        [
            {"crop_scale": (0.1, 1)},
            {"train_image_size": 12},
            {"random_augment": "rand-m9"},
            {"color_jitter": 0.4},
        ],
        ids=lambda asked: next(iter(asked)),
    )
    def test_of_image_files_cannot_be_done_on_the_device(
        self, describe_folder: DescribeFolder, asked: dict[str, Any]
    ) -> None:
        augmentation = Augmentation(**asked)
        check_augmentation(describe_folder(CLASSES), augmentation)
        with pytest.raises(PfstudyError) as caught:
            make_loaders(DIGITS, 64, 256, 3, 4, CPU, None, augmentation)
        assert str(caught.value) == (
            f"recipe.augmentation.{next(iter(asked))} is for folders of image files, which "
            "data=digits is not; set it to null."
        )

    @pytest.mark.parametrize("key", ["translate", "cutout"])
    def test_of_data_on_the_device_cannot_be_done_to_files(
        self, describe_folder: DescribeFolder, key: str
    ) -> None:
        augmentation = Augmentation(**{key: 2})
        check_augmentation(DIGITS, augmentation)
        with pytest.raises(PfstudyError) as caught:
            make_loaders(describe_folder(CLASSES), 4, 4, 0, 0, CPU, None, augmentation)
        assert str(caught.value) == (
            f"recipe.augmentation.{key} is for data that lie on the device, which "
            "data=imagefolder is not; set it to null."
        )

    def test_finds_what_is_malformed(self, describe_folder: DescribeFolder) -> None:
        with pytest.raises(PfstudyError, match=r"^recipe\.augmentation\.random_augment is 'm9'"):
            check_augmentation(describe_folder(CLASSES), Augmentation(random_augment="m9"))


class TestOpenTest:
    def test_of_small_data(self) -> None:
        labels = labels_of(open_test(DIGITS, 128, CPU))
        assert labels == load_splits(DIGITS)["test"].labels_N.tolist()

    def test_of_a_folder_that_has_nothing_else(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder({"val/ape": 3, "val/bee": 4}, num_validation=100)
        assert labels_of(open_test(data, 3, CPU)) == [0, 0, 0, 1, 1, 1, 1]

    def test_is_what_a_run_is_tested_on(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder({"ape": 9, "bee": 9}, num_validation=4, num_test=6)
        ((one, _),) = open_test(data, 6, CPU)
        ((other, _),) = make_loaders(data, 2, 6, 0, 0, CPU).test
        assert torch.equal(one, other)


class TestCountTrainingImages:
    def test_of_small_data(self) -> None:
        assert count_training_images(DIGITS) == 1147

    def test_of_a_folder_reads_one_image(
        self, describe_folder: DescribeFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = describe_folder(CLASSES)
        read: list[int] = []
        really = Images.read
        monkeypatch.setattr(
            Images, "read", lambda images, index: (read.append(index), really(images, index))[1]
        )
        assert count_training_images(data) == 11
        assert read == [0]

    def test_skips_what_cannot_be_read_if_told_so(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES, on_error="skip")
        Path(str(data.path), "train", "ape", "000.png").write_text("no image")
        assert count_training_images(data) == 11

    def test_names_an_image_that_is_none(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES)
        for path in Path(str(data.path)).glob("train/*/*"):
            path.write_text("no image")
        with pytest.raises(PfstudyError, match=r"train/ape/000\.png is no image that Pillow"):
            count_training_images(data)

    def test_finds_settings_that_do_not_fit(self, describe_folder: DescribeFolder) -> None:
        with pytest.raises(PfstudyError, match=r"^data\.mean has 3 values"):
            count_training_images(describe_folder(CLASSES, channels=1))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(Data("digits", 8, 1, 10, 0, num_test=500), id="digits"),
        pytest.param(Data("synthetic", 8, 1, 10, 0, num_test=5, num_train=9), id="synthetic"),
    ],
)
def test_small_data_needs_its_numbers(data: Data) -> None:
    with pytest.raises(PfstudyError) as caught:
        load_splits(data)
    assert str(caught.value) == f"data={data.name} needs data.num_validation=NUMBER."


def test_small_data_needs_no_torchvision() -> None:
    program = (
        "import sys; import pfstudy.data.loading; "
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert not {"torchvision", "timm", "PIL", "lightning"} & set(done.stdout.split())
