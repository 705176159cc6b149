"""Real files through the command line: CIFAR's format and image folders, trained by two processes.

With everything that recipes do at random, killed in the middle of an epoch and gone on with.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pfstudy import files, ledger, store
from published_files import draw_images, write_cifar10
from under_way import Sweeps, resumed_like, wait_until

COMMON = (
    "model=resnet20",
    "block.spatial=maxpool",
    "speed=none",
    "logger=none",
    "recipe=cifar_fast",
    "recipe.epochs=4",
    "recipe.batch_size=32",
    "recipe.lr_batch_size=null",
    "recipe.lr=0.05",
    "recipe.warmup_epochs=1",
    "recipe.ema_decay=0.9",
    "recipe.augmentation.random_erasing=0.2",
    "recipe.augmentation.mixup=0.2",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.checkpoint_minutes=1e-9",
)
CIFAR = (*COMMON, "data=cifar10", "data.path=cifar", "data.verify=false", "data.num_validation=60")
FOLDER = (
    *COMMON,
    "data=imagefolder",
    "data.path=images",
    "data.num_classes=4",
    "data.num_validation=40",
    "data.image_size=32",
    "data.on_error=skip",
    "recipe.augmentation.translate=null",
    "recipe.augmentation.cutout=null",
    "recipe.augmentation.random_augment=rand-m5-mstd0.5-inc1",
    "recipe.augmentation.repeats=2",
)
COMMANDS = {"cifar": CIFAR, "folder": FOLDER}
KINDS = pytest.mark.parametrize("kind", list(COMMANDS))


def write_images(folder: Path) -> None:
    """Photographs, as it were, of four classes; one training image is cut short."""
    for part, number, seed in (("train", 400, 1), ("val", 80, 2)):
        images, labels = draw_images(number, 4, 40, seed)
        for index, (image, label) in enumerate(zip(images, labels, strict=True)):
            path = folder / part / f"class{label}" / f"{index}.jpeg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.transpose(1, 2, 0)).save(path, quality=95)
    spoilt = folder / "train" / "class0" / "spoilt.jpeg"
    whole = next((folder / "train" / "class0").glob("[0-9]*.jpeg")).read_bytes()
    spoilt.write_bytes(whole[: len(whole) // 2])


@pytest.fixture(scope="module")
def directories(
    executable: str, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Of each kind of data, a directory where a run was trained at once, and one where killed."""
    found = {}
    with Sweeps(executable, environment) as sweeps:
        for kind, command in COMMANDS.items():
            pair = (tmp_path_factory.mktemp(f"{kind}-whole"), tmp_path_factory.mktemp(kind))
            for directory in pair:
                write_cifar10(directory / "cifar", num_train=400, num_test=100)
                write_images(directory / "images")
            whole = sweeps.start(pair[0], *command)
            assert whole.wait() == 0, whole.output
            killed = sweeps.start(pair[1], *command)
            killed.wait_for_epochs(1, "maxpool")
            folder = (killed.run_dir("maxpool") / store.RESUME).parent
            at = folder.stat().st_mtime_ns
            wait_until(
                lambda folder=folder, at=at: folder.stat().st_mtime_ns > at, "there is a checkpoint"
            )
            for process in killed.processes():  # at once, wherever it is
                os.kill(process, signal.SIGKILL)
            killed.wait()
            killed.wait_until_nothing_is_left()
            assert killed.state_of("maxpool") == "interrupted"
            again = sweeps.start(pair[1], *command)
            assert again.wait() == 0, again.output
            assert again.attempts("maxpool") == 2
            found[kind] = pair
    return found


def run_dir(directory: Path) -> Path:
    (found,) = directory.glob("runs/*-maxpool-*/seed0")
    return found


@KINDS
@pytest.mark.slow
class TestKilled:
    def test_ends_as_if_it_had_not_been(
        self, directories: dict[str, tuple[Path, Path]], kind: str
    ) -> None:
        whole, killed = map(run_dir, directories[kind])
        assert resumed_like(killed, whole)

    def test_has_learnt(self, directories: dict[str, tuple[Path, Path]], kind: str) -> None:
        record = files.read_json(run_dir(directories[kind][1]) / ledger.RECORD)
        chance = 100 / record["identity"]["canonical"]["data"]["num_classes"]
        assert record["metrics"]["test_top1_percent"] > 2 * chance
        assert record["training"]["world_size"] == 2

    def test_tests_every_image_once(
        self, directories: dict[str, tuple[Path, Path]], kind: str
    ) -> None:
        with np.load(run_dir(directories[kind][1]) / store.PREDICTIONS) as predictions:
            counts = np.bincount(predictions["labels"])
        assert counts.tolist() == ([10] * 10 if kind == "cifar" else [20] * 4)

    def test_counts_what_could_not_be_read(
        self, directories: dict[str, tuple[Path, Path]], kind: str
    ) -> None:
        for run in map(run_dir, directories[kind]):
            training = files.read_json(run / ledger.RECORD)["training"]
            assert training["skipped_images"] == (1 if kind == "folder" else 0)
