from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import pfstudy.network.backbones  # noqa: F401  # registers them with timm

RESNET, MOBILENET, VIT = (f"pfstudy_small_{name}" for name in ("resnet", "mobilenet", "vit"))


def built(name: str, **args: Any) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = timm.create_model(name, **args)
    return network.eval()


def on_meta(name: str, **args: Any) -> nn.Module:
    with torch.device("meta"):
        return built(name, **args)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 32, 224])
@pytest.mark.parametrize("name", [RESNET, MOBILENET, VIT])
def test_images_of_any_size_are_taken(name: str, size: int, channels: int) -> None:
    args = {"img_size": size} if name == VIT else {}
    network = on_meta(name, in_chans=channels, num_classes=7, **args)
    images = torch.empty(2, channels, size, size, device="meta")
    assert network(images).shape == (2, 7)


@pytest.mark.parametrize("name", [RESNET, MOBILENET, VIT])
def test_weights_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"^{name} has no pretrained weights"):
        timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", [RESNET, MOBILENET, VIT])
def test_one_seed_draws_one_network(name: str) -> None:
    one, other = (built(name, in_chans=1, num_classes=10).state_dict() for _ in range(2))
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("layers", "params"),
    [
        # He et al. 2016 count 0.27 M and 0.85 M, with shortcuts that have no parameters; here two
        # of them are a 1x1 convolution and its norm: 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
        pytest.param((3, 3, 3), 269_722 + 2_752, id="ResNet-20"),
        pytest.param((9, 9, 9), 853_018 + 2_752, id="ResNet-56"),
    ],
)
def test_parameters_of_the_resnets_for_cifar(layers: tuple[int, ...], params: int) -> None:
    network = on_meta(
        RESNET, block="basic", layers=layers, channels=(16, 32, 64), in_chans=3, num_classes=10
    )
    assert num_parameters(network) == params


@pytest.mark.parametrize("num_blocks", [1, 2, 8])
def test_bottlenecks_are_stacked_in_one_stage(num_blocks: int) -> None:
    network = on_meta(RESNET, layers=[num_blocks], channels=[12], in_chans=1, num_classes=10)
    assert len(network.get_submodule("layer1")) == num_blocks
    assert all(isinstance(network.get_submodule(f"layer{i}"), nn.Identity) for i in (2, 3, 4))
    first, width = (1 * 9 * 16 + 32) + (16 * 48 + 96), 12  # stem and shortcut
    bottlenecks = sum(
        inputs * width + 9 * width * width + width * 48 + 2 * (width + width + 48)
        for inputs in [16, *[48] * (num_blocks - 1)]
    )
    assert num_parameters(network) == first + bottlenecks + (48 + 1) * 10


def test_the_resolution_falls_once_per_stage_of_the_mobilenet() -> None:
    network = on_meta(MOBILENET, layers=[1, 2, 1], channels=[8, 12, 20], in_chans=1)
    shapes = []
    for stage in network.get_submodule("blocks"):
        stage.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape)))
    network(torch.empty(2, 1, 32, 32, device="meta"))
    assert shapes == [(2, 8, 32, 32), (2, 12, 16, 16), (2, 20, 8, 8)]


def test_the_widths_and_the_kernel_of_the_mobilenet_are_those_asked_for() -> None:
    network = on_meta(
        MOBILENET, channels=[10, 32], expansion=3, kernel_size=5, stem_channels=12, head_channels=50
    )
    block = network.get_submodule("blocks.1.1")
    depthwise, head = block.get_submodule("conv_dw"), network.get_submodule("conv_head")
    assert (depthwise.in_channels, depthwise.groups, depthwise.kernel_size) == (96, 96, (5, 5))
    assert (head.in_channels, head.out_channels) == (32, 50)
    assert network.get_submodule("conv_stem").out_channels == 12


@pytest.mark.parametrize("name", [RESNET, MOBILENET])
def test_a_stage_without_a_width_is_refused(name: str) -> None:
    with pytest.raises(ValueError) as caught:
        on_meta(name, layers=[1, 1, 1], channels=[8, 16])
    assert str(caught.value) == (
        f"{name} takes a width for each stage, but got 2 channels for 3 layers."
    )


def test_more_stages_than_timm_runs_are_refused() -> None:
    with pytest.raises(ValueError) as caught:
        on_meta(RESNET, layers=[1] * 5, channels=[8] * 5)
    assert str(caught.value) == "pfstudy_small_resnet takes at most 4 stages, but got 5."


def test_the_small_vit_sees_where_a_patch_is() -> None:
    network = built(VIT, in_chans=1, num_classes=10)
    image = torch.randn(1, 1, 8, 8)
    swapped = image.clone()
    swapped[..., :2, :2], swapped[..., 6:, 6:] = image[..., 6:, 6:], image[..., :2, :2]
    logits, moved = network(torch.cat([image, swapped]))
    assert (logits - moved).abs().max() > 0.01
    assert 0.8 < network.get_parameter("pos_embed").std() < 1.2
