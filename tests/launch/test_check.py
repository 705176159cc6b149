"""What the check says of devices; what it says of networks is in the tests of those."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from configs import variant_of
from pfstudy.errors import PfstudyError
from pfstudy.launch.check import check_networks
from pfstudy.speed.setting import device_name


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
