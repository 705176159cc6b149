from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfstudy.data import contents, fingerprint, imagefolder
from pfstudy.data.contents import Contents, check_contents, inspect_file
from pfstudy.data.loading import describe_pixels
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

DescribeFolder = Callable[..., Data]
TRAIN_VAL = {"train/ape": 4, "train/bee": 4, "val/ape": 2, "val/bee": 2}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def encode(image: Image.Image, kind: str, orientation: int = 1, **options: object) -> bytes:
    file = io.BytesIO()
    if orientation != 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options["exif"] = exif
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return file.getvalue()


def deep(most: int) -> Image.Image:
    return Image.fromarray(np.array([[0, most // 2], [1, most]], dtype=np.uint16))


def deep_colour_png(most: int) -> bytes:
    """A PNG of one pixel with three colours of 16 bits, which Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" + struct.pack(">HHH", 0, 1, most))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def with_clear_pixel(mode: str) -> Image.Image:
    image = Image.fromarray(noise(3, 4, 4)).convert(mode)
    alpha = np.full((3, 4), 255, dtype=np.uint8)
    alpha[1, 2] = 0
    image.putalpha(Image.fromarray(alpha))
    return image


COLOUR, GREY = Image.fromarray(noise(3, 4, 3)), Image.fromarray(noise(3, 4))
OPAQUE = Image.fromarray(np.dstack([noise(3, 4, 3), np.full((3, 4), 255, dtype=np.uint8)]))
PALETTE = GREY.convert("P")


class TestInspectFile:
    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            pytest.param(encode(COLOUR, "JPEG"), {}, id="JPEG"),
            pytest.param(encode(COLOUR, "JPEG", comment=b"a" * 300), {}, id="JPEG with comment"),
            pytest.param(encode(COLOUR, "PNG"), {}, id="PNG"),
            pytest.param(encode(GREY, "PNG"), {}, id="grey PNG"),
            pytest.param(encode(PALETTE, "PNG"), {}, id="palette"),
            pytest.param(encode(COLOUR.convert("CMYK"), "JPEG"), {}, id="four inks"),
            pytest.param(encode(OPAQUE, "PNG"), {}, id="opaque alpha"),
            pytest.param(encode(COLOUR, "TIFF", 6), {}, id="TIFF, which Pillow turns"),
            pytest.param(encode(COLOUR, "JPEG", 9), {}, id="no orientation"),
            pytest.param(b"", {}, id="empty file"),
            pytest.param(b"text", {}, id="no image"),
            pytest.param(encode(COLOUR, "JPEG", 6)[:40], {}, id="half a head"),
            pytest.param(encode(COLOUR, "JPEG", 6), {"num_turned": 1}, id="JPEG, turned"),
            pytest.param(encode(COLOUR, "PNG", 3), {"num_turned": 1}, id="PNG, turned"),
            pytest.param(encode(COLOUR, "WEBP", 8), {"num_turned": 1}, id="WebP, turned"),
            pytest.param(encode(with_clear_pixel("RGB"), "PNG"), {"num_transparent": 1},
                         id="colour and alpha"),
            pytest.param(encode(with_clear_pixel("L"), "PNG"), {"num_transparent": 1},
                         id="grey and alpha"),
            pytest.param(encode(PALETTE, "PNG", transparency=int(noise(3, 4)[0, 0])),
                         {"num_transparent": 1}, id="clear entry of a palette"),
            pytest.param(encode(deep(4095), "PNG"), {"num_deep": 1, "most_deep": 4095},
                         id="16 bits, PNG"),
            pytest.param(encode(deep(65535), "TIFF"), {"num_deep": 1, "most_deep": 65535},
                         id="16 bits, TIFF"),
            pytest.param(deep_colour_png(4095), {"num_deep_colour": 1, "most_deep_colour": 15},
                         id="16 bits per colour"),
        ],
    )  # fmt: skip
    def test_finds(self, tmp_path: Path, content: bytes, expected: dict[str, int]) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "image").write_bytes(content)
        found = contents.inspect_images([imagefolder.list_images(tmp_path, ["a"])])
        assert found == Contents(num_images=1, **expected)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG"])
    def test_plain_files_do_not_need_pillow(
        self, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        content = encode(COLOUR, kind)
        monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("opened"))
        assert inspect_file(io.BytesIO(content)) == Contents(1)


class TestFingerprint:
    def change_one(self, data: Data, content: bytes) -> None:
        (Path(str(data.path)) / "val" / "bee" / "000.png").write_bytes(content)

    @pytest.mark.parametrize(
        ("content", "is_new"),
        [
            pytest.param(encode(COLOUR, "JPEG"), False, id="plain"),
            pytest.param(encode(OPAQUE, "PNG"), False, id="opaque"),
            pytest.param(encode(deep(65535), "PNG"), False, id="16 bits"),
            pytest.param(encode(COLOUR, "JPEG", 6), True, id="turned"),
            pytest.param(encode(with_clear_pixel("RGB"), "PNG"), True, id="transparent"),
        ],
    )
    def test_is_new_where_images_are_read_differently(
        self,
        describe_folder: DescribeFolder,
        monkeypatch: pytest.MonkeyPatch,
        content: bytes,
        is_new: bool,
    ) -> None:
        data = describe_folder(TRAIN_VAL)
        self.change_one(data, content)
        now = fingerprint(data)
        monkeypatch.setattr(imagefolder, "_reading", lambda data: b"")
        assert (fingerprint(data) != now) == is_new

    def test_large_folders_are_inspected_once(
        self,
        describe_folder: DescribeFolder,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(contents, "_FEWEST_CACHED", 10)
        data = describe_folder(TRAIN_VAL)
        first = imagefolder.inspect(data)
        assert first == Contents(num_images=12)
        with monkeypatch.context() as patch:
            patch.setattr(contents, "inspect_file", lambda file: pytest.fail("again"))
            assert imagefolder.inspect(data) == first
        self.change_one(data, encode(COLOUR, "JPEG", 6))
        assert imagefolder.inspect(data) == Contents(num_images=12, num_turned=1)


class TestCheckContents:
    @pytest.mark.parametrize(
        ("found", "bit_depth", "notes"),
        [
            pytest.param(Contents(5), None, [], id="nothing unusual"),
            pytest.param(
                Contents(5, num_turned=1), None,
                ["1 of 5 images is turned upright, as their EXIF orientation says"], id="turned"),
            pytest.param(
                Contents(5, num_transparent=5), None, ["5 of 5 images are transparent in part, and "
                "shown on white (data.background)"], id="transparent"),
            pytest.param(
                Contents(5, num_deep=5, most_deep=4080), None, ["5 of 5 images are of 16 bits, but "
                "hold values up to 4,080 of 65,535, as 12-bit ones do, and are dark; "
                "data.bit_depth=12 uses the whole range"], id="12 bits"),
            pytest.param(Contents(5, num_deep=5, most_deep=4080), 12, [], id="12 bits, as said"),
            pytest.param(Contents(5, num_deep=5, most_deep=4080), 16, [], id="16 bits, as said"),
            pytest.param(Contents(5, num_deep=5, most_deep=40000), None, [], id="16 bits"),
            pytest.param(
                Contents(5, num_deep_colour=2, most_deep_colour=15), None, ["2 of 5 images are of "
                "16 bits per colour, but use about 12; Pillow reads the upper 8 alone, so that "
                "they are almost black: convert them to 8-bit files"], id="12 bits per colour"),
        ],
    )  # fmt: skip
    def test_says(self, found: Contents, bit_depth: int | None, notes: list[str]) -> None:
        assert check_contents(found, bit_depth, "white") == notes

    @pytest.mark.parametrize(
        ("most", "bit_depth", "sentence"),
        [
            pytest.param(200, None, "read as 16 bits, they are black; give data.bit_depth=8, or "
                         "data.bit_depth=16 if they are meant to be.", id="black"),
            pytest.param(5000, 12, "data.bit_depth is 12, but 16-bit images hold values up to "
                         "5,000; give data.bit_depth=13.", id="too bright"),
        ],
    )  # fmt: skip
    def test_refuses(self, most: int, bit_depth: int | None, sentence: str) -> None:
        with pytest.raises(PfstudyError) as caught:
            check_contents(Contents(5, num_deep=5, most_deep=most), bit_depth, "white")
        assert str(caught.value).endswith(sentence)

    def test_of_a_folder(self, describe_folder: DescribeFolder) -> None:
        data = describe_folder({**TRAIN_VAL, "train/cow": 2}, num_validation=3)
        path = Path(str(data.path)) / "val" / "ape" / "000.png"
        path.write_bytes(encode(deep(1023), "PNG"))
        first, second = describe_pixels(data)
        assert "data.bit_depth=10" in first
        assert second == f"{data.path}/val has no images of 'cow', whose accuracy stays unknown"
        assert describe_pixels(replace(data, bit_depth=10)) == [second]
