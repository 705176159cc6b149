from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import timm
import torch
from torch import nn

from configs import compose, tiny_vit
from pfstudy.complexity import cost
from pfstudy.errors import PfstudyError
from pfstudy.network.behaviour import Backbone, check_image_is_used, passing_sites
from pfstudy.network.inspection import check_backbone
from pfstudy.network.substitutions import check_network, check_substitution, check_substitutions
from pfstudy.network.surgery import build_network
from pfstudy.schema.config import Config, Model, SitePattern, SiteSetting
from pfstudy.schema.operations import OPERATIONS, Operation
from pfstudy.schema.sites import list_sites
from pfstudy.variant import list_substitutions

OF_A_PATTERN = {"layer", "original", "kernel_size", "norm_act", "layout", "prefix_tokens", "blocks"}
OF_A_PATTERN |= {"parent"}


def changed(config: Config, **changes: Any) -> Config:
    """A config with another declaration of its one pattern or of its model."""
    of_pattern = {key: changes.pop(key) for key in OF_A_PATTERN & changes.keys()}
    (pattern,) = config.model.sites
    return replace(
        config, model=replace(config.model, sites=(replace(pattern, **of_pattern),), **changes)
    )


def declared(**changes: Any) -> Config:
    """The default config with another declaration of its sites or its model."""
    return changed(compose(), **changes)


def swapped(config: Config, operation: str) -> Config:
    """A config whose sites all have an operation."""
    sites = [SiteSetting(s.address, operation, None, "auto") for s in list_sites(config.model)]
    return replace(config, sites=tuple(sites))


def swin(*sites: SitePattern) -> Config:
    """A Swin transformer: two blocks over 4x4 tokens in windows of 2x2, the second one shifted."""
    model = Model(
        name="swin",
        timm="swin_tiny_patch4_window7_224",
        depths=(2,),
        sites=sites,
        image_size=8,
        channels=1,
        num_classes=10,
        args={"img_size": 8, "patch_size": 2, "embed_dim": 8, "depths": [2], "num_heads": [1],
              "window_size": 2},
    )  # fmt: skip
    return swapped(replace(compose(), model=model), "original")


WINDOWS = SitePattern("layers.0.blocks.{block0}.attn", "attention", kernel_size=3, layout="NLC")
WHOLE_GRID = {"window_size": "{grid}", "window_area": "{area}", "shift_size": [0, 0]}
UNMASKED: dict[str, Any] = {**WHOLE_GRID, "attn_mask": None}


@cache
def shipped(model: str) -> Backbone:
    return check_backbone(compose(f"model={model}", "data=synthetic", "block.spatial=maxpool"))


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "resnet_digits"])
def test_the_declaration_of_a_shipped_model_fits_its_backbone(model: str) -> None:
    backbone = shipped(model)
    assert list(backbone.sites) == [site.address for site in backbone.config.sites]
    assert {p.device.type for p in backbone.network.parameters()} == {"meta"}
    for site in backbone.sites.values():
        seen = backbone.seen[site.layer]
        assert seen.x.shape[2] == seen.out.shape[2] * (2 if site.reduces else 1)


def test_several_patterns_and_kernel_sizes_of_stages_are_checked() -> None:
    (pattern,) = compose().model.sites
    first = replace(pattern, blocks=(2, 0), kernel_size=(3, 3))
    second = replace(pattern, blocks=((), (1, 2)))
    model = replace(compose().model, sites=(first, second))
    assert list(check_backbone(replace(compose(), model=model)).sites) == [
        f"stage{stage}.block{block}" for stage in (1, 2) for block in (1, 2)
    ]


def test_a_pattern_of_one_site_may_be_the_path_of_its_layer() -> None:
    backbone = check_backbone(declared(layer="layer2.1.conv2", blocks=(0, (2,)), downsample=()))
    assert list(backbone.sites) == ["stage2.block2"]


@pytest.mark.parametrize(
    ("layer", "one", "other"),
    [
        pytest.param("layer2.1.conv2", "stage1.block1", "stage1.block2", id="neither"),
        pytest.param("layer{stage}.1.conv2", "stage1.block1", "stage1.block2", id="no block"),
        pytest.param("layer2.{block0}.conv2", "stage1.block1", "stage2.block1", id="no stage"),
    ],
)
def test_two_sites_with_one_layer_are_refused(layer: str, one: str, other: str) -> None:
    message = rf"^model resnet_digits: {one} and {other} are the same layer, layer\d\.\d\.conv2; "
    with pytest.raises(PfstudyError, match=message):
        check_backbone(declared(layer=layer))


def test_a_pattern_may_leave_blocks_out() -> None:
    backbone = check_backbone(declared(blocks=(0, (2,)), downsample=()))
    assert list(backbone.sites) == ["stage2.block2"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"layer": "layer{stage}.{block0}.conv9"},
                     "model resnet_digits: the pattern 'layer{stage}.{block0}.conv9' matches "
                     "nothing: the backbone has no layer 'layer1.0.conv9': layer1.0 contains "
                     "conv1, ", id="no such layer"),
        pytest.param({"layer": "stage{stage}.{block0}.conv2"},
                     "model resnet_digits: the pattern 'stage{stage}.{block0}.conv2' matches "
                     "nothing: the backbone has no layer 'stage1.0.conv2': ResNet contains conv1, "
                     "bn1, ", id="stages of another name"),
        pytest.param({"layer": "layer{stage}.{block}.conv2"},
                     "model resnet_digits: depths says [2, 2], but the pattern "
                     "'layer{stage}.{block}.conv2' matches [2, 2] blocks per stage in "
                     "pfstudy_small_resnet (stage1.block2 is missing; stage 1, block 0 is not "
                     "declared).", id="blocks counted from 1"),
        pytest.param({"depths": (2, 3)},
                     "model resnet_digits: depths says [2, 3], but the pattern "
                     "'layer{stage}.{block0}.conv2' matches [2, 2] blocks per stage in "
                     "pfstudy_small_resnet (stage2.block3 is missing).", id="a block too many"),
        pytest.param({"depths": (2, 1)},
                     "model resnet_digits: depths says [2, 1], but the pattern "
                     "'layer{stage}.{block0}.conv2' matches [2, 2] blocks per stage in "
                     "pfstudy_small_resnet (stage 2, block 2 is not declared).",
                     id="a block too few"),
        pytest.param({"depths": (2,), "downsample": ()},
                     "model resnet_digits: depths says [2], but the pattern "
                     "'layer{stage}.{block0}.conv2' matches [2, 2] blocks per stage in "
                     "pfstudy_small_resnet (stage 2, block 1 is not declared).",
                     id="a stage too few"),
        pytest.param({"layer": "layer{stage}.{block0}.bn2", "norm_act": ("act2",)},
                     "model resnet_digits, stage2.block1: layer2.0.bn2 keeps the resolution, "
                     "but downsample lists it.", id="another layer"),
        pytest.param({"norm_act": ("bn2", "relu2")},
                     "model resnet_digits, stage1.block1: the backbone has no layer "
                     "'layer1.0.relu2': layer1.0 contains conv1, ", id="no such activation"),
        pytest.param({"norm_act": ("bn3",)},
                     "model resnet_digits, stage1.block1: norm_act names layer1.0.bn3, but that "
                     "does not read what layer1.0.conv2 puts out.", id="norm of another layer"),
        pytest.param({"norm_act": ("act2", "bn2")},
                     "model resnet_digits, stage1.block1: norm_act names layer1.0.act2, but that "
                     "does not read what layer1.0.conv2 puts out.", id="norm and activation "
                     "in the wrong order"),
        pytest.param({"kernel_size": 5}, "model resnet_digits, stage1.block1: declared kernel_size "
                     "is 5, but the backbone has 3.", id="kernel"),
        pytest.param({"kernel_size": (3, 5)}, "model resnet_digits, stage2.block1: declared "
                     "kernel_size is 5, but the backbone has 3.", id="kernel of a stage"),
        pytest.param({"downsample": ()}, "model resnet_digits, stage2.block1: layer2.0.conv2 "
                     "reduces the resolution, but downsample does not list it.",
                     id="reducing site not declared"),
        pytest.param({"downsample": ("stage1.block1", "stage2.block1")},
                     "model resnet_digits, stage1.block1: layer1.0.conv2 keeps the resolution, "
                     "but downsample lists it.", id="site declared as reducing"),
        pytest.param({"original": "dwconv"}, "model resnet_digits, stage1.block1: declared "
                     "original is dwconv, but the backbone has conv.", id="original"),
        pytest.param({"layout": "NLC"}, "model resnet_digits, stage1.block1: the layout is "
                     "declared as NLC, but (2, 16, 8, 8) comes in.", id="layout"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_shows_what_is_there(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(declared(**changes))
    assert str(caught.value).startswith(sentence)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"layout": "NCHW"}, "model tiny_vit, stage1.block1: the layout is declared as "
                     "NCHW, but (2, 17, 16) comes in.", id="layout"),
        pytest.param({"prefix_tokens": 0}, "model tiny_vit, stage1.block1: 17 tokens form no "
                     "square grid; check prefix_tokens.", id="class token forgotten"),
        pytest.param({"layer": "blocks.{block0}.attn.attn_drop"}, "model tiny_vit, stage1.block1: "
                     "blocks.0.attn.attn_drop is never called by the backbone.",
                     id="never called"),
        pytest.param({"original": "maxpool"}, "model tiny_vit, stage1.block1: declared original is "
                     "maxpool, but blocks.0.attn (Attention) computes something else; give it a "
                     "name of its own.", id="original"),
        pytest.param({"layer": "blocks.{block0}.mlp.fc1"}, "model tiny_vit, stage1.block1: "
                     "(2, 17, 16) comes in and (2, 17, 64) goes out; a site of tokens keeps their "
                     "number.", id="another shape"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_of_tokens_is_named(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(changed(tiny_vit(), **changes))
    assert str(caught.value) == sentence


def hiera() -> Config:
    """A Hiera, whose tokens lie unit by unit, and not row by row, in front of its first pool."""
    pattern = SitePattern(
        "blocks.{block0}.attn", "attention", kernel_size=3, layout="NLC", blocks=((1,),)
    )
    model = Model(
        name="hiera",
        timm="hiera_tiny_224",
        depths=(4,),
        sites=(pattern,),
        image_size=64,
        channels=1,
        num_classes=10,
        args={"img_size": 64, "embed_dim": 8, "stages": (1, 1, 1, 1)},
    )
    data = replace(compose().data, image_size=64)
    return swapped(replace(compose(), model=model, data=data), "original")


def test_tokens_that_do_not_lie_row_by_row_are_refused() -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(hiera())
    assert str(caught.value) == (
        "model hiera, stage1.block1: the tokens do not lie row by row: that of row 5, column 9 "
        "sees another place of the image; an operation on the grid would mix tokens that are no "
        "neighbours."
    )


@pytest.mark.parametrize(
    ("output_stride", "downsample", "site"),
    [
        pytest.param(16, ("stage2.block1", "stage3.block1"), "stage4.block2", id="16"),
        pytest.param(8, ("stage2.block1",), "stage3.block2", id="8"),
    ],
)
def test_a_dilated_convolution_is_no_plain_one(
    output_stride: int, downsample: tuple[str, ...], site: str
) -> None:
    config = compose("model=resnet50", "data=synthetic", "data.image_size=64")
    with pytest.raises(PfstudyError) as caught:
        check_backbone(
            changed(config, args={"output_stride": output_stride}, downsample=downsample)
        )
    assert str(caught.value) == (
        f"model resnet50, {site}: declared original is conv, but the backbone has dilated_conv."
    )


def test_an_original_of_ours_that_is_no_convolution_is_computed() -> None:
    config = compose("model=poolformer_s12", "data=synthetic", "data.image_size=32")
    check_backbone(config)
    with pytest.raises(PfstudyError, match=r"original is avgpool, but .* computes something"):
        check_backbone(changed(config, original="avgpool"))


def test_images_that_a_backbone_cannot_take_are_named() -> None:
    config = tiny_vit()
    with pytest.raises(PfstudyError, match=r"^model tiny_vit cannot take images of 1x16x16: "):
        check_backbone(replace(config, data=replace(config.data, image_size=16)))


def test_windows_are_refused() -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(swin(WINDOWS))
    assert str(caught.value) == (
        "model swin, stage1.block1: layers.0.blocks.0.attn sees 4 windows of an image, which a "
        "replacement could not look out of; declare under `parent` what makes it see the whole "
        "grid."
    )


def test_what_stands_under_parent_makes_a_site_see_the_whole_grid() -> None:
    config = swapped(swin(replace(WINDOWS, parent=UNMASKED)), "maxpool")
    backbone = check_backbone(config)
    assert [seen.x.shape for seen in backbone.seen.values()] == [(2, 16, 8)] * 2
    assert [check_substitution(backbone, s) for s in list_substitutions(config)] == [False] * 2
    network = build_network(config, seed=0).eval()
    blocks = [network.get_submodule(f"layers.0.blocks.{index}") for index in (0, 1)]
    found = [(block.window_size, block.window_area, block.shift_size) for block in blocks]
    assert found == [((4, 4), 16, (0, 0))] * 2
    # what comes from one corner reaches the pixels beside it in all windows
    x_NHWC = torch.zeros(1, 4, 4, 8)
    x_NHWC[0, 1, 1] = 5
    assert (blocks[0]._attn(x_NHWC)[0, :3, :3] == 5).all()
    assert (blocks[0]._attn(x_NHWC)[0, 3] == 0).all()


def test_an_argument_that_a_replacement_would_ignore_is_refused() -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(swin(replace(WINDOWS, parent=WHOLE_GRID)))
    assert str(caught.value) == (
        "model swin, stage1.block2: the backbone gives layers.0.blocks.1.attn a further argument "
        "(mask), which a replacement would ignore."
    )


def test_attributes_under_which_the_backbone_cannot_run_are_refused() -> None:
    message = "^model swin: with the attributes under `parent` the backbone cannot run: "
    with pytest.raises(PfstudyError, match=message):
        check_backbone(swin(replace(WINDOWS, parent={"window_area": 5})))


def test_an_attribute_of_the_wrong_type_is_refused() -> None:
    message = "^model swin, stage1.block1: cannot assign 'int' as buffer 'attn_mask'"
    with pytest.raises(PfstudyError, match=message):
        check_backbone(swin(replace(WINDOWS, parent={"attn_mask": 1})))


def test_a_misspelt_attribute_under_parent_is_named() -> None:
    message = "`parent` sets shift_sise, but SwinTransformerBlock has no such attribute"
    with pytest.raises(PfstudyError, match=message):
        check_backbone(swin(replace(WINDOWS, parent={**WHOLE_GRID, "shift_sise": [0, 0]})))


def test_the_image_must_reach_the_head_past_the_replaced_attentions() -> None:
    backbone = check_backbone(tiny_vit())
    one, both = (
        passing_sites(list_substitutions(tiny_vit("maxpool", second)))
        for second in ("original", "maxpool")
    )
    assert (one, both) == ({"blocks.0.attn"}, {"blocks.0.attn", "blocks.1.attn"})
    check_image_is_used(backbone, one)
    with pytest.raises(PfstudyError, match="the logits would not depend on the image: "):
        check_image_is_used(backbone, both)


def test_the_backbone_has_its_layers_again_after_the_image_was_followed() -> None:
    backbone = check_backbone(tiny_vit())
    before = dict(backbone.opened.named_modules())
    check_image_is_used(backbone, frozenset({"blocks.0.attn"}))
    assert dict(backbone.opened.named_modules()) == before


def test_what_stands_under_parent_is_undone_after_the_image_was_followed() -> None:
    backbone = check_backbone(swin(replace(WINDOWS, parent=UNMASKED)))
    layers = frozenset(site.layer for site in backbone.sites.values())
    check_image_is_used(backbone, layers)
    block = backbone.opened.get_submodule("layers.0.blocks.1")
    assert (block.window_size, block.shift_size) == ((2, 2), (1, 1))


def test_a_head_that_averages_over_the_grid_needs_no_attention() -> None:
    config = tiny_vit("maxpool", "maxpool", global_pool="avg")
    check_image_is_used(check_backbone(config), passing_sites(list_substitutions(config)))


def test_the_closed_head_of_a_backbone_is_opened_for_the_check() -> None:
    assert check_backbone(tiny_vit(weight_init="jax", init_values=0.0)).sites


def test_the_checks_leave_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    backbone = check_backbone(tiny_vit())
    for substitution in list_substitutions(tiny_vit("maxpool", "dwconv")):
        check_substitution(backbone, substitution)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("model", ["resnet_digits", "resnet18", "resnet50"])
def test_a_substitution_of_a_shipped_model_fits_without_a_projection(model: str) -> None:
    substitutions = list_substitutions(shipped(model).config)
    assert len(substitutions) == len(shipped(model).sites)
    assert {check_substitution(shipped(model), s) for s in substitutions} == {False}


def test_a_site_that_changes_channels_is_followed_by_a_projection() -> None:
    args = {**compose().model.args, "block": "basic"}
    config = declared(args=args, norm_act=(), layer="layer{stage}.{block0}.conv1")
    config = swapped(config, "maxpool")
    backbone = check_backbone(config)
    found = {s.address: check_substitution(backbone, s) for s in list_substitutions(config)}
    assert found == {a: a == "stage2.block1" for a in backbone.sites}
    network = build_network(config, seed=0)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 10)


class _Odd(nn.Module):
    """Cuts the last column off."""

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return x_NCHW[..., :-1]


class _Broken(nn.Module):
    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        raise TypeError("no such\nthing")


@pytest.fixture
def digits() -> Backbone:
    return check_backbone(compose())


@pytest.mark.parametrize(
    ("module", "sentence"),
    [
        pytest.param(_Odd, "stage1.block1: mine puts out (2, 16, 8, 7), but the backbone expects "
                     "(2, 16, 8, 8) there.", id="another shape"),
        pytest.param(_Broken, "stage1.block1: mine: TypeError: no such", id="an error of its own"),
    ],
)  # fmt: skip
def test_an_operation_that_cannot_stand_at_a_site_is_named(
    digits: Backbone, monkeypatch: pytest.MonkeyPatch, module: type[nn.Module], sentence: str
) -> None:
    mine = Operation("mine", lambda layer: module(), trainable=False)
    monkeypatch.setitem(OPERATIONS, "mine", mine)
    substitution, *_ = list_substitutions(swapped(compose(), "mine"))
    with pytest.raises(PfstudyError) as caught:
        check_substitution(digits, substitution)
    assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("kernel_size", "sentence"),
    [
        pytest.param(9, "stage1.block1: kernel_size=9 is larger than the map there, which is 8x8.",
                     id="larger than the map"),
        pytest.param(4, "stage1.block1: maxpool takes an odd kernel_size, but got 4.", id="even"),
    ],
)  # fmt: skip
def test_a_kernel_that_does_not_fit_is_named(
    digits: Backbone, kernel_size: int, sentence: str
) -> None:
    config = compose("block.spatial=maxpool", f"block.kernel_size={kernel_size}")
    with pytest.raises(PfstudyError) as caught:
        check_substitution(digits, list_substitutions(config)[0])
    assert str(caught.value) == sentence


def test_a_padding_that_is_not_the_same_on_all_sides_is_refused_where_the_resolution_falls() -> (
    None
):
    model = Model(
        name="lite",
        timm="tf_efficientnet_lite0",
        depths=(1, 2, 2, 3, 3, 4, 1),
        sites=(SitePattern("blocks.{stage0}.{block0}.conv_dw", "dwconv", (3, 3, 5, 3, 5, 5, 3)),),
        image_size=32,
        channels=1,
        num_classes=10,
        downsample=tuple(f"stage{stage}.block1" for stage in (2, 3, 4, 6)),
    )
    data = replace(compose().data, image_size=32)
    config = swapped(replace(compose(), model=model, data=data), "maxpool")
    backbone = check_backbone(config)
    refused = {}
    for substitution in list_substitutions(config):
        try:
            check_substitution(backbone, substitution)
        except PfstudyError as error:
            refused[substitution.address] = str(error)
    assert tuple(address for address in refused if "would shift the grid" in refused[address]) == (
        model.downsample
    )


class Scaled(nn.Module):
    """Calls what it is given, as it is given it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return 0.5 * self.layer(x_NCHW)


class SharedLayers(nn.Module):
    """One convolution at three paths, called at two; a second one that is called by its type."""

    def __init__(self, in_chans: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 4, 1)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)  # is never called here
        self.blocks = nn.ModuleList([Scaled(self.conv), Scaled(self.conv)])
        self.typed = nn.Conv2d(4, 4, 3, padding=1)
        self.second = self.typed
        self.head = nn.Linear(4, num_classes)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NCHW = self.stem(x_NCHW)
        for block in self.blocks:
            x_NCHW = x_NCHW + block(x_NCHW)
        if isinstance(self.typed, nn.Conv2d):
            x_NCHW = self.typed(x_NCHW)
        return self.head(x_NCHW.mean((2, 3)))


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    if not timm.is_model("shared_layers"):

        def shared_layers(pretrained: bool = False, **kwargs: Any) -> SharedLayers:
            return SharedLayers(kwargs["in_chans"], kwargs["num_classes"])

        shared_layers.__module__ = __name__
        timm.models.register_model(shared_layers)


def of_shared_layers(layer: str, num_blocks: int = 1, operation: str = "maxpool") -> Config:
    model = Model(
        name="shared",
        timm="shared_layers",
        depths=(num_blocks,),
        sites=(SitePattern(layer, "conv", kernel_size=3),),
        image_size=8,
        channels=1,
        num_classes=10,
    )
    return swapped(replace(compose(), model=model), operation)


@pytest.mark.parametrize("layer", ["conv", "blocks.0.layer", "blocks.1.layer"])
def test_a_replacement_stands_at_every_path_of_a_shared_module(layer: str) -> None:
    config = of_shared_layers(layer)
    check_network(config)
    network = build_network(config, seed=0)
    paths = ("conv", "blocks.0.layer", "blocks.1.layer")
    replacements = {id(network.get_submodule(path)) for path in paths}
    assert len(replacements) == 1
    x_N1HW = torch.randn(1, 1, 8, 8)
    backbone = build_network(of_shared_layers(layer, operation="original"), seed=0)
    assert not torch.equal(network(x_N1HW), backbone(x_N1HW))
    assert cost(network, (1, 8, 8)).macs == cost(backbone, (1, 8, 8)).macs - 2 * 64 * 4 * 4 * 9


def test_two_sites_that_are_one_module_are_refused() -> None:
    with pytest.raises(PfstudyError) as caught:
        check_backbone(of_shared_layers("blocks.{block0}.layer", 2))
    assert str(caught.value) == (
        "model shared: stage1.block1 and stage1.block2 are one module, which the backbone has at "
        "blocks.0.layer and at blocks.1.layer; declare one of them."
    )


@pytest.mark.parametrize("layer", ["typed", "second"])
def test_a_replacement_that_is_never_called_is_refused(layer: str) -> None:
    check_network(of_shared_layers(layer, operation="original"))
    with pytest.raises(PfstudyError) as caught:
        check_network(of_shared_layers(layer))
    assert str(caught.value) == (
        f"stage1.block1: the backbone never calls its layer {layer}, so that maxpool in its "
        "place would change nothing; declare the module that it calls."
    )


def test_a_network_that_cannot_run_with_an_operation_is_refused() -> None:
    def reads_weight(self: SharedLayers, x_NCHW: torch.Tensor) -> torch.Tensor:
        return self.head(self.typed(self.stem(x_NCHW)).mean((2, 3)) + self.typed.weight.mean())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SharedLayers, "forward", reads_weight)
        with pytest.raises(PfstudyError) as caught:
            check_network(of_shared_layers("typed"))
    assert str(caught.value) == (
        "the backbone cannot run with maxpool: AttributeError: 'MaxPool2d' object has no "
        "attribute 'weight'"
    )


def test_the_check_leaves_the_backbone_as_it_was() -> None:
    backbone = check_backbone(of_shared_layers("conv"))
    check_substitutions(backbone, list_substitutions(backbone.config))
    assert backbone.network.conv is backbone.network.blocks[1].layer
    assert isinstance(backbone.network.conv, nn.Conv2d)
