"""Images in folders are identified by content, which is read once."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from pfstudy.data import digests, fingerprint, glance, identify, recognise
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Data

NUM_IMAGES = 12


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    """A folder of small files, which were written a while ago; its cache is empty."""
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda name: tmp_path / "cache")
    monkeypatch.setattr(digests, "_SETTLED_NS", -1_000_000_000_000)
    for part, number in (("train", 4), ("val", 2)):
        for name in ("a", "b"):
            folder = tmp_path / "images" / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                (folder / f"{index}.png").write_bytes(f"{part}{name}{index}".encode() * 5000)
    return Data("imagefolder", 8, 3, 2, 0, path=str(tmp_path / "images"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the images that are digested."""
    found: list[str] = []
    digest = digests._digest

    def count(stored: digests.Stored, index: int) -> bytes | None:
        found.append(os.fsdecode(stored.names[index]))
        return digest(stored, index)

    monkeypatch.setattr(digests, "_digest", count)
    return iter([found])  # type: ignore[return-value]


@pytest.fixture
def num_read(read: Iterator[list[str]]) -> list[str]:
    return next(read)


def change(data: Data, name: str = "train/a/1.png", content: bytes | None = None) -> Path:
    """Replace an image by another one of the same size and modification time."""
    path = Path(data.path or "", name)
    before = path.stat()
    path.write_bytes(content or bytes(reversed(path.read_bytes())))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return path


class TestIdentity:
    def test_another_content_of_the_same_names_and_sizes_is_another_dataset(
        self, data: Data
    ) -> None:
        before = identify(data)
        change(data)
        after = identify(data)
        assert after.fingerprint != before.fingerprint
        assert after.older == before.older

    def test_the_same_content_elsewhere_is_the_same(self, data: Data, tmp_path: Path) -> None:
        before = fingerprint(data)
        Path(data.path or "").rename(tmp_path / "elsewhere")
        assert fingerprint(replace(data, path=str(tmp_path / "elsewhere"))) == before

    def test_names_are_part_of_it(self, data: Data) -> None:
        before = fingerprint(data)
        path = Path(data.path or "", "val/a/1.png")
        path.rename(path.with_name("2.png"))
        assert fingerprint(data) != before

    def test_an_image_that_cannot_be_read_is_named_unless_such_are_skipped(
        self, data: Data, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> bytes:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "pread", refuse)
        with pytest.raises(PfstudyError, match=r"0\.png cannot be read: Permission denied"):
            fingerprint(data)
        assert len(fingerprint(replace(data, on_error="skip"))) == 64


class TestCache:
    def test_what_is_unchanged_is_read_once(self, data: Data, num_read: list[str]) -> None:
        before = fingerprint(data)
        assert len(num_read) == NUM_IMAGES
        assert fingerprint(data) == before
        assert len(num_read) == NUM_IMAGES

    def test_only_what_has_changed_is_read_again(self, data: Data, num_read: list[str]) -> None:
        fingerprint(data)
        num_read.clear()
        change(data)  # its size and modification time are as before
        Path(data.path or "", "val/b/new.png").write_bytes(b"new")
        fingerprint(data)
        assert sorted(num_read) == ["train/a/1.png", "val/b/new.png"]

    def test_it_lies_outside_the_dataset(self, data: Data, tmp_path: Path) -> None:
        before = sorted(Path(data.path or "").rglob("*"))
        fingerprint(data)
        assert sorted(Path(data.path or "").rglob("*")) == before
        assert len(list((tmp_path / "cache" / "digests").glob("*.npz"))) == 1

    def test_files_that_may_still_change_are_not_kept(
        self, data: Data, num_read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(digests, "_SETTLED_NS", 3_600_000_000_000)
        fingerprint(data)
        fingerprint(data)
        assert len(num_read) == 2 * NUM_IMAGES

    @pytest.mark.parametrize("damage", [b"", b"nonsense", b"PK\x03\x04"])
    def test_a_damaged_one_is_replaced(
        self, data: Data, num_read: list[str], tmp_path: Path, damage: bytes
    ) -> None:
        before = fingerprint(data)
        (cached,) = (tmp_path / "cache" / "digests").glob("*.npz")
        cached.write_bytes(damage)
        assert fingerprint(data) == before
        assert fingerprint(data) == before
        assert len(num_read) == 2 * NUM_IMAGES

    def test_without_a_place_for_it_all_is_read_every_time(
        self, data: Data, num_read: list[str], tmp_path: Path
    ) -> None:
        (tmp_path / "cache").write_text("a file")
        assert fingerprint(data) == fingerprint(data)
        assert len(num_read) == 2 * NUM_IMAGES

    def test_what_was_read_before_an_interruption_is_kept(
        self, data: Data, num_read: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(digests, "_CHUNK", 1)
        counted = digests._digest

        def stop(stored: digests.Stored, index: int) -> bytes | None:
            if index == NUM_IMAGES - 1:
                time.sleep(0.1)
                raise KeyboardInterrupt
            return counted(stored, index)

        with monkeypatch.context() as patch:
            patch.setattr(digests, "_digest", stop)
            with pytest.raises(KeyboardInterrupt):
                fingerprint(data)
        num_read.clear()
        fingerprint(data)
        assert num_read == ["val/b/1.png"]


class TestLargeDatasets:
    @pytest.fixture(autouse=True)
    def _large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(digests, "WHOLE_BYTES", 1000)

    def test_three_blocks_of_each_image_are_read_and_that_is_said(self, data: Data) -> None:
        content = identify(data)
        assert "three blocks of 4096 bytes" in content.note
        path = Path(data.path or "", "train/a/1.png")
        middle = bytearray(path.read_bytes())
        middle[len(middle) // 2] ^= 1
        change(data, content=bytes(middle))
        assert identify(data).fingerprint != content.fingerprint

    def test_what_lies_between_is_not_seen(self, data: Data) -> None:
        before = fingerprint(data)
        between = bytearray(Path(data.path or "", "train/a/1.png").read_bytes())
        between[6000] ^= 1
        change(data, content=bytes(between))
        assert fingerprint(data) == before

    def test_it_is_never_taken_for_a_digest_of_all_bytes(
        self, data: Data, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sampled = fingerprint(data)
        monkeypatch.setattr(digests, "WHOLE_BYTES", 10**10)
        assert fingerprint(data) != sampled
        assert not identify(data).note


class TestWorkers:
    """Ranks and runs compare names and sizes with those that the parent has written."""

    def test_a_dataset_that_is_as_before_is_recognised_without_reading_it(
        self, data: Data, num_read: list[str]
    ) -> None:
        content = identify(data)
        num_read.clear()
        written = {
            "canonical": {"data": {"fingerprint": content.fingerprint}},
            "replaces": {content.older: content.fingerprint},
        }
        assert recognise(data, written) == replace(content, note="")
        Path(data.path or "", "val/b/new.png").write_bytes(b"new")
        assert recognise(data, written).fingerprint != content.fingerprint
        assert not num_read

    def test_one_that_was_identified_by_the_older_rule_is_recognised(self, data: Data) -> None:
        older = glance(data).fingerprint
        assert recognise(data, {"canonical": {"data": {"fingerprint": older}}}).fingerprint == older


@pytest.mark.parametrize("order", ["<", ">"])
def test_arrays_in_any_byte_order_are_those_of_native_order(tmp_path: Path, order: str) -> None:
    images, labels = np.arange(2 * 64.0).reshape(2, 8, 8), np.arange(2)
    np.savez(tmp_path / "native.npz", images=images.astype("=f4"), labels=labels)
    np.savez(
        tmp_path / "other.npz",
        images=images.astype(f"{order}f4"),
        labels=labels.astype(f"{order}i4"),
    )
    from pfstudy.data.npz import load

    native, other = (
        Data("npz", 8, 1, 2, 0, path=str(tmp_path / f"{name}.npz")) for name in ("native", "other")
    )
    assert fingerprint(native) == fingerprint(other)
    assert load(other).images_NCHW.dtype.isnative
    assert (load(native).images_NCHW == load(other).images_NCHW).all()
