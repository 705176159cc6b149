from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pfstudy.data.imagefolder import Images, list_splits, list_test
from pfstudy.data.images import ImageBatches
from pfstudy.data.order import BatchIndices, EpochOrder
from pfstudy.data.transforms import make_transform
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

DescribeFolder = Callable[..., Data]
CPU = torch.device("cpu")
CLASSES = {"train/ape": 5, "train/bee": 6, "val/ape": 3, "val/bee": 4, "test/ape": 2, "test/bee": 3}
RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def train_batches(
    data: Data, seed: int = 0, augmentation_seed: int = 0, **augmentation: Any
) -> ImageBatches:
    images, asked = list_splits(data)["train"], Augmentation(**augmentation)
    indices = BatchIndices(len(images), 4, EpochOrder(len(images), seed, asked.repeats))
    return ImageBatches(images, data, indices, CPU, augmentation_seed, asked, persistent=True)


def batches_in_order(images: Images, data: Data, batch_size: int) -> ImageBatches:
    return ImageBatches(images, data, BatchIndices(len(images), batch_size), CPU)


def epoch_of(batches: ImageBatches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    assert batches.sampler is not None
    batches.sampler.set_epoch(epoch)
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def greys(images: torch.Tensor) -> list[int]:
    """The number that every image was written with: all its pixels have that grey."""
    pixels = (images * 255).round().long().flatten(1)
    assert (pixels == pixels[:, :1]).all()
    return pixels[:, 0].tolist()


def write_noise(data: Data) -> None:
    for number, path in enumerate(sorted(Path(str(data.path)).glob("*/*/*"))):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)


class TestEvaluation:
    @pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
    def test_is_resized_cropped_and_normalised(
        self, describe_folder: DescribeFolder, interpolation: str
    ) -> None:
        """The shorter side of 12 becomes 10, of which the middle 8 are taken."""
        mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
        data = describe_folder(CLASSES, crop_fraction=0.8, interpolation=interpolation,
                               mean=mean, std=std)  # fmt: skip
        first = Path(str(data.path), "val", "ape", "000.png")
        Image.fromarray(noise(12, 24, 3)).save(first)
        ((images, _),) = batches_in_order(list_splits(data)["validation"], data, 7)
        resized = Image.fromarray(noise(12, 24, 3)).resize((20, 10), RESAMPLING[interpolation])
        expected = (np.asarray(resized)[1:9, 6:14] / 255 - mean) / std
        assert images.shape == (7, 3, 8, 8)
        assert images.dtype == torch.float32
        np.testing.assert_allclose(images[0].permute(1, 2, 0), expected, atol=1e-5)

    def test_grey_images_have_one_channel(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES, channels=1, mean=(0.4,), std=(0.2,))
        ((images, _),) = batches_in_order(list_test(data), data, 5)
        assert images.shape == (5, 1, 8, 8)
        assert greys(images * 0.2 + 0.4) == [18, 19, 20, 21, 22]

    @pytest.mark.parametrize("size", [8, 15, 32])
    def test_images_smaller_and_larger_than_the_crop(
        self, describe_folder: DescribeFolder, size: int
    ) -> None:
        data = describe_folder(CLASSES, image_size=size)
        for images, _ in (*batches_in_order(list_test(data), data, 5), *train_batches(data)):
            assert images.shape[1:] == (3, size, size)

    def test_keeps_the_order_of_the_files_and_the_last_incomplete_batch(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        batches = batches_in_order(list_splits(data)["validation"], data, 3)
        found = list(batches)
        assert len(batches) == len(found) == 3
        assert [len(images) for images, _ in found] == [3, 3, 1]
        assert greys(torch.cat([images for images, _ in found])) == list(range(11, 18))
        assert torch.cat([labels for _, labels in found]).tolist() == [0] * 3 + [1] * 4

    def test_does_not_depend_on_the_number_of_processes(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        write_noise(data)
        runs = []
        for num_workers in (0, 2):
            data = replace(data, num_workers=num_workers)
            runs.append(list(batches_in_order(list_test(data), data, 2)))
        for (images, labels), (others, other_labels) in zip(*runs, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, other_labels)


class TestTraining:
    def test_images_stay_with_their_labels_in_the_order_of_the_epoch(
        self, describe_folder: DescribeFolder
    ) -> None:
        batches = train_batches(describe_folder(CLASSES), seed=7)
        for epoch in (0, 3):
            images, labels = epoch_of(batches, epoch)
            order = EpochOrder(11, seed=7)
            order.set_epoch(epoch)
            assert greys(images) == order.draw()[:8].tolist()
            assert labels.tolist() == [int(grey >= 5) for grey in greys(images)]

    def test_last_incomplete_batch_is_left_out(self, describe_folder: DescribeFolder) -> None:
        batches = train_batches(describe_folder(CLASSES))
        assert len(batches) == len(list(batches)) == 2
        assert {len(labels) for _, labels in batches} == {4}

    def test_colours_stay(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES)
        for path in Path(str(data.path)).glob("train/*/*"):
            Image.new("RGB", (20, 30), (200, 100, 50)).save(path)
        images, _ = epoch_of(train_batches(data), 0)
        expected = torch.tensor([200, 100, 50]).view(3, 1, 1).expand_as(images) / 255
        torch.testing.assert_close(images, expected)

    def test_parts_are_taken_and_flipped_at_random(self, describe_folder: DescribeFolder) -> None:
        """Images that brighten to the right, by a level a pixel: flipped ones to the left."""
        data = describe_folder(CLASSES)
        ramp = np.broadcast_to(np.arange(240, dtype=np.uint8), (240, 240))
        for path in Path(str(data.path)).glob("train/*/*"):
            Image.fromarray(ramp).save(path)
        batches = train_batches(data)
        images = torch.cat([epoch_of(batches, epoch)[0] for epoch in range(12)])[:, 0] * 255
        rise = (images[:, :, 5] - images[:, :, 2]).mean(dim=1)
        widths = rise.abs() / 3 * 8
        assert 30 < (rise < 0).sum() < 66  # of 96; outside once in 5,000 seeds
        assert widths.min() > 0.95 * 240 * (0.08 * 3 / 4) ** 0.5  # the narrowest part there is
        assert widths.max() < 1.05 * 240
        assert widths.std() > 20
        assert images.mean(dim=(1, 2)).std() > 10  # they are taken in different places

    def test_is_the_same_for_the_same_seeds_whatever_reads_it(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        write_noise(data)
        epochs = []
        for num_workers in (0, 1, 2):
            with closing(train_batches(replace(data, num_workers=num_workers))) as batches:
                random.seed(num_workers)
                torch.manual_seed(num_workers)
                epochs.append([epoch_of(batches, epoch)[0] for epoch in (0, 1, 1)])
        for first, second, second_again in epochs:
            assert torch.equal(first, epochs[0][0])
            assert torch.equal(second, epochs[0][1])
            assert torch.equal(second, second_again)

    def test_another_seed_or_epoch_is_another_augmentation(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        for path in Path(str(data.path)).glob("train/*/*"):
            Image.fromarray(noise(20, 20, 3)).save(path)
        one, other = train_batches(data), train_batches(data, augmentation_seed=1)
        drawn = [*epoch_of(one, 0)[0], *epoch_of(one, 1)[0], *epoch_of(other, 0)[0]]
        assert len({image.numpy().tobytes() for image in drawn}) == len(drawn)

    def test_augmentation_does_not_depend_on_the_order(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        write_noise(data)
        found: list[dict[bytes, int]] = []
        for seed in (0, 1):
            images, _ = epoch_of(train_batches(data, seed=seed), 0)
            order = EpochOrder(11, seed).draw()[:8].tolist()
            found.append(
                {image.numpy().tobytes(): i for image, i in zip(images, order, strict=True)}
            )
        both = set(found[0].values()) & set(found[1].values())
        assert len(both) >= 5
        assert len(found[0].keys() & found[1].keys()) == len(both)

    def test_global_generators_are_left_alone(self, describe_folder: DescribeFolder) -> None:
        batches = train_batches(describe_folder(CLASSES))
        before = random.getstate(), torch.get_rng_state()
        list(batches)
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])


class TestRepeats:
    def test_each_repeat_is_augmented_anew_and_the_first_as_without(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES)
        write_noise(data)
        once = {image.numpy().tobytes() for image in epoch_of(train_batches(data), 0)[0]}
        images, labels = epoch_of(train_batches(data, repeats=2), 0)
        assert labels[0::2].tolist() == labels[1::2].tolist()
        assert all(image.numpy().tobytes() in once for image in images[0::2])
        assert not any(image.numpy().tobytes() in once for image in images[1::2])

    def test_are_of_the_same_image(self, describe_folder: DescribeFolder) -> None:
        images, _ = epoch_of(train_batches(describe_folder(CLASSES), repeats=4), 3)
        shown = greys(images)
        assert [shown[i : i + 4] for i in (0, 4)] == [[grey] * 4 for grey in shown[0::4]]
        assert shown[0] != shown[4]


class TestSkipping:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_next_image_stands_in_for_one_that_cannot_be_read(
        self, describe_folder: DescribeFolder, num_workers: int
    ) -> None:
        data = describe_folder(CLASSES, num_workers=num_workers, on_error="skip")
        whole = epoch_of(train_batches(data), 0)[0]
        damaged = [Path(str(data.path), "train", name) for name in ("ape/004.png", "bee/005.png")]
        for path in damaged:
            path.write_bytes(path.read_bytes()[:30])
        with closing(train_batches(data)) as batches:
            images, labels = epoch_of(batches, 0)
            assert greys(images) == [{4: 5, 10: 0}.get(grey, grey) for grey in greys(whole)]
            assert labels.tolist() == [int(grey >= 5) for grey in greys(images)]
            met = {4, 10} & set(greys(whole))
            assert met
            assert list(batches.skipped) == [
                str(damaged[grey == 10]) for grey in greys(whole) if grey in met
            ]
            assert all(reason.startswith(path) for path, reason in batches.skipped.items())

    def test_stand_in_is_augmented_as_ever(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES, on_error="skip")
        write_noise(data)
        whole = epoch_of(train_batches(data), 0)[0]
        order = EpochOrder(11, 0).draw()[:8].tolist()
        first = next(i for i in range(8) if (order[i] + 1) % 11 in order)
        listed = list_splits(data)["train"]
        listed.path(order[first]).write_bytes(b"")
        images, _ = epoch_of(train_batches(data), 0)
        assert torch.equal(images[first], whole[order.index((order[first] + 1) % 11)])

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_in_evaluation_it_is_a_blank_without_a_class(
        self, describe_folder: DescribeFolder, num_workers: int
    ) -> None:
        data = describe_folder(CLASSES, num_workers=num_workers, on_error="skip")
        damaged = Path(str(data.path), "val", "ape", "001.png")
        damaged.write_text("no image")
        batches = batches_in_order(list_splits(data)["validation"], data, 3)
        images, labels = zip(*batches, strict=True)
        assert torch.cat(labels).tolist() == [0, -1, 0, 1, 1, 1, 1]
        assert greys(torch.cat(images)) == [11, 0, 13, 14, 15, 16, 17]
        assert batches.skipped == {
            str(damaged): f"{damaged} is no image that Pillow knows; remove or replace it."
        }

    def test_where_nothing_can_be_read_it_stops(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder(CLASSES, on_error="skip")
        for path in Path(str(data.path)).glob("train/*/*"):
            path.write_text("no image")
        with pytest.raises(PfstudyError, match=r"^none of the 100 images from .*train/"):
            epoch_of(train_batches(data), 0)

    def test_what_was_skipped_is_known_after_going_on(
        self, describe_folder: DescribeFolder
    ) -> None:
        data = describe_folder(CLASSES, on_error="skip")
        assert train_batches(data).state_dict() == {"num_taken": 0}
        damaged = list_splits(data)["train"].path(EpochOrder(11, 0).draw()[0].item())
        damaged.write_text("no image")
        batches, gone_on = train_batches(data), train_batches(data)
        batch = iter(batches)
        next(batch)
        gone_on.load_state_dict(batches.state_dict())
        assert list(gone_on.skipped) == [str(damaged)]
        assert len(list(gone_on)) == 1


class TestTrouble:
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_damaged_file_is_named_by_the_batches(
        self, describe_folder: DescribeFolder, num_workers: int
    ) -> None:
        data = describe_folder(CLASSES, num_workers=num_workers)
        damaged = Path(str(data.path), "val", "bee", "002.png")
        damaged.write_text("no image")
        with pytest.raises(PfstudyError) as caught:
            list(batches_in_order(list_splits(data)["validation"], data, 2))
        assert str(caught.value) == (
            f"{damaged} is no image that Pillow knows; remove or replace it."
        )

    def test_process_that_is_asked_to_end_goes_on_until_it_is_closed(
        self, describe_folder: DescribeFolder
    ) -> None:
        """The whole group of a run is, and the run needs it on the way to its checkpoint."""
        before = set(active_children())
        with closing(train_batches(describe_folder(CLASSES, num_workers=1))) as batches:
            batch = iter(batches)
            taken = [next(batch)]
            (process,) = set(active_children()) - before
            os.kill(process.pid or 0, signal.SIGTERM)
            taken += batch
            assert len(taken) == len(batches)
            assert set(active_children()) - before == {process}
        assert process.exitcode == 0

    @pytest.mark.parametrize("half_read", [False, True])
    def test_processes_end_when_the_batches_are_closed(
        self, describe_folder: DescribeFolder, half_read: bool
    ) -> None:
        before = set(active_children())
        batches = train_batches(describe_folder(CLASSES, num_workers=2))
        list(batches)
        batch = iter(batches)
        if half_read:
            next(batch)
        processes = set(active_children()) - before
        assert len(processes) == min(2, len(os.sched_getaffinity(0)))
        batches.close()
        assert not set(active_children()) & processes
        assert {process.exitcode for process in processes} == {0}

    def test_processes_end_also_while_an_error_is_handled(
        self, describe_folder: DescribeFolder
    ) -> None:
        before = set(active_children())
        data = describe_folder(CLASSES, num_workers=2)
        for path in Path(str(data.path)).glob("train/*/*"):
            path.write_text("no image")
        batches = train_batches(data)
        with pytest.raises(PfstudyError) as caught:
            list(batches)
        batches.close()
        assert caught.value.__traceback__ is not None
        assert set(active_children()) <= before

    @pytest.mark.parametrize(
        ("fields", "sentence"),
        [
            pytest.param({"mean": None}, "data=imagefolder needs data.mean, a value for each "
                         "channel.", id="mean missing"),
            pytest.param({"std": None}, "data=imagefolder needs data.std, a value for each "
                         "channel.", id="std missing"),
            pytest.param({"crop_fraction": None}, "data=imagefolder needs data.crop_fraction.",
                         id="crop_fraction missing"),
            pytest.param({"interpolation": None}, "data=imagefolder needs data.interpolation.",
                         id="interpolation missing"),
            pytest.param({"channels": 1}, "data.mean has 3 values, but data.channels is 1; grey "
                         "images may take mean=[0.449] and std=[0.226].", id="mean of colour"),
            pytest.param({"std": (1, 1)}, "data.std has 2 values, but data.channels is 3.",
                         id="std too short"),
            pytest.param({"channels": 4}, "data.channels is 4, but image files have 1 or 3.",
                         id="channels"),
        ],
    )  # fmt: skip
    def test_settings_that_do_not_fit(
        self, describe_folder: DescribeFolder, fields: Mapping[str, object], sentence: str
    ) -> None:
        data = describe_folder(CLASSES, **fields)
        for make in (
            lambda: make_transform(data, training=True),
            lambda: batches_in_order(list_test(data), data, 2),
        ):
            with pytest.raises(PfstudyError) as caught:
                make()
            assert str(caught.value) == sentence
