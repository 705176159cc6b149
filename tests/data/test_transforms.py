from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from timm.data import create_transform

from pfstudy.data.transforms import make_transform, seeded
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data
from pfstudy.schema.recipe import Augmentation

DATA = Data("imagefolder", 16, 3, 2, 0, crop_fraction=0.875, interpolation="bicubic",
            mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))  # fmt: skip
GREY = Data("imagefolder", 16, 1, 2, 0, crop_fraction=0.875, interpolation="bicubic",
            mean=(0.4,), std=(0.2,))  # fmt: skip
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
STRONG = "rand-m9-mstd0.5-inc1"


def drawn(transform: Callable[[Image.Image], torch.Tensor], count: int = 20) -> torch.Tensor:
    images = []
    for number in range(count):
        with seeded(str(number)):
            images.append(transform(NOISE))
    return torch.stack(images)


def training(data: Data = DATA, **augmentation: Any) -> Callable[[Image.Image], torch.Tensor]:
    return make_transform(data, Augmentation(**augmentation), training=True)


def test_default_is_timms_crop_and_flip() -> None:
    reference = create_transform(16, is_training=True, interpolation="bicubic", color_jitter=None,
                                 normalize=False)  # fmt: skip
    assert torch.equal(drawn(training()), drawn(reference))


@pytest.mark.parametrize(
    ("augmentation", "reference"),
    [
        pytest.param({"flip": False}, {"hflip": 0.0}, id="no flip"),
        pytest.param({"crop_scale": (0.5, 1)}, {"scale": (0.5, 1)}, id="crop_scale"),
        pytest.param({"color_jitter": 0.4}, {"color_jitter": 0.4}, id="color_jitter"),
        pytest.param({"train_image_size": 12}, {"input_size": 12}, id="train_image_size"),
    ],
)
def test_settings_are_those_of_timm(
    augmentation: dict[str, Any], reference: dict[str, Any]
) -> None:
    settings = {"input_size": 16, "color_jitter": None, **reference}
    timms = create_transform(**settings, is_training=True, interpolation="bicubic", normalize=False)
    found = drawn(training(**augmentation))
    assert torch.equal(found, drawn(timms))
    assert found.shape != drawn(training()).shape or not torch.equal(found, drawn(training()))


def test_evaluation_knows_no_augmentation() -> None:
    strong = Augmentation(random_augment=STRONG, train_image_size=12, crop_scale=(0.1, 0.2))
    found = make_transform(DATA, strong, training=False)(NOISE)
    assert torch.equal(found, make_transform(DATA, training=False)(NOISE))
    assert found.shape == (3, 16, 16)


class TestRandomAugment:
    def test_depends_on_the_seed_alone(self) -> None:
        np.random.seed(0)
        first = drawn(training(random_augment=STRONG))
        np.random.seed(1)
        assert torch.equal(drawn(training(random_augment=STRONG)), first)
        assert not torch.equal(first, drawn(training()))

    def test_operations_differ_between_images(self) -> None:
        """Nothing but the operations is drawn: crops are whole and never flipped."""
        whole = {"crop_scale": (1, 1), "flip": False}
        images = drawn(training(random_augment=STRONG, **whole), 30)
        assert len({image.numpy().tobytes() for image in images}) > 15

    def test_numpys_generator_is_left_alone(self) -> None:
        before = np.random.get_state()[1].tolist()  # type: ignore[index]
        drawn(training(random_augment=STRONG), 2)
        assert np.random.get_state()[1].tolist() == before  # type: ignore[index]

    @pytest.mark.parametrize("data", [DATA, GREY], ids=["colour", "grey"])
    @pytest.mark.parametrize(
        "asked", [STRONG, "rand-m10-n9-inc1", "rand-m15-n5-mmax20-tweights", "rand-t3a"]
    )
    def test_every_operation_works(self, data: Data, asked: str) -> None:
        transform = training(data, random_augment=asked)
        image = NOISE.convert("L" if data.channels == 1 else "RGB")
        for number in range(300):
            with seeded(str(number)):
                assert transform(image).shape == (data.channels, 16, 16)

    def test_posterising_to_no_bits_is_black(self) -> None:
        """At magnitude 10, 4 bits less than 4 stay; with one operation of each image it happens."""
        images = drawn(training(random_augment="rand-m10-n1-inc1", flip=False), 300)
        assert any((image == 0).all() for image in images)
        assert np.asarray(ImageOps.posterize(NOISE, 1)).max() == 128

    @pytest.mark.parametrize(
        "asked", ["rand-x9", "m9", "augmix-m5", "rand-m9-mstd", "rand-m9,inc1", "rand-tnone", ""]
    )
    def test_malformed(self, asked: str) -> None:
        with pytest.raises(PfstudyError) as caught:
            training(random_augment=asked)
        assert str(caught.value) == (
            f"recipe.augmentation.random_augment is {asked!r}; expected what timm takes, such as "
            "rand-m9-mstd0.5-inc1."
        )


@pytest.mark.parametrize(
    ("augmentation", "sentence"),
    [
        pytest.param({"crop_scale": (0.5, 0.1)}, "recipe.augmentation.crop_scale is [0.5, 0.1]; "
                     "expected the least", id="descending"),
        pytest.param({"crop_scale": (0.5, 2)}, "recipe.augmentation.crop_scale is [0.5, 2.0]; "
                     "expected the least", id="more than all"),
        pytest.param({"random_augment": STRONG, "color_jitter": 0.4}, "recipe.augmentation has "
                     "random_augment and color_jitter, but timm leaves", id="one leaves the other"),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit(augmentation: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        training(**augmentation)
    assert str(caught.value).startswith(sentence)


def test_generators_are_left_alone() -> None:
    before = random.getstate(), torch.get_rng_state()
    drawn(training(random_augment=STRONG, crop_scale=(0.1, 1)), 3)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
