from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from torch import nn
from torch.nn import functional

from configs import compose
from models import (
    LAST,
    config_for,
    num_parameters,
    on_meta,
    parameter_free,
    resized,
    shape_of_logits,
    swapped,
)
from pfstudy.network import inspection
from pfstudy.network.behaviour import Backbone, check_image_is_used
from pfstudy.network.inspection import check_backbone
from pfstudy.network.substitutions import check_substitution
from pfstudy.network.surgery import build_network, find_layer, replace_layer, substitute
from pfstudy.schema.models import conf_directory
from pfstudy.variant import Substitution, list_substitutions

MODELS = sorted(path.stem for path in (conf_directory() / "model").glob("*.yaml"))

# parameters before and after, with max-pool at all sites, or maxpool_mlp where there are tokens
PARAMETERS = {
    "bottleneck1": (5_754, 3_418),
    "bottleneck2": (10_298, 5_626),
    "bottleneck4": (19_386, 10_042),
    "bottleneck8": (37_562, 18_874),
    "convnext_t": (28_589_128, 28_257_928),
    "deit_b": (86_567_656, None),
    "deit_s": (22_050_664, None),
    "deit_ti": (5_717_416, None),
    "efficientnet_b0": (5_288_548, 5_088_612),
    "efficientnet_b1": (7_794_184, 7_510_360),
    "mixer_b16": (59_880_472, 58_067_176),
    "mixer_s32": (19_104_624, 18_901_480),
    "mobilenet_digits": (25_530, 22_010),
    "mobilenetv2": (3_504_872, 3_426_376),
    "mobilenetv3": (5_483_032, 5_381_392),
    "pit_b": (73_764_840, None),
    "pit_b_gap": (73_107_688, None),
    "pit_s": (23_461_912, 26_530_840),
    "pit_s_gap": (23_253_544, None),
    "pit_ti": (4_847_272, None),
    "pit_ti_gap": (4_805_864, None),
    "poolformer_s12": (11_915_176, 11_915_176),
    "regnety_004": (4_344_144, 4_029_792),
    "resnet101": (44_549_160, 23_188_648),
    "resnet18": (11_689_512, 5_422_632),
    "resnet20": (272_474, 127_322),
    "resnet29": (313_114, 167_290),
    "resnet34": (21_797_672, 10_480_424),
    "resnet50": (25_557_032, 14_232_232),
    "resnet56": (855_770, 420_314),
    "resnet_digits": (52_922, 29_690),
    "resnext50": (25_028_904, 23_599_144),
    "swin_t": (28_288_354, 32_578_120),
    "vit_b": (86_567_656, None),
    "vit_b_gap": (86_566_120, 100_721_896),
    "vit_cifar": (4_027_786, None),
    "vit_digits": (114_682, None),
    "vit_s": (22_050_664, None),
    "vit_s_gap": (22_049_896, 25_588_840),
    "vit_ti": (5_717_416, None),
    "vit_ti_gap": (5_717_032, 6_601_768),
    "wide_resnet50": (68_883_240, 23_599_144),
}
# one of each kind; the others differ from one of these in width and depth alone
KINDS = ["convnext_t", "mixer_s32", "mobilenet_digits", "mobilenetv3", "pit_s", "pit_s_gap"]
KINDS += ["poolformer_s12", "regnety_004", "resnet20", "resnet29", "resnet50", "swin_t"]
KINDS += ["vit_digits", "vit_ti", "vit_ti_gap"]

# of those others, the ones whose weights take long to draw: what needs weights is a slow test
LARGE = ["deit_b", "deit_s", "mixer_b16", "pit_b", "pit_b_gap", "resnet101", "resnet34"]
LARGE += ["resnext50", "vit_b", "vit_b_gap", "vit_s", "vit_s_gap", "wide_resnet50"]


@cache
def backbone_of(model: str) -> Backbone:
    with pytest.MonkeyPatch.context() as patch:
        if model in LARGE:
            patch.setattr(inspection, "check_image_is_used", lambda *_: None)
        return check_backbone(config_for(model))


@contextmanager
def replaced(backbone: Backbone, substitution: Substitution) -> Iterator[nn.Module]:
    """The backbone with one substitution, for a while."""
    network = backbone.network
    paths = (substitution.layer, *substitution.drops)
    modules = {path: find_layer(network, path) for path in paths}
    parent = network.get_submodule(substitution.layer.rpartition(".")[0])
    attributes = {name: getattr(parent, name) for name in substitution.pattern.parent}
    with torch.device("meta"):
        substitute(network, substitution, seen=backbone.seen[substitution.layer])
    yield network
    for path, module in modules.items():
        replace_layer(network, path, module)
    for name, value in attributes.items():
        setattr(parent, name, value)


def test_the_figures_of_every_shipped_model_are_known() -> None:
    assert list(PARAMETERS) == MODELS


@pytest.mark.parametrize("model", MODELS)
def test_a_shipped_declaration_fits_its_backbone(model: str) -> None:
    backbone = backbone_of(model)
    assert config_for(model).model.name == model
    assert list(backbone.sites) == [site.address for site in config_for(model).sites]


@pytest.mark.slow
@pytest.mark.parametrize("model", LARGE)
def test_a_large_backbone_looks_at_the_image(model: str) -> None:
    check_image_is_used(backbone_of(model), frozenset())


@pytest.mark.parametrize("model", MODELS)
def test_parameters_before_and_after(model: str) -> None:
    before, after = PARAMETERS[model]
    config = config_for(model)
    assert num_parameters(backbone_of(model).network) == before
    network = on_meta(parameter_free(config, kept=LAST.get(model)))
    assert after is None or num_parameters(network) == after
    assert shape_of_logits(network, config) == (2, config.data.num_classes)


@pytest.mark.parametrize("model", MODELS)
def test_the_head_of_a_declaration_states_its_parameters(model: str) -> None:
    text = (conf_directory() / "model" / f"{model}.yaml").read_text()
    head = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
    before, after = PARAMETERS[model]
    assert f"{before:,} parameters" in head
    assert after is None or f"{after:,}" in head or f"{before:,} parameters, and as many" in head


@pytest.mark.parametrize("model", MODELS)
def test_every_operation_fits_at_every_site(model: str) -> None:
    backbone = backbone_of(model)
    for operation in ("maxpool", "avgpool", "identity"):
        config = swapped(config_for(model), operation)
        found = {check_substitution(backbone, s) for s in list_substitutions(config)}
        assert found == {False}  # no channels change, so nothing follows the operation


@pytest.mark.slow
@pytest.mark.parametrize("model", KINDS)
def test_every_site_can_be_replaced_by_itself(model: str) -> None:
    config, backbone = config_for(model), backbone_of(model)
    operations = ["maxpool", "avgpool", "identity"]
    for index, site in enumerate(backbone.sites.values()):
        operation = {site.address: operations[index % 3]}
        (substitution,) = list_substitutions(swapped(config, operation))
        with replaced(backbone, substitution) as network:
            assert shape_of_logits(network, config) == (2, config.data.num_classes)
    assert num_parameters(backbone.network) == PARAMETERS[model][0]


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "model", [m for m in MODELS if m.endswith("_digits") or m.startswith("bottleneck")]
)
def test_a_model_for_small_images_takes_other_ones(model: str, channels: int, size: int) -> None:
    config = resized(config_for(model), size, channels)
    network = on_meta(parameter_free(config))
    assert shape_of_logits(network, config) == (2, 7)


def test_two_backbones_that_differ_at_their_sites_alone_become_the_same_network() -> None:
    tensors = [
        {name: tensor.shape for name, tensor in network.state_dict().items()}
        for network in (
            on_meta(swapped(config_for(model), "maxpool"))
            for model in ("resnext50", "wide_resnet50")
        )
    ]
    assert tensors[0] == tensors[1]


@pytest.mark.parametrize(
    ("model", "size"),
    [
        ("bottleneck1", 8),
        ("convnext_t", 32),
        ("efficientnet_b0", 32),
        ("mixer_s32", 96),
        ("mobilenet_digits", 8),
        ("mobilenetv3", 32),
        ("pit_ti", 64),
        ("pit_ti_gap", 64),
        ("poolformer_s12", 32),
        ("regnety_004", 32),
        ("resnet18", 32),
        ("resnet29", 32),
        ("swin_t", 32),
        ("vit_digits", 8),
        ("vit_ti", 32),
        ("vit_ti_gap", 32),
    ],
)
def test_a_network_without_its_spatial_layers_learns_from_the_image(model: str, size: int) -> None:
    config = resized(config_for(model), size)
    network = build_network(parameter_free(config, kept=LAST.get(model)), seed=0).eval()
    for parameter in network.parameters():
        if not parameter.any():  # gates and heads that are closed at the start
            nn.init.normal_(parameter, std=0.1)
    logits = network(torch.randn(2, 3, size, size))
    assert logits.isfinite().all()
    assert not torch.equal(logits[0], logits[1])
    functional.cross_entropy(logits, torch.tensor([0, 1])).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


def test_the_size_of_the_images_is_that_of_the_data() -> None:
    config = compose("model=vit_ti", "data=synthetic", "data.image_size=32")
    assert config.model.args == {"img_size": 32}


@pytest.mark.parametrize("size", [32, 64])  # 8x8 and 16x16 positions, no multiples of the windows
@pytest.mark.parametrize("number", [0, 1])  # of these the second one is shifted
def test_in_swin_a_pool_looks_out_of_the_windows(size: int, number: int) -> None:
    config = swapped(resized(config_for("swin_t"), size), "maxpool")
    block = build_network(config, seed=0).eval().get_submodule(f"layers.0.blocks.{number}")
    x_NHWC = torch.randn(2, size // 4, size // 4, 96)
    x_NCHW = block.norm1(x_NHWC).permute(0, 3, 1, 2)
    pooled_NCHW = functional.max_pool2d(x_NCHW, 3, stride=1, padding=1)
    y_NHWC = x_NHWC + pooled_NCHW.permute(0, 2, 3, 1)
    torch.testing.assert_close(block(x_NHWC), y_NHWC + block.mlp(block.norm2(y_NHWC)))


def test_swin_keeps_its_windows_where_attention_stays() -> None:
    config = resized(config_for("swin_t"), 224)
    network = on_meta(swapped(config, {"stage1.block2": "maxpool"}))
    blocks = network.get_submodule("layers.0.blocks")
    assert [block.window_size for block in blocks] == [(7, 7), (56, 56)]
    assert [block.shift_size for block in network.get_submodule("layers.1.blocks")] == [
        (0, 0),
        (3, 3),
    ]


def test_width_and_kernel_are_arguments() -> None:
    config = compose("model=mobilenet_digits", "model.args.kernel_size=5")
    assert {site.kernel_size for site in check_backbone(config).sites.values()} == {5}
    config = compose("model=bottleneck2", "model.args.channels=[12]")
    assert {seen.x.shape[1] for seen in check_backbone(config).seen.values()} == {12}
