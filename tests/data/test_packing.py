from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset import WebDataset

from pfstudy.data import fingerprint, packing
from pfstudy.data.imagefolder import inspect, list_splits, list_test
from pfstudy.data.loading import count_training_images, make_loaders
from pfstudy.data.packed import open_packed
from pfstudy.data.packing import pack
from pfstudy.errors import DiskError, PfstudyError
from pfstudy.schema.config import Data

DescribeFolder = Callable[..., Data]
CPU = torch.device("cpu")
TRAIN_VAL = {"train/ape": 8, "train/bee": 12, "val/ape": 3, "val/bee": 4}
WITH_TEST = {**TRAIN_VAL, "test/ape": 2, "test/bee": 3}
HEAP = {"ape": 20, "bee": 10}
LAYOUTS = pytest.mark.parametrize(
    ("counts", "numbers"),
    [
        pytest.param(WITH_TEST, {}, id="three parts"),
        pytest.param(TRAIN_VAL, {"num_validation": 6}, id="two parts"),
        pytest.param(HEAP, {"num_validation": 6, "num_test": 6}, id="heap"),
    ],
)


def write_photos(data: Data) -> None:
    """Fill the files with noise that is 40 pixels wide, every other one a JPEG."""
    for number, path in enumerate(sorted(Path(str(data.path)).rglob("*.png"))):
        pixels = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path, "PNG" if number % 2 else "JPEG")


def packed(data: Data, tmp_path: Path, side: int | None = None) -> Data:
    pack(Path(str(data.path)), tmp_path / "packed", side)
    return replace(data, path=str(tmp_path / "packed"))


def batches_of(data: Data) -> list[torch.Tensor]:
    with make_loaders(data, 4, 4, 1, 2, CPU) as loaders:
        assert loaders.train.sampler is not None  # type: ignore[attr-defined]
        loaders.train.sampler.set_epoch(3)  # type: ignore[attr-defined]
        parts = (loaders.train, loaders.validation, loaders.test)
        return [tensor for part in parts for batch in part for tensor in batch]


class TestSameAsTheFolder:
    @LAYOUTS
    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_fingerprint_and_batches(
        self,
        describe_folder: DescribeFolder,
        tmp_path: Path,
        counts: dict[str, int],
        numbers: dict[str, int],
        num_workers: int,
    ) -> None:
        data = describe_folder(counts, num_workers=num_workers, **numbers)
        write_photos(data)
        copy = packed(data, tmp_path)
        expected, digest = batches_of(data), fingerprint(data)
        shutil.rmtree(str(data.path))
        assert fingerprint(copy) == digest
        found = batches_of(copy)
        assert len(found) == len(expected) > 6
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))

    def test_many_shards(
        self, describe_folder: DescribeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(packing, "_SHARD_BYTES", 5000)
        data = describe_folder(WITH_TEST)
        write_photos(data)
        copy = packed(data, tmp_path)
        assert len(list(Path(str(copy.path)).glob("train-*.tar"))) > 3
        pairs = zip(batches_of(data), batches_of(copy), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)

    def test_names_of_any_kind(self, describe_folder: DescribeFolder, tmp_path: Path) -> None:
        data = describe_folder(WITH_TEST)
        folder = Path(str(data.path), "test", "ape")
        (folder / "000.png").rename(folder / "é 100 % \n.b.c.png")
        (folder / "001.png").rename(folder / os.fsdecode(b"\xff" + 180 * b"x"))
        copy = packed(data, tmp_path)
        assert fingerprint(copy) == fingerprint(data)
        mine, theirs = list_test(copy), list_test(data)
        assert [mine.read(i) for i in range(5)] == [theirs.read(i) for i in range(5)]
        assert mine.path(0).name == theirs.path(0).name


class TestShards:
    @LAYOUTS
    def test_tar_unpacks_them_to_the_folder(
        self,
        describe_folder: DescribeFolder,
        tmp_path: Path,
        counts: dict[str, int],
        numbers: dict[str, int],
    ) -> None:
        data = describe_folder(counts, **numbers)
        for shard in Path(str(packed(data, tmp_path).path)).glob("*.tar"):
            with tarfile.open(shard) as tar:
                tar.extractall(tmp_path / "unpacked", filter="data")
        assert fingerprint(replace(data, path=str(tmp_path / "unpacked"))) == fingerprint(data)

    def test_webdataset_reads_them(self, describe_folder: DescribeFolder, tmp_path: Path) -> None:
        data = describe_folder(WITH_TEST)
        copy = packed(data, tmp_path)
        samples = list(WebDataset(f"{copy.path}/val-000000.tar", shardshuffle=False))
        listed = list_splits(data)["validation"]
        assert [sample["png"] for sample in samples] == [listed.read(i) for i in range(7)]
        assert [sample["__key__"] for sample in samples][2:4] == ["val/ape/002", "val/bee/000"]


class TestShrinking:
    def test_shorter_side_and_identity(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(WITH_TEST)
        write_photos(data)
        copy = packed(data, tmp_path, side=12)
        images = list_test(copy)
        for index in range(len(images)):
            image = Image.open(io.BytesIO(images.read(index)))
            assert (image.format, image.size) == ("JPEG", (16, 12))
        assert fingerprint(copy) != fingerprint(data)
        assert count_training_images(copy) == 20
        with tarfile.open(f"{copy.path}/test-000000.tar") as tar:
            assert tar.getnames()[0] == "test/ape/000.png.jpg"

    def test_unusual_images_are_shrunk_as_they_are_read(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(TRAIN_VAL, num_validation=6)
        root, pixels = Path(str(data.path)), np.zeros((30, 40, 4), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(pixels).save(root / "val" / "ape" / "000.png", exif=exif)
        deep = np.full((30, 40), 4080, dtype=np.uint16)
        Image.fromarray(deep).save(root / "val" / "ape" / "001.png")
        notes: list[str] = []
        pack(root, tmp_path / "packed", 12, bit_depth=12, background="black", note=notes.append)
        assert notes == [
            "1 of 27 images is turned upright, as their EXIF orientation says",
            "1 of 27 images is transparent in part, and shown on black (--background)",
        ]
        images = list_test(replace(data, path=str(tmp_path / "packed")))
        first, second = (Image.open(io.BytesIO(images.read(index))) for index in (0, 1))
        assert (first.size, first.getpixel((0, 0))) == ((12, 16), (0, 0, 0))
        assert (second.size, second.getpixel((0, 0))) == ((16, 12), 255)
        packed = open_packed(tmp_path / "packed")
        assert packed is not None
        assert packed.treatment == "side 12 quality 90 upright on black 12 bits"

    def test_bytes_that_stay_keep_orientation_and_identity(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(TRAIN_VAL, num_validation=6)
        exif = Image.Exif()
        exif[0x0112] = 6
        path = Path(str(data.path)) / "val" / "ape" / "000.png"
        Image.new("RGB", (12, 9)).save(path, exif=exif)
        copy = packed(data, tmp_path)
        assert fingerprint(copy) == fingerprint(data)
        assert inspect(copy).num_turned == 1

    def test_identity_says_that_images_may_have_been_shrunk(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(WITH_TEST)
        assert fingerprint(packed(data, tmp_path, side=500)) != fingerprint(data)

    def test_names_what_cannot_be_decoded(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(WITH_TEST)
        damaged = Path(str(data.path), "val", "bee", "002.png")
        damaged.write_text("no image")
        with pytest.raises(PfstudyError) as caught:
            packed(data, tmp_path, side=12)
        assert str(caught.value).startswith(f"{damaged} is no image that Pillow knows")
        assert {path.name for path in tmp_path.iterdir()} == {"images"}


class TestReading:
    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_damaged_image_is_named(
        self, describe_folder: DescribeFolder, tmp_path: Path, num_workers: int
    ) -> None:
        data = describe_folder(WITH_TEST, num_workers=num_workers)
        Path(str(data.path), "train", "bee", "002.png").write_text("no image")
        copy = packed(data, tmp_path)
        named = Path(str(copy.path), "train", "bee", "002.png")
        with pytest.raises(PfstudyError) as caught:
            batches_of(copy)
        assert str(caught.value).startswith(f"{named} is no image that Pillow knows")
        copy = replace(copy, on_error="skip")
        with closing(make_loaders(copy, 20, 4, 1, 2, CPU).train) as batches:
            list(batches)
            assert list(batches.skipped) == [str(named)]  # type: ignore[attr-defined]

    def test_shard_that_went_away_meanwhile(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        copy = packed(describe_folder(WITH_TEST), tmp_path)
        shard = Path(str(copy.path), "test-000000.tar")
        images, others = list_test(copy), list_test(copy)
        content = images.read(0)
        shard.unlink()
        assert images.read(0) == content
        with pytest.raises(PfstudyError) as caught:
            others.read(0)
        assert str(caught.value) == f"{shard} cannot be read: No such file or directory."


class TestDamage:
    @pytest.fixture
    def data(self, describe_folder: DescribeFolder, tmp_path: Path) -> Data:
        return packed(describe_folder(WITH_TEST), tmp_path)

    def sentence(self, data: Data) -> str:
        with pytest.raises(PfstudyError) as caught:
            fingerprint(data)
        with pytest.raises(PfstudyError) as again:
            list_splits(data)
        assert str(caught.value) == str(again.value)
        return str(caught.value).replace(str(data.path), "OUT")

    def rewrite(self, data: Data, **changes: np.ndarray) -> None:
        path = Path(str(data.path), "packed.npz")
        with np.load(path) as index:
            arrays = {**index, **changes}
        np.savez(path, **arrays)  # type: ignore[arg-type]

    def test_shard_missing(self, data: Data) -> None:
        Path(str(data.path), "val-000000.tar").unlink()
        assert self.sentence(data) == (
            "OUT/val-000000.tar cannot be read: No such file or directory."
        )

    def test_shard_copied_in_part(self, data: Data) -> None:
        shard = Path(str(data.path), "val-000000.tar")
        shard.write_bytes(shard.read_bytes()[:-1])
        assert self.sentence(data) == (
            "OUT/val-000000.tar has not the size that it was packed with: copy it anew."
        )

    def test_index_missing(self, data: Data) -> None:
        Path(str(data.path), "packed.npz").unlink()
        assert self.sentence(data).endswith("000000.tar, but no packed.npz: copy it anew.")

    @pytest.mark.parametrize("share", [0, 0.5, 0.99])
    def test_index_copied_in_part(self, data: Data, share: float) -> None:
        path = Path(str(data.path), "packed.npz")
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        assert self.sentence(data) == (
            "OUT/packed.npz is damaged: copy it anew, or pack the folder anew."
        )

    def test_index_of_another_version(self, data: Data) -> None:
        self.rewrite(data, version=np.array(2))
        assert self.sentence(data) == (
            "OUT/packed.npz was written by another version of pfstudy; pack it anew."
        )

    @pytest.mark.parametrize(
        "changes",
        [
            pytest.param({"parts": np.array(["train", "../val"])}, id="another part"),
            pytest.param({"train.labels": np.full(20, 2)}, id="label"),
            pytest.param({"train.labels": np.full(19, 0)}, id="too few labels"),
            pytest.param({"train.places": np.full((20, 3), -1)}, id="negative place"),
            pytest.param({"train.places": np.full((20, 3), 10**6)}, id="place behind the end"),
            pytest.param({"train.places": np.tile([0, 2**63 - 1, 9], (20, 1))}, id="overflow"),
            pytest.param({"train.places": np.zeros(20, int)}, id="another shape"),
            pytest.param({"train.names": np.arange(20)}, id="names that are none"),
            pytest.param({"train.names": np.array([{}] * 20)}, id="objects"),
        ],
    )
    def test_index_that_makes_no_sense(self, data: Data, changes: dict[str, np.ndarray]) -> None:
        self.rewrite(data, **changes)
        assert self.sentence(data) == (
            "OUT/packed.npz is damaged: copy it anew, or pack the folder anew."
        )


class TestPacking:
    @pytest.mark.parametrize("place", ["there", "empty", "inside"])
    def test_places_that_cannot_be(
        self, describe_folder: DescribeFolder, tmp_path: Path, place: str
    ) -> None:
        folder = Path(str(describe_folder(WITH_TEST).path))
        out = folder / "packed" if place == "inside" else tmp_path / "packed"
        if place == "there":
            out.write_text("mine")
        elif place == "empty":
            out.mkdir()
        with pytest.raises(PfstudyError) as caught:
            pack(folder, out)
        expected = f"would lie in {folder}" if place == "inside" else "is there already"
        assert str(caught.value).startswith(f"{out} {expected}")
        assert place != "there" or out.read_text() == "mine"

    def test_what_is_packed_already(self, describe_folder: DescribeFolder, tmp_path: Path) -> None:
        copy = packed(describe_folder(WITH_TEST), tmp_path)
        with pytest.raises(PfstudyError, match="is packed already; pack the folder"):
            pack(Path(str(copy.path)), tmp_path / "again")

    def test_empty_file_is_named_and_nothing_left(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        data = describe_folder(WITH_TEST)
        empty = Path(str(data.path), "val", "ape", "000.png")
        empty.write_bytes(b"")
        with pytest.raises(PfstudyError, match=f"^{empty} is empty: copied only in part"):
            packed(data, tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == {"images"}

    def test_disk_that_takes_nothing(self, describe_folder: DescribeFolder, tmp_path: Path) -> None:
        folder = Path(str(describe_folder(WITH_TEST).path))
        (tmp_path / "file").write_text("")
        with pytest.raises(DiskError, match=r"packed cannot be written: Not a directory\.$"):
            pack(folder, tmp_path / "file" / "packed")

    def test_progress_counts_every_image(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        told: list[tuple[int, int]] = []
        folder = Path(str(describe_folder(WITH_TEST).path))
        pack(folder, tmp_path / "packed", progress=lambda *of: told.append(of))
        assert told == [(number, 32) for number in range(1, 33)]

    def test_killed_leaves_nothing_that_looks_whole(
        self, describe_folder: DescribeFolder, tmp_path: Path
    ) -> None:
        folder = Path(str(describe_folder(WITH_TEST).path))
        program = (
            "import os, sys; from pathlib import Path; from pfstudy.data.packing import pack\n"
            "def stop(done, total):\n"
            "    if done == 25: os.kill(os.getpid(), 9)\n"
            "pack(Path(sys.argv[1]), Path(sys.argv[2]), progress=stop)"
        )
        out = tmp_path / "packed"
        done = subprocess.run([sys.executable, "-c", program, folder, out], timeout=120)
        assert done.returncode == -9
        assert not out.exists()
        (draft,) = tmp_path.glob(".packed.draft-*")
        assert (draft / "train-000000.tar").exists()
        with pytest.raises(PfstudyError, match=r"but no packed\.npz: copy it anew"):
            fingerprint(Data("imagefolder", 8, 3, 2, 0, path=str(draft)))
        pack(folder, out)
        assert len(list(out.iterdir())) == 4

    def test_needs_webdataset(
        self, describe_folder: DescribeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        data = describe_folder(WITH_TEST)
        copy = packed(data, tmp_path)
        monkeypatch.setitem(sys.modules, "webdataset", None)
        with pytest.raises(PfstudyError) as caught:
            pack(Path(str(data.path)), tmp_path / "again")
        assert str(caught.value) == (
            "packing needs WebDataset, reading does not: pip install 'pfstudy[packing]'."
        )
        assert fingerprint(copy) == fingerprint(data)
