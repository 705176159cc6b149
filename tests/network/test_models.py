from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from configs import compose, compose_tree
from pfstudy.errors import PfstudyError
from pfstudy.network import inspection
from pfstudy.network.inspection import (
    Backbone,
    check_backbone,
    check_image_is_used,
    check_substitution,
    passing_sites,
)
from pfstudy.network.surgery import build_network, find_layer, replace_layer, substitute
from pfstudy.schema.compose import conf_directory, config_of
from pfstudy.schema.config import Config, SitePattern, SiteSetting
from pfstudy.schema.sites import list_sites
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
LAST = {"pit_s": "stage3.block4", "pit_ti": "stage3.block4", "vit_ti": "stage1.block12"}
"""Sites that keep their attention, so that the class token learns of the image."""

# one of each kind; the others differ from one of these in width and depth alone
KINDS = ["convnext_t", "mixer_s32", "mobilenet_digits", "mobilenetv3", "pit_s", "pit_s_gap"]
KINDS += ["poolformer_s12", "regnety_004", "resnet20", "resnet29", "resnet50", "swin_t"]
KINDS += ["vit_digits", "vit_ti", "vit_ti_gap"]

# of those others, the ones whose weights take long to draw: what needs weights is a slow test
LARGE = ["deit_b", "deit_s", "mixer_b16", "pit_b", "pit_b_gap", "resnet101", "resnet34"]
LARGE += ["resnext50", "vit_b", "vit_b_gap", "vit_s", "vit_s_gap", "wide_resnet50"]


@cache
def config_for(model: str) -> Config:
    return compose(f"model={model}", "data=synthetic")


@cache
def backbone_of(model: str) -> Backbone:
    with pytest.MonkeyPatch.context() as patch:
        if model in LARGE:
            patch.setattr(inspection, "check_image_is_used", lambda *_: None)
        return check_backbone(config_for(model))


def resized(config: Config, size: int, channels: int = 3) -> Config:
    """A config for other images, of seven classes."""
    args = dict(config.model.args)
    if "img_size" in args:  # in the declaration it follows the data
        args["img_size"] = size
    data = replace(config.data, image_size=size, channels=channels, num_classes=7)
    return replace(config, model=replace(config.model, args=args), data=data)


def swapped(config: Config, operation: str | Mapping[str, str]) -> Config:
    """A config with an operation at all sites, or at some."""
    given = operation if isinstance(operation, Mapping) else {}
    default = "original" if given else operation
    sites = (replace(s, operation=given.get(s.address, default)) for s in config.sites)
    return replace(config, sites=tuple(sites))


def parameter_free(config: Config, kept: str | None = None) -> Config:
    """A config with max-pool at all sites but one, between linear layers where there are tokens."""
    pooling = {}
    for site in list_sites(config.model):
        is_attention = site.pattern.original == "attention"
        pooling[site.address] = "maxpool_mlp" if is_attention else "maxpool"
    pooling.pop(kept, None)
    return swapped(config, pooling)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(config: Config) -> nn.Module:
    with torch.device("meta"):
        return build_network(config).eval()


def shape_of_logits(network: nn.Module, config: Config) -> tuple[int, ...]:
    data = config.data
    images = torch.empty(2, data.channels, data.image_size, data.image_size, device="meta")
    return tuple(network(images).shape)


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


DECLARED = {
    "densenet121": (7_978_856, 6_078_312, """
depths: [6, 12, 24, 16]
sites:
  - layer: features.denseblock{stage}.denselayer{block}.conv2
    original: conv
    kernel_size: 3
"""),
    "repvgg_a0": (9_108_968, 4_499_816, """
depths: [2, 4, 14, 1]
downsample: [stage1.block1]
sites:
  - layer: stages.{stage0}.{block0}.conv_kxk.conv
    norm_act: [bn]
    original: conv
    kernel_size: 3
    blocks: [2, [2, 3, 4], [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14], 0]
"""),
    "efficientformer_l1": (12_289_928, 12_346_688, """
depths: [3, 2, 6, 5]
sites:
  - layer: stages.{stage0}.blocks.{block0}.token_mixer.pool
    original: avgpool
    kernel_size: 3
    blocks: [3, 2, 6, 3]
  - layer: stages.{stage0}.blocks.{block0}.token_mixer
    original: attention
    kernel_size: 3
    layout: NLC
    blocks: [0, 0, 0, [5]]
"""),
    "edgenext_xx_small": (1_327_216, 1_287_612, """
depths: [2, 2, 7, 4]  # where a block has several sites, the last ones count as further blocks
sites:
  - layer: stages.{stage0}.blocks.{block0}.conv_dw
    original: dwconv
    kernel_size: [3, 5, 7, 9]
    blocks: [2, 1, 5, 1]
  - layer: stages.{stage0}.blocks.{block0}.convs.0
    original: dwconv
    kernel_size: 3
    blocks: [0, [2], [6], [2]]
  - layer: stages.2.blocks.5.convs.1
    original: dwconv
    kernel_size: 3
    blocks: [0, 0, [7]]
  - layer: stages.3.blocks.1.convs.1
    original: dwconv
    kernel_size: 3
    blocks: [0, 0, 0, [3]]
  - layer: stages.3.blocks.1.convs.2
    original: dwconv
    kernel_size: 3
    blocks: [0, 0, 0, [4]]
"""),
}  # fmt: skip


@pytest.mark.parametrize("model", DECLARED)
def test_a_user_declares_any_backbone_of_timm(model: str, tmp_path: Path) -> None:
    before, after, declaration = DECLARED[model]
    sizes = "image_size: 224\nchannels: 3\nnum_classes: 1000\n"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / f"{model}.yaml").write_text(
        f"name: {model}\ntimm: {model}\n{sizes}{declaration}"
    )
    tree = compose_tree(f"model={model}", "data=synthetic", directories=[tmp_path])
    config = parameter_free(config_of(tree))
    backbone = check_backbone(config)
    changes_channels = {check_substitution(backbone, s) for s in list_substitutions(config)}
    assert changes_channels == {model == "densenet121"}
    network = on_meta(config)
    assert (num_parameters(backbone.network), num_parameters(network)) == (before, after)
    assert shape_of_logits(network, config) == (2, 1000)


PATTERN = SitePattern("", "", 1)


def declared(model: str, number: int = 0, /, **changes: Any) -> Config:
    """A shipped declaration for images of 32x32 with another pattern or other changes."""
    config = resized(config_for(model), 32)
    of_pattern = {key: changes.pop(key) for key in vars(PATTERN).keys() & changes.keys()}
    sites = list(config.model.sites)
    sites[number] = replace(sites[number], **of_pattern)
    config = replace(config, model=replace(config.model, sites=tuple(sites), **changes))
    return replace(config, sites=tuple(settings_of(config)))


def settings_of(config: Config) -> Iterator[SiteSetting]:
    for site in list_sites(config.model):
        yield SiteSetting(site.address, "maxpool", None, "auto")


REFUSED = [
    pytest.param("convnext_t", 0, {"layer": "stages.{stage0}.{block0}.conv_dw"},
                 ": the pattern 'stages.{stage0}.{block0}.conv_dw' matches nothing: the backbone "
                 "has no layer 'stages.0.0.conv_dw': stages.0 contains downsample, blocks.",
                 id="nothing matches"),
    pytest.param("vit_ti", 0, {"depths": (13,)},
                 ": depths says [13], but the pattern 'blocks.{block0}.attn' matches [12] blocks "
                 "per stage in vit_tiny_patch16_224 (stage1.block13 is missing).",
                 id="a block too many"),
    pytest.param("mobilenetv2", 1, {"depths": (1, 2, 3, 4, 3, 2, 1),
                                    "blocks": (0, 2, 3, 4, 3, 2, 1)},
                 ": depths says [1, 2, 3, 4, 3, 2, 1], but the pattern "
                 "'blocks.{stage0}.{block0}.conv_dw' matches [1, 2, 3, 4, 3, 3, 1] blocks per "
                 "stage in mobilenetv2_100 (stage 6, block 3 is not declared).",
                 id="a block too few"),
    pytest.param("vit_ti", 0, {"depths": (6, 6)},
                 ": stage1.block1 and stage2.block1 are the same layer, blocks.0.attn; a pattern "
                 "of several stages or blocks needs {stage} or {block}.", id="the same layer"),
    pytest.param("efficientnet_b0", 1, {"kernel_size": (3, 3, 3, 3, 5, 5, 3)},
                 ", stage3.block1: declared kernel_size is 3, but the backbone has 5.",
                 id="kernel"),
    pytest.param("regnety_004", 0, {"original": "conv"},
                 ", stage1.block1: declared original is conv, but the backbone has groupconv.",
                 id="original"),
    pytest.param("mobilenetv3", 1, {"downsample": ("stage2.block1", "stage3.block1")},
                 ", stage4.block1: declared downsample is False, but the backbone has True.",
                 id="downsample"),
    pytest.param("mobilenetv2", 0, {"norm_act": ("bn2",)},
                 ", stage1.block1: norm_act names blocks.0.0.bn2, but that does not read what "
                 "blocks.0.0.conv_dw puts out.", id="norm of another layer behind"),
    pytest.param("mobilenetv2", 1, {"norm_act": ("bn1",)},
                 ", stage2.block1: norm_act names blocks.1.0.bn1, but that does not read what "
                 "blocks.1.0.conv_dw puts out.", id="norm of another layer before"),
    pytest.param("swin_t", 0, {"parent": {}},
                 ", stage1.block1: layers.0.blocks.0.attn sees 4 windows of an image, which a "
                 "replacement could not look out of; declare under `parent` what makes it see the "
                 "whole grid.", id="windows"),
    pytest.param("swin_t", 0, {"parent": {"window_size": "{grid}", "window_area": "{area}"}},
                 ", stage1.block2: the backbone gives layers.0.blocks.1.attn a further argument "
                 "(mask), which a replacement would ignore.", id="mask"),
    pytest.param("vit_ti", 0, {"prefix_tokens": 0},
                 ", stage1.block1: 5 tokens form no square grid; check prefix_tokens.",
                 id="class token forgotten"),
    pytest.param("pit_ti_gap", 0, {"prefix_tokens": 1},
                 ", stage1.block1: 8 tokens form no square grid; check prefix_tokens.",
                 id="no class token"),
    pytest.param("mixer_s32", 0, {"layout": "NLC"},
                 ", stage1.block1: 512 tokens form no square grid; check prefix_tokens.",
                 id="tokens and channels"),
    pytest.param("vit_ti", 0, {"layout": "NHWC"},
                 ", stage1.block1: the layout is declared as NHWC, but (2, 5, 192) comes in.",
                 id="tokens as a map"),
    pytest.param("poolformer_s12", 0, {"layout": "NHWC"},
                 ", stage1.block1: with the layout NHWC stages.0.blocks.0.token_mixer sees a map "
                 "of 64x8, but images are square; check the layout.", id="channels last"),
    pytest.param("vit_ti", 0, {"layer": "blocks.{block0}.attn.attn_drop"},
                 ", stage1.block1: blocks.0.attn.attn_drop is never called by the backbone.",
                 id="never called"),
]  # fmt: skip


@pytest.mark.parametrize(("model", "number", "changes", "sentence"), REFUSED)
def test_a_wrong_declaration_is_refused(
    model: str, number: int, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(declared(model, number, **changes))
    assert str(caught.value) == f"model {model}{sentence}"


def test_a_pattern_of_one_stage_may_name_it() -> None:
    config = resized(config_for("resnet_digits"), 32)
    (pattern,) = config.model.sites
    model = replace(
        config.model,
        depths=(1, 2),
        args={**config.model.args, "layers": [1, 2]},
        sites=(
            replace(pattern, layer="layer1.0.conv2", blocks=(1, 0)),
            replace(pattern, layer="layer2.{block0}.conv2", blocks=(0, 2)),
        ),
    )
    backbone = check_backbone(replace(config, model=model))
    assert list(backbone.sites) == ["stage1.block1", "stage2.block1", "stage2.block2"]


def test_two_patterns_of_the_same_block_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "defaults: [mobilenetv2, _self_]\nname: mine\nsites:\n"
        "  - {layer: a, original: conv, kernel_size: 3, blocks: [1]}\n"
        "  - {layer: b, original: conv, kernel_size: 3}\n"
    )
    with pytest.raises(PfstudyError, match=r"two patterns declare stage1\.block1; blocks says "):
        compose_tree("model=mine", directories=[tmp_path])


@pytest.mark.parametrize("model", ["vit_ti", "pit_ti"])
def test_a_class_token_needs_an_attention_to_learn_of_the_image(model: str) -> None:
    config = resized(config_for(model), 32)
    backbone = check_backbone(config)
    everywhere = passing_sites(list_substitutions(swapped(config, "maxpool")))
    assert len(everywhere) == len(backbone.sites)
    with pytest.raises(PfstudyError, match="the logits would not depend on the image: "):
        check_image_is_used(backbone, everywhere)
    substitutions = list_substitutions(parameter_free(config, kept=LAST[model]))
    check_image_is_used(backbone, passing_sites(substitutions))


@pytest.mark.parametrize("model", ["tf_mobilenetv3_large_100", "tf_efficientnet_b0"])
def test_a_padding_of_one_side_is_refused_where_the_resolution_falls(model: str) -> None:
    shipped = "efficientnet_b0" if model == "tf_efficientnet_b0" else "mobilenetv3"
    config = declared(shipped, timm=model)
    backbone = check_backbone(config)
    for substitution in list_substitutions(config):
        if substitution.address in config.model.downsample:
            message = rf"^{substitution.address}: .* would shift the grid; leave it as it is\.$"
            with pytest.raises(PfstudyError, match=message):
                check_substitution(backbone, substitution)
        else:
            assert not check_substitution(backbone, substitution)


def test_a_kernel_larger_than_the_map_is_refused() -> None:
    config = declared("mobilenetv3")
    sites = tuple(replace(site, kernel_size=3) for site in config.sites)
    backbone = check_backbone(config)
    substitutions = {s.address: s for s in list_substitutions(replace(config, sites=sites))}
    assert not check_substitution(backbone, substitutions["stage4.block1"])
    with pytest.raises(PfstudyError) as caught:
        check_substitution(backbone, substitutions["stage6.block2"])
    assert str(caught.value) == (
        "stage6.block2: kernel_size=3 is larger than the map there, which is 1x1."
    )


@pytest.mark.slow
def test_a_backbone_with_windows_of_maps_and_several_sites_in_a_block_is_declared() -> None:
    depths, block = (2, 2, 5, 2), "stages.{}.blocks.{{block0}}."
    patterns = [
        SitePattern(
            "stages.{stage0}.blocks.{block0}.conv.conv2_kxk",
            "dwconv",
            kernel_size=3,
            norm_act=("norm2",),
            blocks=depths,
        )
    ]
    for further, layer in ((4, "attn_block.attn"), (8, "attn_grid.attn")):  # as further stages
        patterns += [
            SitePattern(
                block.format(stage) + layer,
                "attention",
                kernel_size=3,
                layout="NHWC",
                blocks=(0,) * (further + stage) + (depth,),
                parent={"partition_size": "{grid}"},
            )
            for stage, depth in enumerate(depths)
        ]
    model = replace(
        config_for("resnet50").model,
        name="maxvit",
        timm="maxvit_tiny_tf_224",
        depths=3 * depths,
        downsample=tuple(f"stage{stage}.block1" for stage in (1, 2, 3, 4)),
        sites=tuple(patterns),
    )
    config = replace(config_for("resnet50"), model=model)
    config = parameter_free(replace(config, sites=tuple(settings_of(config))))
    assert num_parameters(check_backbone(config).network) == 30_916_528
    assert num_parameters(on_meta(config)) == 34_341_576
