from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from configs import variant_of
from pfstudy import files, ledger, store
from pfstudy.complexity import Cost, Counter, cost, counting, recount, variant_cost
from pfstudy.counting import COUNTING
from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import build_network
from run_directories import old_run


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


FLOAT = 4


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "activations", "num_moved"),
    [
        pytest.param(
            nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
            *((4, 6, 6), 8 * 9 * 4 * 9, 8 * 9, 4 * 36 + 8 * 4 * 9 + 8 * 9),
            id="convolution",
        ),
        pytest.param(
            nn.Conv2d(4, 4, 3, padding=1, groups=4),
            *((4, 6, 6), 4 * 36 * 9, 4 * 36, 4 * 36 + 4 * 9 + 4 + 4 * 36),
            id="depthwise",
        ),
        pytest.param(
            nn.Linear(6, 10),  # over the last dimension of a map (N, C, H, W) of W = 6
            *((4, 5, 6), 20 * 6 * 10, 20 * 10, 20 * 6 + 6 * 10 + 10 + 20 * 10),
            id="linear on maps",
        ),
        pytest.param(
            nn.Sequential(nn.Flatten(1, 2), nn.Linear(6, 10)),
            *((4, 5, 6), 20 * 6 * 10, 20 * 10, 20 * 6 + 6 * 10 + 10 + 20 * 10),
            id="linear on tokens",
        ),
        pytest.param(
            nn.Sequential(nn.Flatten(1, 2), nn.Linear(6, 10, bias=False)),
            *((4, 5, 6), 20 * 6 * 10, 20 * 10, 20 * 6 + 6 * 10 + 20 * 10),
            id="linear without bias",
        ),
        pytest.param(
            nn.BatchNorm2d(4),  # weight, bias, running mean and variance
            *((4, 6, 6), 0, 0, 4 * 36 + 4 * 4 + 4 * 36),
            id="batch norm",
        ),
        pytest.param(
            nn.Sequential(nn.Flatten(1, 2), nn.LayerNorm(6)),
            *((4, 6, 6), 0, 0, 24 * 6 + 2 * 6 + 24 * 6),
            id="layer norm",
        ),
        pytest.param(
            nn.GroupNorm(2, 4), *((4, 6, 6), 0, 0, 4 * 36 + 2 * 4 + 4 * 36), id="group norm"
        ),
        pytest.param(nn.MaxPool2d(2), (4, 6, 6), 0, 0, 4 * 36 + 4 * 9, id="max-pool"),
        pytest.param(nn.AvgPool2d(2), (4, 6, 6), 0, 0, 4 * 36 + 4 * 9, id="avg-pool"),
        pytest.param(nn.AdaptiveMaxPool2d(1), (4, 6, 6), 0, 0, 4 * 36 + 4, id="global max-pool"),
        pytest.param(nn.AdaptiveAvgPool2d(1), (4, 6, 6), 0, 0, 4 * 36 + 4, id="global avg-pool"),
        pytest.param(nn.ReLU(inplace=True), (4, 6, 6), 0, 0, 2 * 4 * 36, id="in place"),
    ],
)
def test_each_kind_of_layer_counted_by_hand(
    layer: nn.Module, shape: tuple[int, int, int], macs: int, activations: int, num_moved: int
) -> None:
    counted = cost(layer, shape)
    assert (counted.macs, counted.activations) == (macs, activations)
    assert counted.memory_traffic_bytes == FLOAT * num_moved


class FusedAttention(nn.Module):
    """Two heads over the rows of an image as tokens; 4 channels each."""

    def __init__(self, fused: bool = True, mask: torch.Tensor | None = None) -> None:
        super().__init__()
        self.fused = fused
        self.qkv = nn.Linear(8, 24)
        self.register_buffer("mask", mask)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NLC = x_NCHW.flatten(1, 2)
        q, k, v = self.qkv(x_NLC).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            out = scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        else:
            out = (q * 4**-0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return out.transpose(1, 2).reshape(x_NLC.shape)


QKV = 6 * 8 + 8 * 24 + 24 + 6 * 24  # the linear layer on six tokens


@pytest.mark.parametrize("mask", [None, torch.zeros(6, 6)], ids=["bare", "masked"])
def test_fused_attention_reads_queries_keys_and_values_and_writes_its_output(
    mask: torch.Tensor | None,
) -> None:
    counted = cost(FusedAttention(mask=mask), (3, 2, 8))
    assert counted.macs == 6 * 8 * 24 + 2 * 6 * 6 * 8
    assert counted.activations == 6 * 24 + 6 * 8
    num_of_mask = 0 if mask is None else 36
    assert counted.memory_traffic_bytes == FLOAT * (QKV + 4 * 6 * 8 + num_of_mask)


def test_attention_in_steps_moves_every_step() -> None:
    fused, steps = (cost(FusedAttention(fused), (3, 2, 8)) for fused in (True, False))
    assert steps.macs == fused.macs
    assert steps.activations == fused.activations + 2 * 36  # the scores of both heads
    assert steps.memory_traffic_bytes > fused.memory_traffic_bytes


class Multihead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NLC = x_NCHW.flatten(1, 2)
        return self.attention(x_NLC, x_NLC, x_NLC, need_weights=False)[0]


def test_torchs_attention_is_fused_where_nobody_asks_for_its_weights() -> None:
    counted = cost(Multihead(), (3, 2, 8))
    assert counted.macs == 6 * 8 * 24 + 2 * 6 * 6 * 8 + 6 * 8 * 8
    assert counted.activations == 6 * 24 + 6 * 8 + 6 * 8


class Expanded(nn.Module):
    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return x_NCHW + x_NCHW[:, :1].expand_as(x_NCHW)


def test_what_was_expanded_is_read_once() -> None:
    assert cost(Expanded(), (4, 6, 6)).memory_traffic_bytes == FLOAT * (4 * 36 + 36 + 4 * 36)


class Filling(nn.Module):
    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        out = torch.empty_like(x_NCHW)
        out[:, :2] = x_NCHW[:, 2:]
        out[:, 2:] = torch.zeros_like(x_NCHW[:, :2])
        return out


def test_memory_that_is_reserved_or_overwritten_is_not_read() -> None:
    counted = cost(Filling(), (4, 6, 6)).memory_traffic_bytes
    assert counted == FLOAT * 2 * 36 * (2 + 1 + 2)  # a copy; zeros; their copy


@pytest.mark.parametrize(
    "name", ["resnet18", "vit_tiny_patch16_224", "convnext_tiny", "pit_ti_224"]
)
def test_what_is_counted_is_what_runs(name: str) -> None:
    network = timm.create_model(name).eval()
    images, counter = torch.zeros(1, 3, 224, 224), Counter()
    with torch.no_grad(), counting(counter):
        network(images)
    counted = cost(network, 224)
    assert counter.num_bytes == counted.memory_traffic_bytes
    assert counter.activations == counted.activations


# The repeated linear layers, the steps of attention and the indices made these 427.8, 177.9
# and 443.8 MB; a pass on the CPU confirms the figures.
@pytest.mark.parametrize(
    ("name", "activations", "num_bytes"),
    [
        ("resnet50", 11_114_984, 425_995_840),
        ("vit_tiny_patch16_224", 4_577_512, 93_525_056),
        ("convnext_tiny", 13_435_624, 357_782_720),
    ],
)
def test_activations_and_traffic_of_known_networks(
    name: str, activations: int, num_bytes: int
) -> None:
    with torch.device("meta"):
        network = timm.create_model(name)
    counted = cost(network, 224)
    assert (counted.activations, counted.memory_traffic_bytes) == (activations, num_bytes)


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


def test_an_older_run_is_counted_again(tmp_path: Path) -> None:
    run = old_run(tmp_path, "block.spatial=maxpool")
    text = (run / ledger.RECORD).read_bytes()
    (before,) = store.read_records([run])
    assert not store.is_counted_so(before["cost"])
    reports: list[object] = []
    assert recount([run], lambda *report: reports.append(report)) == {}
    assert reports == [("progress", {"done": 1, "total": 1})]
    (after,) = store.read_records([run])
    counted = asdict(variant_cost(variant_of("block.spatial=maxpool")))
    assert after["cost"] == {**before["cost"], **counted, "counting": COUNTING}
    assert (run / ledger.RECORD).read_bytes() == text


def test_a_network_that_is_built_differently_now_is_not_counted_again(tmp_path: Path) -> None:
    run = old_run(tmp_path, macs=7)
    (reason,) = recount([run], lambda *_: None).values()
    now = variant_cost(variant_of()).macs
    assert reason == (
        f"{run}: the network has {now} macs now, but the run's had 7; another version of timm may "
        "build it differently."
    )
    assert not (run.parent / store.COST).exists()


def test_a_cost_of_another_network_or_version_is_not_taken_for_that_of_a_run(
    tmp_path: Path,
) -> None:
    run = old_run(tmp_path)
    cost = {**asdict(variant_cost(variant_of())), "counting": COUNTING}
    for other in ({**cost, "macs": 7}, {**cost, "counting": COUNTING - 1}):
        files.write_json(run.parent / store.COST, other)
        (record,) = store.read_records([run])
        assert record["cost"]["activations"] == 1
