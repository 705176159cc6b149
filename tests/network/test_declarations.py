from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import compose_tree
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
from pfstudy.errors import PfstudyError
from pfstudy.network.behaviour import check_image_is_used, passing_sites
from pfstudy.network.inspection import check_backbone
from pfstudy.network.substitutions import check_substitution
from pfstudy.schema.compose import config_of
from pfstudy.schema.config import Config, SitePattern, SiteSetting
from pfstudy.schema.sites import list_sites
from pfstudy.variant import list_substitutions

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
                 ", stage4.block1: blocks.3.0.conv_dw reduces the resolution, but downsample does "
                 "not list it.", id="downsample"),
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
