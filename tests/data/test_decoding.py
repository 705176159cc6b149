from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfstudy.data.decoding import decode_image, shrink_image
from pfstudy.errors import PfstudyError


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(path: Path, channels: int) -> Image.Image:
    return decode_image(path.read_bytes(), path, channels)


class TestDecodeImage:
    """Against pixels that are written here, as each kind of file has them."""

    def test_colour_stays(self, tmp_path: Path) -> None:
        Image.fromarray(noise(5, 7, 3)).save(tmp_path / "image.png")
        np.testing.assert_array_equal(read(tmp_path / "image.png", 3), noise(5, 7, 3))

    def test_grey_becomes_three_equal_channels(self, tmp_path: Path) -> None:
        Image.fromarray(noise(5, 7)).save(tmp_path / "image.png")
        expected = np.repeat(noise(5, 7)[..., None], 3, axis=2)
        np.testing.assert_array_equal(read(tmp_path / "image.png", 3), expected)

    def test_grey_stays_grey(self, tmp_path: Path) -> None:
        Image.fromarray(noise(5, 7)).save(tmp_path / "image.png")
        np.testing.assert_array_equal(read(tmp_path / "image.png", 1), noise(5, 7))

    def test_colour_becomes_its_luminance(self, tmp_path: Path) -> None:
        Image.fromarray(noise(5, 7, 3)).save(tmp_path / "image.png")
        expected = noise(5, 7, 3) @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
        np.testing.assert_allclose(read(tmp_path / "image.png", 1), expected, atol=1)

    def test_opaque_alpha_changes_nothing(self, tmp_path: Path) -> None:
        pixels = np.dstack([noise(5, 7, 3), np.full((5, 7), 255, dtype=np.uint8)])
        Image.fromarray(pixels).save(tmp_path / "image.png")
        np.testing.assert_array_equal(read(tmp_path / "image.png", 3), pixels[..., :3])

    @pytest.mark.parametrize(("background", "value"), [("white", 255), ("black", 0)])
    @pytest.mark.parametrize("channels", [1, 3])
    def test_transparency_shows_the_background(
        self, tmp_path: Path, background: str, value: int, channels: int
    ) -> None:
        grey, alpha = noise(5, 7), noise(2, 5, 7)[1]
        Image.fromarray(np.dstack([grey, grey, grey, alpha])).save(tmp_path / "image.png")
        content = (tmp_path / "image.png").read_bytes()
        image = np.asarray(decode_image(content, "image.png", channels, background))
        expected = (grey * (alpha / 255) + value * (1 - alpha / 255)).reshape(5, 7, 1)
        np.testing.assert_allclose(
            image.reshape(5, 7, channels), expected.repeat(channels, axis=2), atol=1
        )

    def test_clear_colours_show_the_background(self, tmp_path: Path) -> None:
        palette = Image.fromarray(noise(5, 7) % 4).convert("P")
        palette.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120])
        palette.save(tmp_path / "palette.png", transparency=2)
        image = np.asarray(read(tmp_path / "palette.png", 3))
        np.testing.assert_array_equal((image == 255).all(axis=2), noise(5, 7) % 4 == 2)

        deep = (noise(5, 7) % 4).astype(np.uint16) * 16000
        Image.fromarray(deep).save(tmp_path / "deep.png", transparency=16000)
        expected = np.where(deep == 16000, 255, deep // 256)
        np.testing.assert_array_equal(read(tmp_path / "deep.png", 1), expected)

    @pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize(
        ("orientation", "store"),
        [  # what is stored of an upright picture (EXIF 2.3, 4.6.4A: where row and column 0 lie)
            pytest.param(1, lambda upright: upright, id="1"),
            pytest.param(2, lambda upright: upright[:, ::-1], id="2"),
            pytest.param(3, lambda upright: upright[::-1, ::-1], id="3"),
            pytest.param(4, lambda upright: upright[::-1], id="4"),
            pytest.param(5, lambda upright: upright.swapaxes(0, 1), id="5"),
            pytest.param(6, lambda upright: upright.swapaxes(0, 1)[::-1], id="6"),
            pytest.param(7, lambda upright: upright[::-1, ::-1].swapaxes(0, 1), id="7"),
            pytest.param(8, lambda upright: upright[::-1].swapaxes(0, 1), id="8"),
        ],
    )
    def test_exif_orientation_is_respected(
        self,
        tmp_path: Path,
        kind: str,
        orientation: int,
        store: Callable[[np.ndarray], np.ndarray],
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = np.ascontiguousarray(store(noise(5, 7, 3)))
        options = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(stored).save(tmp_path / "image", kind, exif=exif, **options)
        np.testing.assert_array_equal(read(tmp_path / "image", 3), noise(5, 7, 3))

    @pytest.mark.parametrize("bit_depth", [8, 10, 12, 16])
    def test_fewer_than_16_bits_use_the_whole_range(self, tmp_path: Path, bit_depth: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 2**bit_depth, (5, 7), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        content = (tmp_path / "image.png").read_bytes()
        image = np.asarray(decode_image(content, "image.png", 1, bit_depth=bit_depth))
        np.testing.assert_array_equal(image, pixels // 2 ** (bit_depth - 8))

    def test_palette_is_looked_up(self, tmp_path: Path) -> None:
        image = Image.fromarray(noise(5, 7) % 4, mode=None).convert("P")
        colours = [10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120]
        image.putpalette(colours)
        image.save(tmp_path / "image.png")
        expected = np.array(colours, dtype=np.uint8).reshape(4, 3)[noise(5, 7) % 4]
        np.testing.assert_array_equal(read(tmp_path / "image.png", 3), expected)

    def test_four_inks_become_three_colours(self, tmp_path: Path) -> None:
        Image.new("CMYK", (7, 5), (255, 0, 0, 0)).save(tmp_path / "image.jpg")
        image = np.asarray(read(tmp_path / "image.jpg", 3))
        np.testing.assert_allclose(image, np.broadcast_to([0, 255, 255], (5, 7, 3)), atol=4)

    @pytest.mark.parametrize("channels", [1, 3])
    def test_of_16_bits_the_upper_stay(self, tmp_path: Path, channels: int) -> None:
        pixels = np.random.default_rng(0).integers(0, 2**16, (5, 7), dtype=np.uint16)
        Image.fromarray(pixels).save(tmp_path / "image.png")
        image = np.asarray(read(tmp_path / "image.png", channels))
        np.testing.assert_array_equal(image.reshape(5, 7, channels)[..., 0], pixels // 256)

    @pytest.mark.parametrize("extension", ["jpg", "bmp", "webp", "tif", "gif", "JPEG"])
    def test_other_formats(self, tmp_path: Path, extension: str) -> None:
        Image.new("RGB", (7, 5), (200, 100, 50)).save(tmp_path / f"image.{extension}")
        image = np.asarray(read(tmp_path / f"image.{extension}", 3))
        np.testing.assert_allclose(image, np.broadcast_to([200, 100, 50], (5, 7, 3)), atol=6)

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            pytest.param(b"", "{path} is empty: copied only in part? Copy it anew, or remove it.",
                         id="empty"),
            pytest.param(b"Once upon a time", "{path} is no image that Pillow knows; remove or "
                         "replace it.", id="text"),
            pytest.param("half", "{path} cannot be decoded: ", id="truncated"),
            pytest.param("damaged", "{path} cannot be decoded: ", id="damaged"),
            pytest.param("floats", "{path} has pixels of 32 bits; expected 8 or 16, convert it.",
                         id="32 bits"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("shrinks", [False, True], ids=["decoded", "shrunk"])
    def test_what_cannot_be_read_is_named(
        self, tmp_path: Path, content: bytes | str, sentence: str, shrinks: bool
    ) -> None:
        path = tmp_path / "image.png"
        Image.fromarray(noise(50, 70, 3)).save(path)
        whole = path.read_bytes()
        if content == "half":
            content = whole[: len(whole) // 2]
        elif content == "damaged":
            content = whole[:60] + bytes(100) + whole[160:]
        elif content == "floats":
            Image.fromarray(np.zeros((5, 7), dtype=np.float32)).save(path, format="tiff")
            content = path.read_bytes()
        assert isinstance(content, bytes)
        with pytest.raises(PfstudyError) as caught:
            shrink_image(content, path, 4, 90) if shrinks else decode_image(content, path, 3)
        assert str(caught.value).startswith(sentence.format(path=path))
        assert str(caught.value).count("\n") == 0

    def test_half_a_jpeg_is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "image.jpg"
        Image.fromarray(noise(50, 70, 3)).save(path)
        with pytest.raises(PfstudyError, match=r"image\.jpg cannot be decoded: .*truncated"):
            decode_image(path.read_bytes()[:900], path, 3)


class TestShrinkImage:
    def shrunk(self, path: Path, side: int) -> Image.Image:
        return Image.open(io.BytesIO(shrink_image(path.read_bytes(), path, side, 90)))

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            pytest.param((80, 40), (20, 10), id="wide"),
            pytest.param((40, 90), (10, 22), id="high"),
            pytest.param((11, 11), (10, 10), id="square"),
        ],
    )
    def test_shorter_side_is_as_asked(
        self, tmp_path: Path, size: tuple[int, int], expected: tuple[int, int]
    ) -> None:
        Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "image.png")
        image = self.shrunk(tmp_path / "image.png", 10)
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", expected)
        np.testing.assert_allclose(
            image, np.broadcast_to([200, 100, 50], (*expected[::-1], 3)), atol=6
        )

    def test_small_image_stays_as_it_is(self, tmp_path: Path) -> None:
        Image.fromarray(noise(10, 30)).save(tmp_path / "image.png")
        content = (tmp_path / "image.png").read_bytes()
        assert shrink_image(content, "image.png", 10, 90) == content

    def test_grey_stays_grey(self, tmp_path: Path) -> None:
        Image.fromarray(np.full((40, 40), 256 * 77, np.uint16)).save(tmp_path / "image.png")
        image = self.shrunk(tmp_path / "image.png", 10)
        assert image.mode == "L"
        np.testing.assert_allclose(image, 77, atol=2)
