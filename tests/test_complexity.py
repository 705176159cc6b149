from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from configs import variant_of
from pfstudy.complexity import Cost, cost, variant_cost
from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import build_network


class Attention(nn.Module):
    """Two matrix products over six tokens of four channels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NLC = x_NCHW.flatten(2).transpose(1, 2)
        return torch.bmm(torch.bmm(x_NLC, x_NLC.transpose(1, 2)), x_NLC) * self.scale


def tiny() -> nn.Sequential:
    """A 3x3 convolution from 2 to 4 channels, ReLU, and a linear layer to 10 classes."""
    layers = [("conv", nn.Conv2d(2, 4, 3, padding=1, bias=False)), ("relu", nn.ReLU()),
              ("flatten", nn.Flatten()), ("linear", nn.Linear(144, 10))]  # fmt: skip
    return nn.Sequential(OrderedDict(layers))


EXPECTED = Cost(
    params=4 * 2 * 9 + 144 * 10 + 10,
    macs=4 * 2 * 9 * 36 + 144 * 10,
    activations=4 * 36 + 10,
    memory_traffic_bytes=4
    * (
        (2 * 36 + 4 * 2 * 9 + 4 * 36)  # convolution: image, weights; output
        + (4 * 36 + 4 * 36)  # ReLU: input; output
        + (144 + 144 * 10 + 10 + 10)  # linear layer: input, weights, bias; output
    ),
)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_the_cost_of_a_network_counted_by_hand(device: str) -> None:
    assert cost(tiny().to(device), (2, 6, 6)) == EXPECTED


def test_one_number_is_the_side_of_a_square_image_of_three_channels() -> None:
    network = nn.Conv2d(3, 4, 3)
    assert cost(network, 6) == cost(network, (3, 6, 6)) == cost(network, [3, 6, 6])
    assert cost(network, 6).macs == 4 * 4 * 4 * 3 * 9


@pytest.mark.parametrize("size", [(3, 6), (3, 0, 6), (), 0, (1, 3, 6, 6)])
def test_a_wrong_size_of_images_is_named(size: int | tuple[int, ...]) -> None:
    with pytest.raises(PfstudyError) as caught:
        cost(nn.Conv2d(3, 4, 3), size)
    assert str(caught.value) == f"input_size must be (C, H, W) or a number, but got {size!r}."


def test_memory_traffic_is_counted_in_the_dtype_of_the_weights() -> None:
    counted = cost(tiny().to(torch.bfloat16), (2, 6, 6))
    assert counted.memory_traffic_bytes == EXPECTED.memory_traffic_bytes // 2
    assert counted.macs == EXPECTED.macs


def test_a_grouped_convolution_with_stride_counts_its_own_products() -> None:
    network = nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4, bias=True)
    counted = cost(network, (4, 7, 7))
    assert (counted.params, counted.macs, counted.activations) == (40, 9 * 4 * 16, 4 * 16)


def test_matrix_products_count_as_macs() -> None:
    counted = cost(Attention(), (4, 2, 3))
    assert counted.macs == 2 * 6 * 6 * 4
    assert counted.activations == 6 * 6 + 6 * 4


@pytest.mark.parametrize(
    ("pool", "num_read"),
    [pytest.param(nn.MaxPool2d(2), 144, id="max"), pytest.param(nn.AvgPool2d(2), 144, id="avg")],
)
def test_pooling_costs_memory_traffic_and_no_macs(pool: nn.Module, num_read: int) -> None:
    with_pool = cost(nn.Sequential(tiny().conv, pool), (2, 6, 6))
    without = cost(nn.Sequential(tiny().conv), (2, 6, 6))
    assert with_pool.macs == without.macs
    assert with_pool.activations == without.activations
    assert with_pool.memory_traffic_bytes >= without.memory_traffic_bytes + 4 * (num_read + 36)


@pytest.mark.parametrize("training", [True, False])
def test_the_training_mode_is_left_alone(training: bool) -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4), nn.Dropout()).train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cost(network, (2, 6, 6))
    assert [module.training for module in network.modules()] == [training] * 4
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_frozen_layer_of_a_training_network_stays_frozen() -> None:
    network = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)).train()
    network[1].eval()
    cost(network, (2, 6, 6))
    assert [module.training for module in network.modules()] == [True, True, False]


@pytest.mark.parametrize("operation", ["maxpool", "avgpool_conv"])
def test_a_variant_costs_what_its_built_network_costs(operation: str) -> None:
    variant = variant_of(f"block.spatial={operation}")
    assert variant_cost(variant) == cost(build_network(variant.config, seed=0), (1, 8, 8))


def test_the_cost_of_a_variant_does_not_read_its_checkpoint() -> None:
    variant = variant_of("block.spatial=maxpool")
    elsewhere = replace(variant, config=replace(variant.config, init_from="gone.safetensors"))
    assert variant_cost(elsewhere) == variant_cost(variant)
