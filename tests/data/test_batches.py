"""Which images every batch holds, shared among processes and gone on with."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pfstudy.data.imagefolder import list_splits
from pfstudy.data.images import ImageBatches
from pfstudy.data.loading import check_batch_size, make_loaders
from pfstudy.data.order import BatchIndices, EpochOrder, Share, check_share
from pfstudy.data.tensors import Batches, Split
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

DescribeFolder = Callable[..., Data]
CPU = torch.device("cpu")
CLASSES = {"train/ape": 7, "train/bee": 8, "val/ape": 3, "val/bee": 4, "test/ape": 2, "test/bee": 3}


def split_of(number: int) -> Split:
    images = torch.arange(number, dtype=torch.float32).reshape(-1, 1, 1, 1)
    return Split(images, torch.arange(number), torch.zeros(1, 1, 1), torch.ones(1, 1, 1))


def labels_of(batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> list[list[int]]:
    return [labels.tolist() for _, labels in batches]


def drawn(number: int, batch_size: int, share: Share | None = None, epoch: int = 0) -> BatchIndices:
    order = EpochOrder(number, seed=0)
    order.set_epoch(epoch)
    return BatchIndices(number, batch_size, order, share)


def in_turn(number: int, batch_size: int, share: Share | None = None) -> BatchIndices:
    return BatchIndices(number, batch_size, None, share)


def tensor_batches(indices: BatchIndices) -> Batches:
    return Batches(split_of(indices.num_images), indices)


class TestAlone:
    def test_evaluation_keeps_the_order_and_the_last_incomplete_batch(self) -> None:
        batches = tensor_batches(in_turn(10, 4))
        assert labels_of(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert len(batches) == 3

    @pytest.mark.parametrize("number", [8, 9, 11])
    def test_training_leaves_the_last_incomplete_batch_out(self, number: int) -> None:
        batches = tensor_batches(drawn(number, 4))
        found = labels_of(batches)
        assert [len(batch) for batch in found] == [4, 4]
        assert len(batches) == 2
        seen = {label for batch in found for label in batch}
        assert len(seen) == 8
        assert seen <= set(range(number))

    def test_images_stay_with_their_labels_when_shuffled(self) -> None:
        for images, labels in tensor_batches(drawn(20, 5)):
            assert images.flatten().tolist() == labels.tolist()


class TestShared:
    """Whoever takes part, a step sees the images that one process alone would see."""

    @pytest.mark.parametrize("epoch", [0, 3])
    @pytest.mark.parametrize("num_parts", [1, 2, 4])
    @pytest.mark.parametrize("num_ranks", [1, 2, 3])
    def test_processes_and_parts_together_have_the_whole_batch(
        self, num_ranks: int, num_parts: int, epoch: int
    ) -> None:
        whole = list(drawn(100, 24, epoch=epoch))
        shares = [Share(rank, num_ranks, num_parts) for rank in range(num_ranks)]
        all_indices = [drawn(100, 24, share, epoch) for share in shares]
        assert {len(indices) for indices in all_indices} == {4 * num_parts}
        parts = [list(indices) for indices in all_indices]
        assert {len(part) for rank in parts for part in rank} == {24 // num_ranks // num_parts}
        for step, batch in enumerate(whole):
            steps = slice(step * num_parts, (step + 1) * num_parts)
            together = torch.cat([part for rank in parts for part in rank[steps]])
            assert sorted(together.tolist()) == sorted(batch.tolist())

    def test_tensors_are_those_that_the_indices_name(self) -> None:
        share = Share(1, 2, 2)
        expected = [indices.tolist() for indices in drawn(50, 12, share)]
        assert labels_of(tensor_batches(drawn(50, 12, share))) == expected

    @pytest.mark.parametrize("num_ranks", [1, 2, 3])
    @pytest.mark.parametrize("number", [12, 13, 14])
    def test_every_image_is_evaluated_once(self, number: int, num_ranks: int) -> None:
        found = []
        for rank in range(num_ranks):
            batches = tensor_batches(in_turn(number, 3, Share(rank, num_ranks)))
            of_rank = labels_of(batches)
            assert len(of_rank) == len(batches)
            assert {len(batch) for batch in of_rank[:-1]} <= {3}
            found.extend(itertools.chain(*of_rank))
        assert sorted(found) == list(range(number))

    def test_parts_of_a_step_are_no_matter_of_evaluation(self) -> None:
        share = Share(0, 1, num_parts=5)
        assert labels_of(tensor_batches(in_turn(7, 3, share))) == [[0, 1, 2], [3, 4, 5], [6]]

    def test_loaders_of_several_processes(self, describe_folder: DescribeFolder) -> None:
        digits = Data("digits", 8, 1, 10, 0, num_validation=150, num_test=501)
        folder = describe_folder(CLASSES)
        for data, batch_size in ((digits, 64), (folder, 4)):
            alone = make_loaders(data, batch_size, 2, 3, 4, CPU)
            pair = [make_loaders(data, batch_size, 2, 3, 4, CPU, Share(r, 2)) for r in (0, 1)]
            for (images, _), (one, _), (other, _) in zip(
                alone.train, pair[0].train, pair[1].train, strict=True
            ):
                assert as_set(images) == as_set(torch.cat([one, other]))
            for name in ("validation", "test"):
                halves = [torch.cat([x for x, _ in getattr(loaders, name)]) for loaders in pair]
                whole = torch.cat([x for x, _ in getattr(alone, name)])
                assert abs(len(halves[0]) - len(halves[1])) <= 1
                assert torch.equal(halves[0], whole[0::2])
                assert torch.equal(halves[1], whole[1::2])

    @pytest.mark.parametrize(
        ("share", "sentence"),
        [
            pytest.param(Share(0, 3), "recipe.batch_size is 64, which 3 devices cannot share "
                         "evenly; choose another size or number.", id="devices"),
            pytest.param(Share(0, 2, 3), "recipe.batch_size is 64, which 2 devices and 3 parts "
                         "cannot share evenly; choose another size or number.", id="parts"),
        ],
    )  # fmt: skip
    def test_a_batch_that_cannot_be_divided(self, share: Share, sentence: str) -> None:
        for attempt in (lambda: drawn(100, 64, share), lambda: check_share(64, share)):
            with pytest.raises(PfstudyError) as caught:
                attempt()
            assert str(caught.value) == sentence

    def test_a_sweep_checks_it_before_it_starts(self) -> None:
        check_batch_size(64, 64, num_ranks=4)
        with pytest.raises(PfstudyError, match=r"batch_size is 64, which 3 devices cannot share"):
            check_batch_size(64, 64, num_ranks=3)

    @pytest.mark.parametrize("part", ["validation", "test"])
    def test_fewer_images_than_processes(self, part: str) -> None:
        numbers = {"num_train": 8, "num_validation": 4, "num_test": 4, f"num_{part}": 1}
        data = Data("synthetic", 4, 1, 2, 0, **numbers)  # type: ignore[arg-type]
        for rank in (0, 1):  # all of them, or one would wait for the other
            with pytest.raises(PfstudyError) as caught:
                make_loaders(data, 2, 256, 0, 0, CPU, Share(rank, 2))
            assert str(caught.value) == (
                "1 image cannot be shared by 2 devices; take fewer devices, or more images for "
                "validation and test."
            )


def as_set(images_NCHW: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images_NCHW}


SHARES = [
    pytest.param(Share(), id="alone"),
    pytest.param(Share(1, 2), id="second of two"),
    pytest.param(Share(0, 1, 2), id="two parts"),
]


class TestGoneOnWith:
    @pytest.mark.parametrize("share", SHARES)
    def test_the_rest_of_the_epoch_and_then_whole_ones(self, share: Share) -> None:
        whole = labels_of(tensor_batches(drawn(50, 12, share, epoch=2)))
        following = labels_of(tensor_batches(drawn(50, 12, share, epoch=3)))
        for num_taken in range(1, len(whole)):
            stopped = tensor_batches(drawn(50, 12, share, epoch=2))
            taken = list(itertools.islice(stopped, num_taken))
            state = stopped.state_dict()
            later = tensor_batches(drawn(50, 12, share))
            later.load_state_dict(state)
            later.sampler.set_epoch(2)  # type: ignore[union-attr]
            assert labels_of(taken) + labels_of(later) == whole
            later.sampler.set_epoch(3)  # type: ignore[union-attr]
            assert labels_of(later) == following

    def test_stopped_twice_in_one_epoch(self) -> None:
        whole = labels_of(tensor_batches(drawn(50, 10)))
        state, found = {"num_taken": 0}, []
        for num_taken in (1, 2, 2):
            batches = tensor_batches(drawn(50, 10))
            batches.load_state_dict(state)
            found += labels_of(itertools.islice(batches, num_taken))
            state = batches.state_dict()
        assert found == whole

    def test_behind_the_last_batch_an_epoch_begins(self) -> None:
        batches = tensor_batches(drawn(50, 10))
        whole = labels_of(batches)
        later = tensor_batches(drawn(50, 10))
        later.load_state_dict(batches.state_dict())
        assert labels_of(later) == whole

    @pytest.mark.parametrize("num_workers", [0, 1, 2])
    @pytest.mark.parametrize("share", [Share(), Share(1, 2, 2)], ids=["alone", "shared"])
    def test_files_that_processes_read_ahead(
        self, describe_folder: DescribeFolder, share: Share, num_workers: int
    ) -> None:
        """What was read but not taken has to come again, cropped and flipped as before."""
        data = describe_folder(CLASSES, num_workers=num_workers)
        for number, path in enumerate(sorted(Path(str(data.path)).glob("*/*/*"))):
            pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        images = list_splits(data)["train"]

        def open_batches() -> ImageBatches:
            indices = drawn(len(images), 4, share, epoch=1)
            return ImageBatches(images, data, indices, CPU, augmentation_seed=5, persistent=True)

        with closing(open_batches()) as batches:
            whole = list(batches)
            assert len(whole) == len(batches) == 3 * share.num_parts
        for num_taken in (1, 2):
            with closing(open_batches()) as stopped:
                found = list(itertools.islice(stopped, num_taken))
                state = stopped.state_dict()
            assert state == {"num_taken": num_taken}
            with closing(open_batches()) as later:
                later.load_state_dict(state)
                found += later
                again = list(later)
            for (pixels, labels), (expected, expected_labels) in zip(found, whole, strict=True):
                assert torch.equal(pixels, expected)
                assert torch.equal(labels, expected_labels)
            assert torch.equal(torch.cat([x for x, _ in again]), torch.cat([x for x, _ in whole]))
