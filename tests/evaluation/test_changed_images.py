"""Corruptions, attacks and occlusions: what they do to images, against references."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from pfstudy.errors import PfstudyError
from pfstudy.evaluation.attacks import attack, gradient_sign
from pfstudy.evaluation.cases import CORRUPTIONS
from pfstudy.evaluation.corruptions import Corruptor, corrupt
from pfstudy.evaluation.occlusion import occlude, patch_side


def draw(size: int, channels: int, number: int = 3) -> np.ndarray:
    """Smooth images, on which blur and JPEG do less than noise."""
    generator = np.random.default_rng(1)
    coarse = generator.integers(0, 256, (number, 4, 4, channels), dtype=np.uint8)
    large = [
        np.stack(
            [
                np.asarray(
                    Image.fromarray(one[..., c]).resize((size, size), Image.Resampling.BICUBIC)
                )
                for c in range(channels)
            ],
            -1,
        )
        for one in coarse
    ]
    return np.stack(large)


class TestCorruptions:
    def test_are_those_of_the_package(self) -> None:
        package = importlib.import_module("imagecorruptions")
        assert package.get_corruption_names("common") == list(CORRUPTIONS)

    @pytest.mark.parametrize("name", CORRUPTIONS)
    @pytest.mark.parametrize(("size", "channels"), [(8, 1), (40, 3)], ids=["8 grey", "40 colour"])
    def test_are_the_same_each_time_and_grow(self, name: str, size: int, channels: int) -> None:
        images = draw(size, channels)
        np.random.seed(0)
        first = [[corrupt(x, name, s, i) for i, x in enumerate(images)] for s in (1, 5)]
        np.random.seed(7)  # which is nothing to it
        state = np.random.get_state()[1]
        second = [[corrupt(x, name, s, i) for i, x in enumerate(images)] for s in (1, 5)]
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(np.random.get_state()[1], state)
        changes = [np.abs(np.stack(some).astype(float) - images).mean() for some in first]
        assert 0 < changes[0] < changes[1]
        assert first[0][0].shape == images[0].shape
        assert first[0][0].dtype == np.uint8

    @pytest.mark.parametrize("name", ["gaussian_noise", "impulse_noise", "glass_blur", "frost"])
    def test_differ_from_image_to_image(self, name: str) -> None:
        image = draw(32, 3)[0]
        assert (corrupt(image, name, 3, 0) != corrupt(image, name, 3, 1)).any()

    def test_of_large_images_are_those_that_the_package_makes(self) -> None:
        package = importlib.import_module("imagecorruptions")
        image = draw(48, 3)[0]
        for name in ("defocus_blur", "zoom_blur", "contrast", "pixelate", "jpeg_compression"):
            expected = package.corrupt(image, 4, name)  # none of these draws
            np.testing.assert_array_equal(corrupt(image, name, 4, 9), expected)

    def test_noise_of_grey_images_is_as_strong_as_of_colour(self) -> None:
        grey = np.full((64, 64, 1), 128, np.uint8)
        noise = corrupt(grey, "gaussian_noise", 2, 0).astype(float) / 255
        assert noise.std() == pytest.approx(0.12, rel=0.05)  # of the published definition

    def test_of_a_batch_are_those_of_its_images(self) -> None:
        images = draw(8, 1, number=5)
        pixels_NCHW = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        with Corruptor(2) as corruptor:
            found = corruptor.corrupt(pixels_NCHW, 10, "snow", 2)
            with pytest.raises(PfstudyError, match="1 or 3 channels, but these have 2"):
                corruptor.corrupt(torch.zeros(1, 2, 8, 8), 0, "snow", 2)
        expected = np.stack([corrupt(x, "snow", 2, 10 + i) for i, x in enumerate(images)])
        np.testing.assert_array_equal(found.permute(0, 2, 3, 1) * 255, expected)


class TestAttack:
    def test_goes_where_the_gradient_of_a_linear_network_does(self) -> None:
        generator = torch.Generator().manual_seed(0)
        weight_KD = torch.randn(3, 12, generator=generator)
        pixels = torch.rand(5, 3, 2, 2, generator=generator)
        labels = torch.tensor([0, 1, 2, 0, 1])
        mean, std = 0.4, 0.2

        def logits_of(x: torch.Tensor) -> torch.Tensor:
            return ((x - mean) / std).flatten(1) @ weight_KD.T

        error_NK = logits_of(pixels).softmax(1) - functional.one_hot(labels, 3)
        expected = (error_NK @ weight_KD / std).sign().view_as(pixels)
        with torch.no_grad():
            found = gradient_sign(logits_of, pixels, labels)
        torch.testing.assert_close(found, expected)

    def test_changes_values_by_epsilon_within_their_range(self) -> None:
        pixels = torch.tensor([0.0, 0.5, 0.99, 1.0]).view(1, 1, 2, 2)
        sign = torch.tensor([-1.0, 1.0, 1.0, -1.0]).view(1, 1, 2, 2)
        found = attack(pixels, sign, 5.1)
        torch.testing.assert_close(found.flatten(), torch.tensor([0.0, 0.52, 1.0, 0.98]))
        assert pixels[0, 0, 0, 1] == 0.5


class TestOcclusion:
    @pytest.mark.parametrize(
        ("size", "side"), [(8, 1), (28, 2), (32, 2), (64, 5), (224, 16)], ids=str
    )
    def test_takes_the_share_of_patches_away(self, size: int, side: int) -> None:
        assert patch_side(size) == side
        pixels = torch.full((4, 3, size, size), 0.5)
        fill_C11 = torch.tensor([0.1, 0.2, 0.3]).view(-1, 1, 1)
        found = occlude(pixels, 0, 30, fill_C11)
        is_filled = (found == fill_C11).all(1)
        assert (is_filled | (found == 0.5).all(1)).all()
        corners = is_filled[:, ::side, ::side]
        assert corners.flatten(1).sum(1).tolist() == [round(0.3 * corners[0].numel())] * 4
        whole = corners.repeat_interleave(side, 1).repeat_interleave(side, 2)
        assert (whole[:, :size, :size] == is_filled).all()

    def test_depends_on_the_number_of_the_image_alone(self) -> None:
        pixels = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        fill_C11 = torch.full((1, 1, 1), 2.0)
        found = occlude(pixels, 5, 50, fill_C11) == 2
        assert torch.equal(occlude(pixels[1:], 6, 50, fill_C11) == 2, found[1:])
        assert not torch.equal(found[0], found[1])
        more = occlude(pixels, 5, 70, fill_C11) == 2
        assert (more | ~found).all()  # a larger share takes those of a smaller one
