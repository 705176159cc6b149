"""What a finished run leaves, as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from pfstudy.data.order import BatchIndices, Share
from pfstudy.errors import DiskError
from pfstudy.worker import results
from pfstudy.worker.results import in_order, remove_checkpoints, save_predictions, save_weights


class TestInOrder:
    @pytest.mark.parametrize("num_ranks", [1, 2, 3, 5])
    @pytest.mark.parametrize("number", [5, 6, 7, 14])
    def test_puts_together_what_was_shared(self, number: int, num_ranks: int) -> None:
        whole = torch.randn(number, 3)
        parts = [
            torch.cat([whole[i] for i in BatchIndices(number, 2, None, Share(rank, num_ranks))])
            for rank in range(num_ranks)
        ]
        assert torch.equal(in_order(parts), whole)

    def test_keeps_the_dtype(self) -> None:
        assert in_order([torch.tensor([3, 5]), torch.tensor([4])]).tolist() == [3, 4, 5]
        assert in_order([torch.tensor([3])]).dtype == torch.int64


class TestPredictions:
    def test_logits_of_few_images_are_all_kept(self, tmp_path: Path) -> None:
        logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
        save_predictions(tmp_path, logits, labels)
        with np.load(tmp_path / "predictions.npz") as saved:
            assert set(saved) == {"logits", "labels"}
            np.testing.assert_array_equal(saved["logits"], logits)
            assert saved["labels"].tolist() == [0, 1, 2, 0]
        assert [path.name for path in tmp_path.iterdir()] == ["predictions.npz"]

    def test_of_many_the_best_five_in_their_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(results, "_MOST_LOGITS", 11)
        save_predictions(tmp_path, torch.tensor([[1.0, 3, 2]] * 4), torch.zeros(4).long())
        with np.load(tmp_path / "predictions.npz") as saved:
            assert set(saved) == {"top5", "labels"}
            assert saved["top5"].tolist() == [[1, 2, 0]] * 4

    def test_that_cannot_be_written_are_named(self, tmp_path: Path) -> None:
        with pytest.raises(DiskError) as caught:
            save_predictions(tmp_path / "nowhere", torch.zeros(1, 2), torch.zeros(1).long())
        path = tmp_path / "nowhere" / "predictions.npz"
        assert str(caught.value) == f"{path} cannot be written: No such file or directory."


class TestWeights:
    def test_whatever_their_layout(self, tmp_path: Path) -> None:
        network = nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        path = tmp_path / "checkpoints" / "last.safetensors"
        save_weights(network, path)
        saved = load_file(path)
        for name, weight in network.state_dict().items():
            assert torch.equal(saved[name], weight)
        assert [file.name for file in path.parent.iterdir()] == ["last.safetensors"]


class TestRemoveCheckpoints:
    NAMES = ("resume.ckpt", "last.safetensors", "best.safetensors", ".resume.ckpt.draft")

    @pytest.mark.parametrize("keep", [(), ("last",), ("best",), ("last", "best")], ids=str)
    def test_keeps_what_is_asked_for(self, tmp_path: Path, keep: tuple[str, ...]) -> None:
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        for name in self.NAMES:
            (folder / name).write_text("weights")
        remove_checkpoints(tmp_path, keep)
        assert {path.stem for path in folder.iterdir()} == set(keep)

    def test_there_may_be_none(self, tmp_path: Path) -> None:
        remove_checkpoints(tmp_path, ("last",))
        assert list(tmp_path.iterdir()) == []
