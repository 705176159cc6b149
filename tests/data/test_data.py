from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from configs import compose
from pfstudy.data import fingerprint
from pfstudy.data.order import EpochOrder
from pfstudy.data.tensors import load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

DIGITS = compose().data
WriteNpz = Callable[..., Data]


@pytest.fixture
def npz(tmp_path: Path) -> WriteNpz:
    """Write arrays to a file, and describe them: 40 images in two classes unless told otherwise."""

    def write(
        images: np.ndarray | None = None, labels: np.ndarray | None = None, **fields: int
    ) -> Data:
        path = tmp_path / "images.npz"
        generator = np.random.default_rng(0)
        images = generator.random((40, 6, 6)) if images is None else images
        labels = np.arange(len(images)) % 2 if labels is None else labels
        np.savez(path, images=images, labels=labels)
        described = {"image_size": 6, "channels": 1, "num_classes": 2, "num_validation": 8,
                     "num_test": 12, "split_seed": 0, **fields}  # fmt: skip
        return Data("npz", path=str(path), **described)

    return write


def heap(data: Data) -> torch.Tensor:
    """All images of a dataset, one row each, in an order that does not depend on the split."""
    images = torch.cat([split.images_NCHW.flatten(1) for split in load_splits(data).values()])
    return torch.stack(sorted(images, key=lambda image: image.tolist()))


def test_digits_are_split_into_the_parts_that_the_config_names() -> None:
    sizes = {name: len(split) for name, split in load_splits(DIGITS).items()}
    assert sizes == {"train": 1797 - 150 - 500, "validation": 150, "test": 500}


def test_the_parts_of_digits_are_disjoint_and_nothing_is_lost() -> None:
    splits = load_splits(DIGITS)
    ours = torch.cat([split.images_NCHW for split in splits.values()]).flatten(1).double()
    theirs = torch.from_numpy(load_digits().data)
    levels = ours.unique()
    as_grey = torch.searchsorted(levels, ours)  # 17 levels of grey, in their order
    rows = sorted(map(tuple, as_grey.tolist()))
    assert len(levels) == 17
    assert rows == sorted(map(tuple, theirs.long().tolist()))


def test_images_of_digits_keep_their_labels() -> None:
    digits = load_digits()
    known = {image.astype(int).tobytes(): label for image, label in zip(digits.data, digits.target,
             strict=True)}  # fmt: skip
    for split in load_splits(DIGITS).values():
        images = split.images_NCHW.flatten(1).double()
        grey = torch.searchsorted(heap(DIGITS).double().unique(), images).numpy().astype(int)
        assert [known[image.tobytes()] for image in grey] == split.labels_N.tolist()


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_every_part_of_digits_has_its_share_of_each_class(name: str) -> None:
    labels = load_splits(DIGITS)[name].labels_N
    shares = np.bincount(load_digits().target) / 1797
    counts = torch.bincount(labels, minlength=10).numpy()
    assert np.abs(counts - shares * len(labels)).max() <= 2


def test_the_split_of_digits_is_frozen() -> None:
    """Records are comparable only while everybody tests on the same images, in this order."""
    labels = load_splits(DIGITS)["test"].labels_N.numpy().astype(np.uint8)
    assert hashlib.sha256(labels.tobytes()).hexdigest()[:16] == "316d8a35ce569252"


def test_another_split_seed_is_another_split() -> None:
    one, other = (load_splits(replace(DIGITS, split_seed=seed))["test"] for seed in (0, 1))
    assert not torch.equal(one.labels_N, other.labels_N)


def test_images_are_normalised_over_the_training_images(npz: WriteNpz) -> None:
    generator = np.random.default_rng(1)
    images = generator.normal([[[[5]], [[-3]]]], [[[[2]], [[10]]]], size=(40, 2, 6, 6))
    data = npz(images, channels=2)
    splits = load_splits(data)
    train = splits["train"].images_NCHW
    torch.testing.assert_close(train.mean(dim=(0, 2, 3)), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(train.std(dim=(0, 2, 3)), torch.ones(2), rtol=1e-4, atol=0)
    test = splits["test"].images_NCHW
    assert test.mean(dim=(0, 2, 3)).abs().min() > 1e-3  # the test images have no say
    raw = np.sort(images[:, 0].ravel())
    ours = torch.cat([split.images_NCHW[:, 0].flatten() for split in splits.values()]).sort().values
    slope, _ = np.polyfit(raw, ours.numpy(), 1)
    np.testing.assert_allclose(ours.numpy(), slope * (raw - raw[0]) + ours[0].item(), atol=1e-4)


def test_a_constant_image_set_stays_finite(npz: WriteNpz) -> None:
    splits = load_splits(npz(np.full((40, 6, 6), 7)))
    assert all(not split.images_NCHW.any() for split in splits.values())


@pytest.mark.parametrize(
    "shape",
    [pytest.param((40, 6, 6), id="grey"), pytest.param((40, 3, 6, 6), id="with channels")],
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_npz_takes_images_with_and_without_channels(
    npz: WriteNpz, shape: tuple[int, ...], dtype: type
) -> None:
    images = (np.random.default_rng(0).random(shape) * 255).astype(dtype)
    channels = shape[1] if len(shape) == 4 else 1
    train = load_splits(npz(images, channels=channels))["train"]
    assert train.images_NCHW.shape == (20, channels, 6, 6)
    assert (train.images_NCHW.dtype, train.labels_N.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("size", [4, 12])
@pytest.mark.parametrize(
    "shape", [pytest.param((40, 6, 6), id="square"), pytest.param((40, 6, 12), id="rectangular")]
)
def test_images_are_resized(npz: WriteNpz, shape: tuple[int, ...], size: int) -> None:
    images = np.random.default_rng(0).random(shape)
    splits = load_splits(npz(images, image_size=size))
    assert {split.images_NCHW.shape[1:] for split in splits.values()} == {(1, size, size)}


def test_npz_is_identified_by_content(npz: WriteNpz) -> None:
    data = npz()
    before = fingerprint(data)
    with np.load(str(data.path)) as archive:
        arrays = dict(archive)
    np.savez_compressed(str(data.path), **arrays)
    assert fingerprint(data) == before
    for changed in (
        {**arrays, "images": arrays["images"] + 1},
        {**arrays, "labels": arrays["labels"][::-1]},
    ):
        np.savez(str(data.path), **changed)
        assert fingerprint(data) != before


def with_value(value: complex) -> np.ndarray:
    """Images of which number 33 has one other value."""
    images = np.zeros((40, 6, 6), dtype=type(value) if isinstance(value, complex) else float)
    images[33, 2, 3] = value
    return images


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        pytest.param({"channels": 3}, "data npz: data.channels is 3, but the images have 1.",
                     id="channels"),
        pytest.param({"num_classes": 3, "labels": np.arange(40) % 4},
                     "data npz: data.num_classes is 3, but the labels run from 0 to 3.",
                     id="too many classes"),
        pytest.param({"labels": np.arange(40) % 2 - 1},
                     "data npz: data.num_classes is 2, but the labels run from -1 to 0.",
                     id="negative label"),
        pytest.param({"num_test": 40}, "data npz cannot be split into 40 test, 8 validation and "
                     "some training images: ", id="nothing left to train on"),
        pytest.param({"labels": np.arange(39) % 2}, "expected images (N, H, W) or (N, C, H, W) and "
                     "labels (N,), but got (40, 1, 6, 6) and (39,).", id="a label too few"),
        pytest.param({"images": np.zeros((40, 36))}, "expected images (N, H, W) or (N, C, H, W) "
                     "and labels (N,), but got (40, 36) and (40,).", id="flat images"),
        pytest.param({"images": np.zeros((0, 6, 6))}, "data", id="no images"),
        pytest.param({"labels": np.array(["cat", "dog"] * 20)}, "labels", id="labels are words"),
        pytest.param({"labels": np.arange(40) % 2 + 0.5}, "labels", id="labels are fractions"),
        pytest.param({"images": with_value(np.nan)}, "image 33 (counted from 0) has a value that "
                     "is NaN; correct or remove it.", id="NaN"),
        pytest.param({"images": with_value(-np.inf)}, "image 33 (counted from 0) has a value that "
                     "is infinite in float32; correct or remove it.", id="infinite"),
        pytest.param({"images": with_value(1e300)}, "image 33 (counted from 0) has a value that "
                     "is infinite in float32", id="too large for float32"),
        pytest.param({"images": with_value(2j)}, "images are complex (complex128, image 33 with an "
                     "imaginary part); save", id="complex"),
        pytest.param({"images": np.zeros((40, 6, 6), complex)}, "images are complex (complex128); "
                     "save", id="complex type of real numbers"),
        pytest.param({"images": np.full((40, 6, 6), "a")}, "images must be numbers, but are <U1.",
                     id="images of words"),
        pytest.param({"labels": np.arange(40) // 39}, "data npz: class 1 has 1 image, too few for "
                     "a split into train, validation and test", id="class of one image"),
    ],
)  # fmt: skip
def test_arrays_that_are_not_what_the_config_says_are_refused(
    npz: WriteNpz, written: dict[str, object], sentence: str
) -> None:
    data = npz(**written)
    with pytest.raises(PfstudyError) as caught:
        load_splits(data)
    assert sentence in str(caught.value)


def write_text(path: Path) -> None:
    path.write_text("no archive")


def write_other_arrays(path: Path) -> None:
    np.savez(path, x=np.zeros(3))


def write_objects(path: Path) -> None:
    np.savez(path, images=np.array([{}, {}]), labels=np.zeros(2))


def write_one_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros((4, 6, 6)))


def write_truncated(path: Path) -> None:
    np.savez(path, images=np.zeros((40, 6, 6)), labels=np.zeros(40))
    path.write_bytes(path.read_bytes()[:-50])


def write_empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "write",
    [write_text, write_other_arrays, write_objects, write_one_array, write_truncated, write_empty],
    ids=lambda write: write.__name__.removeprefix("write_"),
)
def test_a_file_that_is_no_archive_is_refused(npz: WriteNpz, write: Callable[[Path], None]) -> None:
    data = npz()
    write(Path(str(data.path)))
    with pytest.raises(PfstudyError, match=r"^data\.path=\S+ is no NumPy archive with the arrays"):
        load_splits(data)


def test_a_file_that_does_not_exist_is_named() -> None:
    data = replace(DIGITS, name="npz", path="nowhere.npz")
    with pytest.raises(PfstudyError, match=r"^data\.path=nowhere\.npz cannot be read: No such"):
        fingerprint(data)
    with pytest.raises(PfstudyError, match=r"^data\.path=nowhere\.npz"):
        load_splits(data)


def test_npz_needs_a_path() -> None:
    with pytest.raises(PfstudyError, match=r"^data=npz needs data\.path=FILE\.$"):
        load_splits(replace(DIGITS, name="npz"))


def test_an_unknown_dataset_lists_the_choices() -> None:
    with pytest.raises(PfstudyError) as caught:
        load_splits(replace(DIGITS, name="digit"))
    assert str(caught.value) == (
        "dataset 'digit' does not exist; choose from: cifar10, cifar100, digits, imagefolder, "
        "imagenet, npz, stl10, svhn, synthetic. Did you mean 'digits'?"
    )


def test_synthetic_images_have_the_sizes_of_the_config() -> None:
    data = compose("data=synthetic", "data.image_size=9", "data.channels=2").data
    splits = load_splits(data)
    assert {name: tuple(s.images_NCHW.shape) for name, s in splits.items()} == {
        "train": (64, 2, 9, 9),
        "validation": (32, 2, 9, 9),
        "test": (32, 2, 9, 9),
    }
    labels = torch.cat([split.labels_N for split in splits.values()])
    assert labels.min() >= 0
    assert labels.max() < data.num_classes


def test_synthetic_images_are_random_and_the_same_for_a_seed() -> None:
    data = compose("data=synthetic").data
    one, again = (load_splits(data)["train"].images_NCHW for _ in range(2))
    assert torch.equal(one, again)
    other = load_splits(replace(data, split_seed=1))["train"].images_NCHW
    assert not torch.equal(one, other)
    assert len(one.unique()) > 0.99 * one.numel()


def test_synthetic_images_need_a_number() -> None:
    data = replace(compose("data=synthetic").data, num_train=None)
    with pytest.raises(PfstudyError, match=r"^data=synthetic needs data\.num_train=NUMBER\.$"):
        load_splits(data)


def test_the_number_of_synthetic_images_is_part_of_their_identity() -> None:
    data = compose("data=synthetic").data
    assert fingerprint(data) != fingerprint(replace(data, num_train=65))


def test_every_epoch_has_an_order_of_its_own_that_the_seed_fixes() -> None:
    def epochs(seed: int) -> list[list[int]]:
        order, drawn = EpochOrder(50, seed), []
        for epoch in (0, 1, 2, 1):
            order.set_epoch(epoch)
            drawn.append(order.draw().tolist())
        return drawn

    first, second, third, second_again = epochs(seed=3)
    assert second == second_again
    assert len({tuple(epoch) for epoch in (first, second, third)}) == 3
    assert all(sorted(epoch) == list(range(50)) for epoch in (first, second, third))
    assert epochs(seed=3)[0] == first
    assert epochs(seed=1003)[0] != first


def test_the_order_does_not_depend_on_the_global_generator() -> None:
    torch.manual_seed(0)
    one = EpochOrder(50, seed=3).draw()
    torch.manual_seed(1)
    assert torch.equal(EpochOrder(50, seed=3).draw(), one)
