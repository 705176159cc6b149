from collections.abc import Callable
from itertools import islice

import pytest
import torch

from pfstudy.data.halves import Pairs, open_halves
from pfstudy.data.order import Batch
from pfstudy.data.tensors import load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config, Data

PARTS = {"train": 12, "val": 4, "test": 2}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pairs_of(make_config: Callable[..., Config]) -> Callable[..., Pairs]:
    data = make_config().data

    def make(share: float = 0.5, batch_size: int = 32) -> Pairs:
        return open_halves(data, share, batch_size, 7, 8, CPU)[0]

    return make


def keys(images: torch.Tensor) -> set[bytes]:
    return {image.numpy().tobytes() for image in images}


def test_the_parts_share_no_image_and_are_all_of_them(
    pairs_of: Callable[..., Pairs], make_config: Callable[..., Config]
) -> None:
    pairs = pairs_of(batch_size=1)
    first, second = set(), set()
    for epoch in range(2):
        pairs.set_epoch(epoch)
        for (a, _), (b, _) in pairs:
            first |= keys(a)
            second |= keys(b)
    train = keys(load_splits(make_config().data)["train"].images_NCHW)
    assert not first & second
    assert first | second == train


def test_a_short_second_part_begins_anew(pairs_of: Callable[..., Pairs]) -> None:
    pairs = pairs_of(share=0.1, batch_size=32)
    others = [images for _, (images, _) in pairs]
    assert len(others) == len(pairs) == 1032 // 32
    assert torch.equal(others[0], others[3])  # three batches of it


def test_epochs_differ_and_repeat(pairs_of: Callable[..., Pairs]) -> None:
    def first_batch(epoch: int) -> torch.Tensor:
        pairs = pairs_of()
        pairs.sampler.set_epoch(epoch)  # as Lightning does
        return next(iter(pairs))[0][0]

    assert torch.equal(first_batch(3), first_batch(3))
    assert not torch.equal(first_batch(3), first_batch(4))


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_is_gone_on_with_in_the_middle(pairs_of: Callable[..., Pairs], share: float) -> None:
    whole = list(pairs_of(share))
    begun = pairs_of(share)
    passed = list(islice(iter(begun), 5))
    state = begun.state_dict()
    assert state == {"num_taken": 5}
    again = pairs_of(share)
    again.load_state_dict(state)
    rest = list(again)
    assert len(passed) + len(rest) == len(whole)
    for (a, b), (c, d) in zip(rest, whole[5:], strict=True):
        assert torch.equal(a[0], c[0])
        assert torch.equal(b[0], d[0])


def test_too_large_a_batch_is_one_sentence(pairs_of: Callable[..., Pairs]) -> None:
    with pytest.raises(PfstudyError, match=r"recipe.batch_size is 600, but a part .* has only 57"):
        pairs_of(batch_size=600)


def test_files_are_divided_likewise(describe_folder: Callable[..., Data]) -> None:
    data = describe_folder(
        {f"{part}/{name}": n for part, n in PARTS.items() for name in ("ape", "bee")},
        num_workers=1,
    )
    pairs, validation = open_halves(data, 0.5, 4, 7, 8, CPU)
    try:
        whole = list(pairs)
        assert len(whole) == 3
        parts = zip(*_images(whole), strict=True)
        greys = [{round(255 * float(i.max())) for images in p for i in images} for p in parts]
        assert len(greys[0]) == len(greys[1]) == 12
        assert not greys[0] & greys[1]
        assert sum(len(images) for images, _ in validation) == 8
        assert torch.equal(_images(list(pairs))[0][0], _images(whole)[0][0])
    finally:
        pairs.close()
        validation.close()


def _images(pairs: list[tuple[Batch, Batch]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(first[0], second[0]) for first, second in pairs]
