from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from pfstudy.data.augment import Draws, cut_out, draw, gather
from pfstudy.data.order import BatchIndices, EpochOrder, Share
from pfstudy.data.tensors import Batches, Split
from pfstudy.schema.recipe import Augmentation

ALL = Augmentation(flip=True, translate=2, cutout=3)


def images(number: int = 40, height: int = 6, width: int = 5) -> torch.Tensor:
    shape = (number, 3, height, width)
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def split(number: int = 40) -> Split:
    return Split(
        images(number), torch.arange(number), torch.full((3, 1, 1), 100.0), torch.ones(3, 1, 1)
    )


def one_draw(*, mirrored: bool = False, down: int = 0, right: int = 0) -> Draws:
    return Draws(
        torch.tensor([mirrored]), torch.tensor([[down, right]]), torch.zeros((1, 2), dtype=int)
    )


@pytest.mark.parametrize(("down", "right"), [(0, 0), (2, 0), (0, -2), (-1, 2)])
def test_a_shifted_image_is_a_crop_of_the_reflected_one(down: int, right: int) -> None:
    stored = images()
    moved = gather(stored, torch.tensor([7]), one_draw(down=down, right=right))
    padded = functional.pad(stored[[7]].float(), (2, 2, 2, 2), mode="reflect")
    expected = padded[:, :, 2 - down : 8 - down, 2 - right : 7 - right]
    assert torch.equal(moved.float(), expected)
    assert moved.dtype == torch.uint8


def test_a_mirrored_image_is_the_shifted_one_mirrored() -> None:
    stored, index = images(), torch.tensor([3])
    moved = gather(stored, index, one_draw(down=1, right=2))
    mirrored = gather(stored, index, one_draw(mirrored=True, down=1, right=2))
    assert torch.equal(mirrored, moved.flip(3))


@pytest.mark.parametrize(
    ("row", "column", "number"),
    [
        pytest.param(3, 2, 9, id="inside"),
        pytest.param(0, 0, 4, id="corner"),
        pytest.param(5, 2, 6, id="border"),
    ],
)
def test_a_square_is_blanked_as_far_as_it_lies_inside(row: int, column: int, number: int) -> None:
    draws = replace(one_draw(), hole_N2=torch.tensor([[row, column]]))
    cut = cut_out(torch.ones(1, 3, 6, 5), 3, draws)
    assert (cut[0, 0] == 0).sum() == number
    assert cut[0, 0, row, column] == 0
    assert torch.equal(cut[0, 0], cut[0, 2])


def test_half_of_the_images_are_mirrored_and_shifts_reach_as_far_as_asked() -> None:
    draws = draw(ALL, 10_000, (6, 5), seed=1)
    assert 0.47 < draws.is_mirrored_N.float().mean() < 0.53
    assert sorted(set(draws.shift_N2.flatten().tolist())) == [-2, -1, 0, 1, 2]
    assert sorted(set(draws.hole_N2[:, 0].tolist())) == list(range(6))
    assert not draw(Augmentation(translate=1), 100, (6, 5), seed=1).is_mirrored_N.any()


class TestBatches:
    def test_bytes_are_normalised(self) -> None:
        (batch,) = Batches(split(), BatchIndices(40, 40))
        assert torch.equal(batch[0], images().float() - 100)

    def test_are_the_same_however_many_processes_share_them(self) -> None:
        def batches(share: Share) -> list[tuple[torch.Tensor, torch.Tensor]]:
            indices = BatchIndices(40, 10, EpochOrder(40, 5), share)
            return list(Batches(split(), indices, ALL, seed=9))

        whole = batches(Share())
        halves = [batches(Share(rank, 2)) for rank in range(2)]
        for (images_whole, labels), *parts in zip(whole, *halves, strict=True):
            assert torch.equal(images_whole, torch.cat([part[0] for part in parts]))
            assert torch.equal(labels, torch.cat([part[1] for part in parts]))

    def test_go_on_in_the_middle_of_an_epoch_as_if_nothing_had_been(self) -> None:
        def fresh() -> Batches:
            batches = Batches(split(), BatchIndices(40, 10, EpochOrder(40, 5)), ALL, seed=9)
            batches.sampler.set_epoch(3)
            return batches

        whole, resumed = list(fresh()), fresh()
        resumed.load_state_dict({"num_taken": 2})
        for expected, found in zip(whole[2:], resumed, strict=True):
            assert torch.equal(expected[0], found[0])

    def test_differ_between_epochs(self) -> None:
        batches = Batches(split(), BatchIndices(40, 40, EpochOrder(40, 5)), ALL, seed=9)
        seen = []
        for epoch in range(2):
            batches.sampler.set_epoch(epoch)
            ((some, labels),) = batches
            seen.append(some[labels.argsort()])
        assert not torch.equal(*seen)

    def test_repeats_stand_side_by_side_each_augmented_anew(self) -> None:
        indices = BatchIndices(40, 10, EpochOrder(40, 5, repeats=2))
        batches = list(Batches(split(), indices, ALL, seed=9))
        assert len(batches) == 4
        for some, labels in batches:
            assert torch.equal(labels[::2], labels[1::2])
            assert not torch.equal(some[::2], some[1::2])
        labels = torch.cat([labels for _, labels in batches])
        assert len(labels.unique()) == 20
