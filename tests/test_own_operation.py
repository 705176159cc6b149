"""A user's own operation, in every command: from a module in the working directory."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfstudy import files, ledger, store
from pfstudy.schema.operations import OPERATIONS

Pfstudy = Callable[..., subprocess.CompletedProcess[str]]

IMPORTS = "imports=[my_ops]"


class TestSweep:
    def test_it_is_trained_and_measured_beside_the_backbone(self, own_sweep: Any) -> None:
        assert own_sweep.done.returncode == 0, own_sweep.done.stderr
        assert "Traceback" not in own_sweep.done.stdout + own_sweep.done.stderr
        for label in ("original", "mine"):
            assert ledger.state_of(own_sweep.run_dir(label)) == "done"
            (measured,) = store.read_speeds(own_sweep.run_dir(label).parent)
            assert measured["latency_ms"] > 0
        shown = [line.split() for line in own_sweep.done.stdout.splitlines()]
        assert [row[0] for row in shown if row and row[0] in ("original", "mine")] == [
            *("original", "mine")
        ]

    def test_its_code_is_part_of_the_identity(self, own_sweep: Any) -> None:
        record = files.read_json(own_sweep.run_dir("mine") / store.RECORD)
        sources = {site["source"] for site in record["identity"]["canonical"]["sites"].values()}
        assert len(sources) == 1
        assert re.fullmatch("[0-9a-f]{64}", sources.pop())

    def test_where_it_lies_is_written_with_the_run(self, own_sweep: Any) -> None:
        config = files.read_json(own_sweep.run_dir("mine") / store.CONFIG)["config"]
        assert config["imports"] == [f"{own_sweep.directory}:my_ops"]


@pytest.fixture(scope="module")
def again(
    own_sweep: Any,
    environment: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Train the run of the user's operation again, in a copy of its directory, elsewhere."""
    place = tmp_path_factory.mktemp("elsewhere")
    run = own_sweep.run_dir("mine")
    copy = place / run.parent.name / run.name
    copy.mkdir(parents=True)
    (copy / store.CONFIG).write_bytes((run / store.CONFIG).read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "pfstudy.worker", str(copy)],
        cwd=place,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return copy, done


@pytest.mark.slow
class TestWorker:
    def test_a_run_is_trained_again_from_another_directory(
        self, again: tuple[Path, subprocess.CompletedProcess[str]], own_sweep: Any
    ) -> None:
        copy, done = again
        assert done.returncode == 0, done.stdout + done.stderr
        records = [files.read_json(run / store.RECORD) for run in (copy, own_sweep.run_dir("mine"))]
        for key in ("identity", "variant", "seeds", "cost"):
            assert records[0][key] == records[1][key]

    def test_it_makes_the_same_predictions(
        self, again: tuple[Path, subprocess.CompletedProcess[str]], own_sweep: Any
    ) -> None:
        logits = []
        for directory in (again[0], own_sweep.run_dir("mine")):
            with np.load(directory / "predictions.npz") as predictions:
                logits.append(predictions["logits"])
        np.testing.assert_allclose(*logits, rtol=1e-4, atol=1e-4)


class TestMistakes:
    @pytest.mark.parametrize("command", [[], ["eval"]], ids=["train", "eval"])
    def test_a_misspelt_one_is_answered_with_its_name(
        self, own_sweep: Any, pfstudy: Pfstudy, command: list[str]
    ) -> None:
        done = pfstudy(own_sweep.directory, *command, IMPORTS, "block.spatial=mein")
        choices = ", ".join(dict.fromkeys(["original", "conv", *OPERATIONS, "mine"]))
        assert done.stderr == (
            f"pfstudy: operation 'mein' does not exist; choose from: {choices}. "
            "Did you mean 'mine'?\n"
        )
        assert (done.returncode, done.stdout) == (2, "")

    @pytest.mark.parametrize(
        ("content", "sentence"),
        [
            pytest.param(
                None, "there is no module 'my_ops' in {place} or on Python's path.", id="missing"
            ),
            pytest.param(
                "from torch import nn\n\ndef mine(layer:\n",
                "my_ops cannot be imported: SyntaxError: '(' was never closed (my_ops.py, line 3).",
                id="SyntaxError",
            ),
        ],
    )
    def test_a_module_that_cannot_be_imported_is_one_sentence(
        self, pfstudy: Pfstudy, tmp_path: Path, content: str | None, sentence: str
    ) -> None:
        if content is not None:
            (tmp_path / "my_ops.py").write_text(content)
        done = pfstudy(tmp_path, "-m", IMPORTS, "block.spatial=original,mine")
        assert done.stderr == f"pfstudy: imports: {sentence.format(place=tmp_path)}\n"
        assert (done.returncode, done.stdout) == (2, "")
        assert not (tmp_path / "runs").exists()


def test_editing_the_file_makes_it_another_run(
    own_sweep: Any, pfstudy: Pfstudy, tmp_path: Path
) -> None:
    """The sweep ends at a key that nobody can have, before anything is computed."""
    (tmp_path / "runs").symlink_to(own_sweep.directory / "runs")
    source = (own_sweep.directory / "my_ops.py").read_text()
    (tmp_path / "my_ops.py").write_text(source.replace("AvgPool2d", "MaxPool2d"))
    done = pfstudy(
        tmp_path,
        *("-m", IMPORTS, "block.spatial=original,mine", "recipe.epochs=1"),
        WANDB_API_KEY="malformed",
    )
    assert done.returncode == 2
    assert "the W&B key is malformed" in done.stderr
    assert "2 variants, 2 runs, 1 done before" in done.stderr
