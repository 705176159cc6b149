"""Figures over all images, against computations by hand."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pfstudy.evaluation.cases import CLEAN
from pfstudy.evaluation.figures import CleanFigures, Top1, brier_score, count_per_class
from pfstudy.tables.evaluated import Evaluated, per_class_table


def test_calibration_is_that_of_a_computation_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_NK = 3 * torch.randn(200, 4, generator=generator)
    labels_N = torch.randint(4, (200,), generator=generator)
    figures = CleanFigures("abcd", torch.device("cpu"))
    for part in (slice(0, 77), slice(77, 200)):
        figures.update(logits_NK[part], labels_N[part])
    found = figures.compute()

    p_NK = np.exp(logits_NK.double().numpy())
    p_NK /= p_NK.sum(1, keepdims=True)
    confidence_N, is_right_N = p_NK.max(1), p_NK.argmax(1) == labels_N.numpy()
    bins_N = np.ceil(confidence_N * 15).astype(int)
    error = sum(
        abs(confidence_N[bins_N == b].mean() - is_right_N[bins_N == b].mean())
        * (bins_N == b).mean()
        for b in np.unique(bins_N)
    )
    truth_NK = np.eye(4)[labels_N.numpy()]
    assert found["ece_percent"] == pytest.approx(100 * error, rel=1e-4)
    assert found["brier"] == pytest.approx(((p_NK - truth_NK) ** 2).sum(1).mean(), rel=1e-5)
    assert found["top1_percent"] == pytest.approx(100 * is_right_N.mean())
    loss = -np.log(p_NK[np.arange(200), labels_N.numpy()]).mean()
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["num_images"] == 200


@pytest.mark.parametrize(
    ("probabilities", "score"), [((1.0, 0.0), 0), ((0.0, 1.0), 2), ((0.5, 0.5), 0.5)], ids=str
)
def test_brier_score_runs_from_0_to_2(probabilities: tuple[float, float], score: float) -> None:
    assert brier_score(torch.tensor([probabilities]), torch.tensor([0])) == pytest.approx(score)


def test_top1_counts_over_batches() -> None:
    figures = Top1()
    figures.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    figures.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert figures.compute() == pytest.approx(200 / 3)


def test_classes_say_what_they_are_taken_for() -> None:
    labels, predicted = np.array([0, 0, 0, 0, 1, 1]), np.array([0, 2, 2, 1, 1, 1])
    ape, bee, cat = count_per_class(labels, predicted, ("ape", "bee", "cat"))
    assert ape == {
        "class": "ape", "num_images": 4, "top1_percent": 25.0,
        "confused_with": "cat", "num_confused": 2,
    }  # fmt: skip
    assert (bee["top1_percent"], bee["confused_with"], bee["num_confused"]) == (100.0, None, 0)
    assert (cat["num_images"], cat["top1_percent"]) == (0, None)


@pytest.mark.parametrize("counts", [(2, 1), (3, 0)], ids=["all tested", "one not tested"])
def test_the_table_says_which_classes_were_not_tested(counts: tuple[int, ...]) -> None:
    labels_N = np.repeat(np.arange(2), counts)
    rows = count_per_class(labels_N, np.zeros(3, dtype=int), ["ape", "bee"])
    table = per_class_table(Evaluated("run", Path("run"), {CLEAN: {"per_class": rows}}))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    (line,) = (line.split() for line in lines if line.split()[:1] == ["bee"])
    assert line[:3] == ["bee", str(counts[1]), "0.00" if counts[1] else "-"]
    assert any("no test images, so no accuracy" in line for line in lines) == (counts[1] == 0)
