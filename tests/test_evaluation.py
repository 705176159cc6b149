"""``pfstudy eval``: the console on what a real sweep left, and the figures by themselves."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from configs import compose
from pfstudy import files, store
from pfstudy.complexity import cost
from pfstudy.errors import PfstudyError
from pfstudy.evaluation.given import evaluate
from pfstudy.network.surgery import build_network
from pfstudy.schema.config import Config
from pfstudy.schema.models import conf_directory

Ended = subprocess.CompletedProcess[str]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """An evaluation sets the number of threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


RECIPE = conf_directory() / "recipe" / "base.yaml"

MISTAKES = {
    "no weights": (
        ["block.spatial=maxpool"],
        "eval needs weights: give init_from=FILE, or pretrained=true.",
    ),
    "no file": (
        ["init_from=no.pt"],
        "init_from=no.pt cannot be read: No such file or directory.",
    ),
    "robustness": (
        ["init_from=no.pt", "--fgsm", "1"],
        "robustness and figures per class are of finished runs: give run directories, not "
        "init_from=no.pt.",
    ),
    "two networks": (
        ["-m", "block.spatial=original,maxpool", "init_from=no.pt"],
        "eval takes one network, but the arguments describe 2.",
    ),
    "a study": (
        ["study=one_stage", "init_from=no.pt"],
        "eval takes one network, but the arguments describe 7.",
    ),
    "a list": (
        ["block.spatial=original,maxpool", "init_from=no.pt"],
        "block.spatial=original,maxpool lists several values; add -m to sweep over them.",
    ),
    "no such key": (
        ["init_from=no.pt", "recipe.lrr=1"],
        "recipe: the key 'lrr' does not exist; choose from: "
        f"{', '.join(yaml.safe_load(RECIPE.read_text()))}. Did you mean 'lr'?",
    ),
}


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working directory."""
    return tmp_path_factory.mktemp("empty")


@pytest.fixture(scope="module")
def ended(
    own_sweep: Any, empty: Path, pfstudy_together: Callable[..., Mapping[str, Ended]]
) -> Mapping[str, Ended]:
    """Evaluations of what a sweep left, and mistakes in an empty directory."""
    original, mine = (f"init_from={own_sweep.weights(label)}" for label in ("original", "mine"))
    commands = {
        "json": (original, "--json"),
        "table": ("imports=[my_ops]", "block.spatial=mine", mine),
        "other network": ("block.spatial=maxpool", original, "--json"),
    }
    return pfstudy_together(
        {name: (own_sweep.directory, ("eval", *rest)) for name, rest in commands.items()}
        | {name: (empty, ("eval", *rest)) for name, (rest, _) in MISTAKES.items()}
    )


@pytest.mark.slow
class TestCommand:
    def test_json_is_all_that_it_prints(self, own_sweep: Any, ended: Mapping[str, Ended]) -> None:
        done = ended["json"]
        assert done.returncode == 0, done.stderr
        figures = json.loads(done.stdout)
        record = files.read_json(own_sweep.run_dir("original") / store.RECORD)
        assert figures.pop("seconds") > 0
        for figure in ("top1_percent", "top5_percent", "loss"):
            expected = record["metrics"][f"test_{figure}"]
            assert figures.pop(figure) == pytest.approx(expected, rel=1e-5)
        assert 0 < figures.pop("ece_percent") < 100
        assert 0 < figures.pop("brier") < 2
        assert figures == {
            "model": "resnet_digits",
            "variant": "original",
            "data": "digits",
            "weights": own_sweep.weights("original"),
            "num_images": 500,
            "params": record["cost"]["params"],
            "macs": record["cost"]["macs"],
        }
        assert done.stderr == "eval   resnet_digits (original) on digits\n"

    def test_table_of_an_operation_of_the_users(
        self, own_sweep: Any, ended: Mapping[str, Ended]
    ) -> None:
        done = ended["table"]
        assert done.returncode == 0, done.stderr
        metrics = files.read_json(own_sweep.run_dir("mine") / store.RECORD)["metrics"]
        header, _, row = (line.split() for line in done.stdout.strip().splitlines()[:3])
        accuracy = [f"{metrics[f'test_top{k}_percent']:.2f}" for k in (1, 5)]
        assert " ".join(header) == (
            "model variant params (M) MACs (G) top-1 (%) top-5 (%) loss ECE (%) Brier images"
        )
        assert row[:2] == ["resnet_digits", "mine"]
        assert row[4:7] == [*accuracy, f"{metrics['test_loss']:.3g}"]
        assert row[-1] == "500"
        caption = " ".join(done.stdout.split())
        assert f"Weights: {own_sweep.weights('mine')}. Test images of digits" in caption

    def test_weights_of_another_network_are_one_sentence(
        self, own_sweep: Any, ended: Mapping[str, Ended]
    ) -> None:
        done = ended["other network"]
        assert (done.returncode, done.stdout) == (2, "")
        phase, sentence = done.stderr.splitlines()
        assert phase == "eval   resnet_digits (maxpool) on digits"
        assert sentence.startswith(
            f"pfstudy: the checkpoint {own_sweep.weights('original')} belongs to another network: "
            "none missing, 24 left over (layer1.0.bn2.bias, "
        )

    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_mistake_is_one_sentence_before_anything_starts(
        self, ended: Mapping[str, Ended], mistake: str
    ) -> None:
        done = ended[mistake]
        assert done.stderr == f"pfstudy: {MISTAKES[mistake][1]}\n"
        assert (done.returncode, done.stdout) == (2, "")

    @pytest.mark.usefixtures("ended")
    def test_nothing_is_written(self, own_sweep: Any, empty: Path) -> None:
        names = {path.name for path in own_sweep.directory.iterdir()}
        assert names - {"__pycache__"} == {"my_ops.py", "runs"}
        assert list(empty.iterdir()) == []


def ignore(kind: str, details: Mapping[str, Any]) -> None:
    del kind, details


@pytest.mark.usefixtures("one_thread")
class TestEvaluate:
    def test_a_truncated_file_is_one_sentence(self, own_sweep: Any, tmp_path: Path) -> None:
        whole = (own_sweep.directory / own_sweep.weights("original")).read_bytes()
        path = tmp_path / "last.safetensors"
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(PfstudyError) as caught:
            evaluate(replace(compose(), init_from=str(path)), ignore)
        assert str(caught.value).startswith(f"{path} is no readable checkpoint: ")
        assert "\n" not in str(caught.value)

    def test_figures_are_those_of_all_images_whatever_the_batch(self, own_sweep: Any) -> None:
        weights = str(own_sweep.directory / own_sweep.weights("original"))
        config = replace(compose(), init_from=weights)
        batches = [replace(config, recipe=replace(config.recipe, batch_size=n)) for n in (7, 500)]
        few, all_at_once = (evaluate(config, ignore) for config in batches)
        for figure in ("top1_percent", "top5_percent"):
            assert few[figure] == all_at_once[figure]
        assert few["loss"] == pytest.approx(all_at_once["loss"], rel=1e-5)
        assert few["num_images"] == all_at_once["num_images"] == 500

    def test_progress_is_told_in_batches(
        self, own_sweep: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pfstudy.evaluation.given._SECONDS_BETWEEN_REPORTS", -1)
        weights = str(own_sweep.directory / own_sweep.weights("original"))
        config = replace(compose(), init_from=weights)
        told: list[tuple[str, Mapping[str, Any]]] = []
        evaluate(config, lambda kind, details: told.append((kind, details)))
        assert {kind for kind, _ in told} == {"progress"}
        done = [details["batch_index"] for _, details in told]
        assert done == sorted(done)
        assert {details["num_batches"] for _, details in told} == {8}  # 500 images, 64 at a time


CLASSES = ("ape", "bee", "cat")


@pytest.fixture
def folder(tmp_path: Path) -> tuple[Config, torch.Tensor, torch.Tensor]:
    """A folder of ``val`` images alone: its config, and its pixels and labels as we draw them."""
    generator = np.random.default_rng(0)
    images, labels = [], []
    for label, name in enumerate(CLASSES):
        place = tmp_path / "images" / "val" / name
        place.mkdir(parents=True)
        for number in range(3 + label):
            pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
            images.append(torch.from_numpy(pixels).permute(2, 0, 1) / 255)
            labels.append(label)
    config = compose(
        "data=imagefolder",
        f"data.path={tmp_path / 'images'}",
        f"data.num_classes={len(CLASSES)}",
        "data.crop_fraction=1",
        "data.mean=[0,0,0]",
        "data.std=[1,1,1]",
        "data.num_workers=0",
        "recipe.batch_size=5",
        "block.spatial=maxpool",
    )
    return config, torch.stack(images), torch.tensor(labels)


@pytest.mark.usefixtures("one_thread")
class TestImageFolder:
    def test_figures_are_those_of_the_test_images(
        self, folder: tuple[Config, torch.Tensor, torch.Tensor], tmp_path: Path
    ) -> None:
        config, images_NCHW, labels_N = folder
        network = build_network(config, seed=1).eval()
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        with torch.inference_mode():
            logits = network(images_NCHW)
        rank = logits.argsort(1, descending=True)
        expected = 100 * (rank[:, 0] == labels_N).double().mean().item()
        weights = str(tmp_path / "weights.safetensors")
        figures = evaluate(replace(config, init_from=weights), ignore)
        assert figures["num_images"] == len(labels_N) == 12
        assert figures["top1_percent"] == pytest.approx(expected, rel=1e-6)
        assert figures["top5_percent"] == pytest.approx(100)  # of three classes
        loss = functional.cross_entropy(logits, labels_N).item()
        assert figures["loss"] == pytest.approx(loss, rel=1e-5)
        counted = cost(network, (3, 8, 8))
        assert (figures["params"], figures["macs"]) == (counted.params, counted.macs)

    def test_an_image_that_is_skipped_is_in_no_figure(
        self, folder: tuple[Config, torch.Tensor, torch.Tensor], tmp_path: Path
    ) -> None:
        config, images_NCHW, labels_N = folder
        network = build_network(config, seed=1).eval()
        save_file(network.state_dict(), tmp_path / "weights.safetensors")
        (tmp_path / "images" / "val" / "ape" / "1.png").write_bytes(b"no image")
        is_read_N = torch.arange(len(labels_N)) != 1
        with torch.inference_mode():
            logits = network(images_NCHW[is_read_N])
        skipping = replace(config.data, on_error="skip")
        weights = str(tmp_path / "weights.safetensors")
        figures = evaluate(replace(config, data=skipping, init_from=weights), ignore)
        assert figures["num_images"] == 11
        loss = functional.cross_entropy(logits, labels_N[is_read_N]).item()
        assert figures["loss"] == pytest.approx(loss, rel=1e-5)

    def test_weights_for_other_images_are_refused(
        self, folder: tuple[Config, torch.Tensor, torch.Tensor]
    ) -> None:
        settings = folder[0]
        config = compose("model=vit_ti", f"data.path={settings.data.path}", "data=imagefolder",
                         "data.num_classes=3", "data.image_size=32", "pretrained=true")  # fmt: skip
        with pytest.raises(PfstudyError, match=r"data\.crop_fraction=0\.9, or, to keep the data"):
            evaluate(config, ignore)

    def test_what_is_unusual_is_said(
        self, folder: tuple[Config, torch.Tensor, torch.Tensor], tmp_path: Path
    ) -> None:
        config = folder[0]
        state = build_network(config, seed=1).state_dict()
        torch.save({"model": state, "model_ema": state}, tmp_path / "weights.pth")
        Image.new("LA", (8, 8)).save(tmp_path / "images" / "val" / "ape" / "1.png")
        told: list[str] = []

        def hear(kind: str, details: Mapping[str, Any]) -> None:
            if kind == "note":
                told.append(details["text"])

        evaluate(replace(config, init_from=str(tmp_path / "weights.pth")), hear)
        assert told[0].endswith("(model) are taken, init_weights=averaged takes model_ema")
        assert told[1] == (
            "1 of 12 images is transparent in part, and shown on white (data.background)"
        )

    def test_a_number_of_classes_that_is_not_the_folders_is_refused(
        self, folder: tuple[Config, torch.Tensor, torch.Tensor], tmp_path: Path
    ) -> None:
        config = replace(folder[0], data=replace(folder[0].data, num_classes=4))
        save_file(build_network(config, seed=1).state_dict(), tmp_path / "weights.safetensors")
        weights = str(tmp_path / "weights.safetensors")
        with pytest.raises(PfstudyError, match=r"data\.num_classes is 4, but .* has 3 class"):
            evaluate(replace(config, init_from=weights), ignore)
