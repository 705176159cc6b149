"""What the check says of devices, images and weights; of networks, their own tests say it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from configs import compose, variant_of
from pfstudy.errors import PfstudyError
from pfstudy.launch.check import check_networks, check_variants
from pfstudy.network.surgery import build_network
from pfstudy.speed.setting import device_name
from pfstudy.variant import make_variant


@pytest.mark.parametrize("key", ["speed.device", "trainer.accelerator"])
def test_a_gpu_that_is_not_there_is_blamed_on_the_key_that_asks_for_it(
    monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    variant = variant_of(f"{key}=gpu")
    with pytest.raises(PfstudyError) as caught:
        check_networks([variant], [device_name(variant.config)], lambda kind, details: None)
    assert str(caught.value) == f"{key}=gpu, but there is no GPU here; use auto or cpu."


def test_gpus_are_called_what_makes_them_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    gpu = SimpleNamespace(uuid="a", name="Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: gpu)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b")
    device = check_networks([], ["gpu"], lambda kind, details: None)["gpu"]
    assert (device.id, device.name) == ("MIG-b", "Some GPU")


def ignore(kind: str, details: Any) -> None:
    del kind, details


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Overrides for a folder of which some images are turned and one class is never tested."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for part, name in (("train", "ape"), ("train", "bee"), ("val", "bee")):
        (tmp_path / part / name).mkdir(parents=True)
        for number in range(8):
            pixels = np.full((8, 8, 3), 8 * number, dtype=np.uint8)
            image = Image.fromarray(pixels)
            options = {"exif": exif} if part == "val" else {}
            image.save(tmp_path / part / name / f"{number}.jpg", **options)
    return [
        *("data=imagefolder", f"data.path={tmp_path}", "data.num_classes=2", "data.image_size=8"),
        *("data.num_validation=4", "data.num_workers=0", "recipe.batch_size=4"),
        "trainer.accelerator=cpu",
    ]


def test_unusual_images_and_the_choice_of_weights_are_said_once(
    folder: list[str], tmp_path: Path
) -> None:
    config = compose(*folder)
    state = build_network(config, seed=0).state_dict()
    torch.save({"state_dict": state, "state_dict_ema": state}, tmp_path / "w.pth")
    config = replace(config, init_from=str(tmp_path / "w.pth"))
    variants = [make_variant(replace(config, seed=seed), "content") for seed in (0, 1)]
    assert check_variants(variants, ignore).notes == (
        "8 of 24 images are turned upright, as their EXIF orientation says",
        f"{tmp_path}/val has no images of 'ape', whose accuracy stays unknown",
        f"{tmp_path}/w.pth has raw and averaged weights; the raw ones (state_dict) are taken, "
        "init_weights=averaged takes state_dict_ema",
    )


def test_weights_for_other_images_are_refused_before_they_are_loaded(
    folder: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*arguments: Any, **options: Any) -> None:
        pytest.fail("loaded")

    monkeypatch.setattr("pfstudy.network.surgery._copy_pretrained", load)
    monkeypatch.setattr("pfstudy.launch.check.load_teacher", load)
    sizes = ("data.image_size=32", "recipe.augmentation.translate=null")
    teacher = "recipe.teacher=timm:resnet18"
    config = compose(*folder, *sizes, teacher, "model=vit_ti", "pretrained=true")
    with pytest.raises(PfstudyError, match=r"add data\.mean=\[0\.5,0\.5,0\.5\] data\.std="):
        check_variants([make_variant(config, "content")], ignore)
