from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from pfstudy.data.formats import (
    binary_records,
    pickled_records,
    read_stl10,
    read_svhn,
    split_records,
)
from pfstudy.errors import PfstudyError
from published_files import draw_images, python2_pickle

IMAGES, LABELS = draw_images(6, 3, 32, seed=0)
ROWS = IMAGES.reshape(6, -1)
GOOD = {"data": ROWS, "labels": LABELS.tolist()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file"


class Executed:
    """Runs a command when it is unpickled by the pickle module."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class TestPickledRecords:
    @pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize("order", ["C", "F"])
    @pytest.mark.parametrize("kind", [list, np.array], ids=["list", "array"])
    def test_are_read_from_what_python_3_wrote(
        self, protocol: int, order: Any, kind: Callable[..., Any], file: Path
    ) -> None:
        content = {"data": np.asarray(ROWS, order=order), "labels": kind(LABELS)}
        content["labels"] = [*map(int, LABELS)] if kind is list else content["labels"]
        file.write_bytes(pickle.dumps(content, protocol))
        images, labels = split_records([pickled_records(file, ["labels"])])
        np.testing.assert_array_equal(images, IMAGES)
        assert labels.tolist() == LABELS.tolist()

    def test_have_the_labels_in_the_order_that_is_asked_for(self, file: Path) -> None:
        file.write_bytes(python2_pickle({**GOOD, "more": [7] * 6}))
        records = pickled_records(file, ["more", "labels"])
        assert records[:, 0].tolist() == [7] * 6
        assert records[:, 1].tolist() == LABELS.tolist()
        assert records.flags.c_contiguous

    def test_what_python_2_wrote_is_what_the_pickle_module_reads(self, file: Path) -> None:
        theirs = pickle.loads(python2_pickle(GOOD), encoding="latin1")  # noqa: S301
        np.testing.assert_array_equal(theirs["data"], ROWS)
        assert theirs["labels"] == LABELS.tolist()

    @pytest.mark.parametrize("place", ["instead", "among the labels", "beside"])
    def test_nothing_of_a_malicious_file_is_executed(
        self, place: str, file: Path, tmp_path: Path
    ) -> None:
        command = Executed(os.mkdir, str(tmp_path / "executed"))
        content = {
            "instead": command,
            "among the labels": {**GOOD, "labels": [*LABELS.tolist()[1:], command]},
            "beside": {**GOOD, "filenames": command},
        }[place]
        file.write_bytes(pickle.dumps(content, 2))
        with pytest.raises(PfstudyError, match=r"asks for posix\.mkdir.* nothing in it was run"):
            pickled_records(file, ["labels"])
        assert not (tmp_path / "executed").exists()
        pickle.load(io.BytesIO(file.read_bytes()))  # noqa: S301  (it would have been)
        assert (tmp_path / "executed").exists()

    @pytest.mark.parametrize(
        "asked",
        ["builtins.eval", "builtins.getattr", "numpy.load", "numpy.core.multiarray.scalar",
         "copyreg._reconstructor", "codecs.decode", "os.system", "numpy.f2py.os.system"],
    )  # fmt: skip
    def test_only_what_arrays_are_made_of_is_known(self, asked: str, file: Path) -> None:
        module, name = asked.rsplit(".", 1)
        file.write_bytes(f"c{module}\n{name}\n(S'1'\ntR.".encode())
        with pytest.raises(PfstudyError, match=f"asks for {asked}, which"):
            pickled_records(file, ["labels"])

    def test_objects_in_an_array_are_refused(self, file: Path) -> None:
        file.write_bytes(pickle.dumps({**GOOD, "labels": np.array([object] * 6)}, 2))
        with pytest.raises(PfstudyError, match=r"asks for|values of type O"):
            pickled_records(file, ["labels"])

    @pytest.mark.parametrize(
        ("content", "said"),
        [
            pytest.param({}, "its 'data' are no uint8 of shape", id="nothing"),
            pytest.param({**GOOD, "data": ROWS[:, :5]}, "shape (N, 3072)", id="too few pixels"),
            pytest.param({**GOOD, "data": ROWS[:0]}, "shape (N, 3072)", id="no images"),
            pytest.param({**GOOD, "data": ROWS.astype("<i4")}, "no uint8", id="other numbers"),
            pytest.param({**GOOD, "data": [1, 2]}, "no uint8", id="a list"),
            pytest.param({"data": ROWS}, "its 'labels' are not 6 whole", id="no labels"),
            pytest.param({**GOOD, "labels": [1, 2]}, "are not 6 whole", id="too few labels"),
            pytest.param({**GOOD, "labels": ["a"] * 6}, "are not 6 whole", id="words"),
            pytest.param({**GOOD, "labels": [[1], 2, 3, 4, 5, 6]}, "are not 6", id="nested"),
            pytest.param({**GOOD, "labels": [-1] * 6}, "run from -1 to -1", id="negative"),
            pytest.param({**GOOD, "labels": [256] * 6}, "run from 256 to 256", id="large"),
        ],
    )
    def test_must_be_images_with_a_label_each(
        self, content: dict[str, Any], said: str, file: Path
    ) -> None:
        file.write_bytes(python2_pickle(content))
        with pytest.raises(PfstudyError) as raised:
            pickled_records(file, ["labels"])
        assert said in str(raised.value)
        assert str(raised.value).startswith(f"{file} is no file of CIFAR's Python version: ")

    @pytest.mark.parametrize("kept", [0, 1, 2, 20, 60, 100, 5000, -1])
    def test_a_half_copied_file_is_refused(self, kept: int, file: Path) -> None:
        file.write_bytes(python2_pickle(GOOD)[:kept])
        with pytest.raises(PfstudyError, match=r"no file of CIFAR's .*; copy it again\.$"):
            pickled_records(file, ["labels"])

    def test_a_damaged_file_never_ends_otherwise(self, file: Path) -> None:
        """Whatever byte is changed, there is an image or a sentence."""
        whole, generator = python2_pickle(GOOD), np.random.default_rng(0)
        refused = 0
        for place in [*range(330), *generator.integers(len(whole), size=100)]:
            content = bytearray(whole)
            content[place] = generator.integers(256)
            file.write_bytes(content)
            try:
                assert pickled_records(file, ["labels"]).shape[1] == 1 + 3072
            except PfstudyError:
                refused += 1
        assert refused > 100

    @pytest.mark.parametrize(
        "content", [pickle.dumps([1]), pickle.dumps("text"), b"text", b"\x80\x02N."]
    )
    def test_another_file_is_refused(self, content: bytes, file: Path) -> None:
        file.write_bytes(content)
        with pytest.raises(PfstudyError, match="is no file of CIFAR's Python version"):
            pickled_records(file, ["labels"])

    def test_a_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"cannot be read: Is a directory\."):
            pickled_records(tmp_path, ["labels"])


class TestBinaryFiles:
    @pytest.mark.parametrize("length", [0, 1, 3072, 3074])
    def test_must_hold_whole_records(self, length: int, file: Path) -> None:
        file.write_bytes(bytes(length))
        with pytest.raises(PfstudyError, match=r"expected whole images with their labels of 3,073"):
            binary_records(file, num_labels=1)

    def test_that_cannot_be_read_are_named(self, file: Path) -> None:
        with pytest.raises(PfstudyError, match=r"file cannot be read: No such file or directory\."):
            binary_records(file, num_labels=1)

    @pytest.mark.parametrize("label", [0, 11, 255])
    def test_of_stl10_have_labels_from_1_to_10(self, label: int, tmp_path: Path) -> None:
        (tmp_path / "X").write_bytes(bytes(2 * 3 * 96 * 96))
        (tmp_path / "y").write_bytes(bytes([5, label]))
        with pytest.raises(PfstudyError, match="y: labels must be whole numbers from 1 to 10, but"):
            read_stl10(tmp_path / "X", tmp_path / "y")

    def test_of_stl10_have_a_label_for_every_image(self, tmp_path: Path) -> None:
        (tmp_path / "X").write_bytes(bytes(2 * 3 * 96 * 96))
        (tmp_path / "y").write_bytes(b"\1\2\3")
        with pytest.raises(PfstudyError, match=r"X has 2 images, but .*y has 3 labels"):
            read_stl10(tmp_path / "X", tmp_path / "y")

    def test_of_stl10_lie_column_by_column(self, tmp_path: Path) -> None:
        image = np.zeros((3, 96, 96), np.uint8)
        image[1, 5, 70] = 200  # green, row 5, column 70
        content = bytearray(3 * 96 * 96)
        content[96 * 96 + 70 * 96 + 5] = 200
        (tmp_path / "X").write_bytes(content)
        (tmp_path / "y").write_bytes(b"\x0a")
        images, labels = read_stl10(tmp_path / "X", tmp_path / "y")
        np.testing.assert_array_equal(images[0], image)
        assert labels.tolist() == [9]


class TestSvhn:
    def test_calls_the_zero_zero(self, tmp_path: Path) -> None:
        images = np.arange(32 * 32 * 3 * 3, dtype=np.uint8).reshape(32, 32, 3, 3)
        savemat(tmp_path / "some.mat", {"X": images, "y": np.array([[10], [1], [9]], np.uint8)})
        read, labels = read_svhn(tmp_path / "some.mat")
        np.testing.assert_array_equal(read[2, 1], images[:, :, 1, 2])
        assert labels.tolist() == [0, 1, 9]

    @pytest.mark.parametrize(
        ("images", "labels", "said"),
        [
            pytest.param((32, 32, 3, 2), [1, 2, 3], r"\(32, 32, 3, 2\) .* \(3, 1\)", id="number"),
            pytest.param((8, 32, 3, 2), [1, 2], r"got \(8, 32, 3, 2\) of uint8", id="size"),
            pytest.param((32, 32, 2), [1, 2], r"got \(32, 32, 2\)", id="grey"),
            pytest.param((32, 32, 3, 2), [0, 1], "from 1 to 10, but run from 0 to 1", id="zero"),
            pytest.param((32, 32, 3, 2), [1, 11], "but run from 1 to 11", id="eleven"),
            pytest.param((32, 32, 3, 2), [1.5, 2], "whole numbers from 1 to 10", id="fraction"),
        ],
    )
    def test_must_be_digits_with_a_label_each(
        self, images: tuple[int, ...], labels: list[float], said: str, tmp_path: Path
    ) -> None:
        content = {"X": np.zeros(images, np.uint8), "y": np.array(labels)[:, None]}
        savemat(tmp_path / "some.mat", content)
        with pytest.raises(PfstudyError, match=said):
            read_svhn(tmp_path / "some.mat")

    @pytest.mark.parametrize("content", [b"", b"text" * 100], ids=["empty", "text"])
    def test_another_file_is_refused(self, content: bytes, file: Path) -> None:
        file.write_bytes(content)
        with pytest.raises(PfstudyError, match=r"is no MATLAB file .*; copy it again\."):
            read_svhn(file)

    def test_a_file_with_other_arrays_is_refused(self, file: Path) -> None:
        savemat(file, {"images": np.zeros(3)}, appendmat=False)
        with pytest.raises(PfstudyError, match="is no MATLAB file with the arrays 'X' and 'y'"):
            read_svhn(file)

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
    def test_a_half_copied_file_is_refused(self, share: float, file: Path) -> None:
        noise = np.random.default_rng(0).integers(256, size=(32, 32, 3, 4)).astype(np.uint8)
        savemat(file, {"X": noise, "y": np.ones((4, 1), np.uint8)}, appendmat=False)
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(PfstudyError, match="copy it again"):
            read_svhn(file)
