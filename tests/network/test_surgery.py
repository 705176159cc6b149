from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from configs import compose, tiny_vit, variant_of
from pfstudy.complexity import variant_cost
from pfstudy.errors import PfstudyError
from pfstudy.network.probe import Seen
from pfstudy.network.surgery import build_backbone, build_network, describe, find_layer
from pfstudy.ops import Layer
from pfstudy.ops.grid import OnGrid
from pfstudy.schema.config import Model, SitePattern
from pfstudy.schema.sites import list_sites
from pfstudy.variant import Substitution, Variant

MAXPOOL = "block.spatial=maxpool"
HYBRID = (MAXPOOL, "block.downsample=avgpool_conv")
OPERATIONS = ["original", "maxpool", "avgpool", "dwconv", "avgpool_conv", "identity"]
IMAGENET = "data=synthetic"


def on_meta(variant: Variant) -> nn.Module:
    with torch.device("meta"):
        return build_network(variant.config)


def digits(seed: int = 0, *overrides: str) -> nn.Module:
    return build_network(compose(*overrides), seed)


def disturb(network: nn.Module) -> nn.Module:
    """Draw scales and statistics of all norms, so that no branch is switched off."""
    torch.manual_seed(1)
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(std=0.1)
    return network


@pytest.mark.parametrize(
    ("overrides", "params", "macs"),
    [
        pytest.param(["model=resnet50"], 25_557_032, 4_089_184_256, id="resnet50"),
        pytest.param(["model=resnet50", MAXPOOL], 14_232_232, 2_239_496_192, id="R50-max"),
        pytest.param(["model=resnet50", *HYBRID], 17_330_600, 2_586_312_704, id="R50-hybrid"),
        pytest.param(["model=resnet18"], 11_689_512, 1_814_073_344, id="resnet18"),
        pytest.param(["model=resnet18", MAXPOOL], 5_422_632, None, id="resnet18 max"),
        pytest.param(["model=resnet18", "block.spatial=identity"], 5_422_632, None,
                     id="resnet18 identity"),
    ],
)  # fmt: skip
def test_parameters_and_macs_of_known_networks(
    overrides: list[str], params: int, macs: int | None
) -> None:
    counted = variant_cost(variant_of(IMAGENET, *overrides))
    assert counted.params == params
    assert macs is None or counted.macs == macs


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "resnet_digits"])
def test_every_site_of_a_shipped_model_is_replaced(model: str) -> None:
    variant = variant_of(f"model={model}", IMAGENET, MAXPOOL)
    network, config = on_meta(variant), variant.config
    for site in list_sites(config.model):
        pool = network.get_submodule(site.layer)
        assert isinstance(pool, nn.MaxPool2d)
        assert (pool.kernel_size, pool.padding) == (3, 1)
        assert pool.stride == (2 if site.address in config.model.downsample else 1)
    dropped = [network.get_submodule(path) for s in variant.substitutions for path in s.drops]
    assert all(type(module) is nn.Identity for module in dropped)
    assert len(dropped) == (0 if model == "resnet18" else 2 * len(config.sites))


def test_only_the_chosen_site_is_replaced() -> None:
    plain = dict(on_meta(variant_of()).named_modules())
    swapped = dict(on_meta(variant_of("site=stage1.block2", "swap=maxpool")).named_modules())
    assert plain.keys() == swapped.keys()
    changed = {path for path in plain if type(plain[path]) is not type(swapped[path])}
    assert changed == {"layer1.1.conv2", "layer1.1.bn2", "layer1.1.act2"}


def test_the_norm_stays_after_a_trainable_operation() -> None:
    network = on_meta(variant_of("block.spatial=dwconv"))
    assert network.get_submodule("layer1.0.conv2").groups == 16
    assert isinstance(network.get_submodule("layer1.0.bn2"), nn.BatchNorm2d)


def batch_norm(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    scale, shift = state[f"{name}.weight"], state[f"{name}.bias"]
    normed = (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    return normed * scale[:, None, None] + shift[:, None, None]


def r50_max_bottleneck(
    x_NCHW: torch.Tensor,
    state: dict[str, torch.Tensor],
    stride: int,
) -> torch.Tensor:
    """Bottleneck of R50-max by hand: 1x1, norm, ReLU, max-pool, 1x1, norm, shortcut, ReLU."""
    y = functional.conv2d(x_NCHW, state["conv1.weight"])
    y = batch_norm(y, state, "bn1").relu()
    y = functional.max_pool2d(y, 3, stride, 1)
    y = functional.conv2d(y, state["conv3.weight"])
    y = batch_norm(y, state, "bn3")
    shortcut = x_NCHW
    if "downsample.0.weight" in state:
        shortcut = functional.conv2d(x_NCHW, state["downsample.0.weight"], stride=stride)
        shortcut = batch_norm(shortcut, state, "downsample.1")
    return (y + shortcut).relu()


@pytest.mark.parametrize(
    ("path", "in_channels", "stride"),
    [
        pytest.param("layer1.1", 64, 1, id="plain"),
        pytest.param("layer2.0", 64, 2, id="reducing"),
    ],
)
def test_a_block_equals_the_hand_written_one(path: str, in_channels: int, stride: int) -> None:
    block = disturb(digits(0, MAXPOOL)).eval().get_submodule(path)
    x_NCHW = torch.randn(2, in_channels, 8, 8)
    expected = r50_max_bottleneck(x_NCHW, block.state_dict(), stride)
    torch.testing.assert_close(block(x_NCHW), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operation", OPERATIONS[1:])
def test_shared_layers_have_equal_initial_weights(operation: str) -> None:
    plain = digits(3).state_dict()
    swapped = digits(3, f"block.spatial={operation}").state_dict()
    shared = [key for key in plain if key in swapped and "conv2" not in key]
    assert {key.partition(".")[0] for key in shared} >= {"conv1", "layer1", "layer2", "fc"}
    assert all(torch.equal(plain[key], swapped[key]) for key in shared)


def test_an_operation_has_equal_initial_weights_wherever_else_it_stands() -> None:
    key = "layer2.1.conv2.weight"
    everywhere = digits(3, "block.spatial=dwconv").state_dict()[key]
    alone = digits(3, "block.stage2.block2.spatial=dwconv").state_dict()[key]
    assert torch.equal(everywhere, alone)


def test_sites_and_seeds_have_different_initial_weights() -> None:
    states = [digits(seed, "block.spatial=dwconv").state_dict() for seed in (3, 4)]
    keys = ["layer1.0.conv2.weight", "layer1.1.conv2.weight"]
    weights = [state[key] for state in states for key in keys]
    assert all(
        not torch.equal(one, other) for i, one in enumerate(weights) for other in weights[:i]
    )
    assert not torch.equal(states[0]["fc.weight"], states[1]["fc.weight"])


@pytest.mark.parametrize("operation", OPERATIONS[1:])
def test_building_any_variant_leaves_the_generator_in_the_same_state(operation: str) -> None:
    digits(5)
    expected = torch.rand(3)
    digits(5, f"block.spatial={operation}")
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_two_images_have_different_logits(operation: str) -> None:
    network = disturb(digits(0, f"block.spatial={operation}")).eval()
    logits = network(torch.randn(2, 1, 8, 8))
    assert logits.shape == (2, 10)
    assert not torch.allclose(logits[0], logits[1], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_parameter_gets_a_gradient(operation: str) -> None:
    network = disturb(digits(0, f"block.spatial={operation}")).train()
    functional.cross_entropy(network(torch.randn(8, 1, 8, 8)), torch.arange(8)).backward()
    without = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def declared(**changes: Any) -> Model:
    """The default model with other arguments."""
    return replace(compose().model, **changes)


def test_a_model_that_timm_lacks_is_named() -> None:
    with pytest.raises(PfstudyError, match=r"^model resnet_digits: timm \S+ has no 'resnet5000'"):
        build_backbone(declared(timm="resnet5000"), compose().data)


def test_an_argument_that_timm_refuses_is_named() -> None:
    model = declared(timm="resnet18", args={"nonsense": 1})
    with pytest.raises(PfstudyError, match=r"timm cannot build 'resnet18': .*nonsense"):
        build_backbone(model, compose().data)


def test_the_own_backbone_refuses_an_unknown_block() -> None:
    with pytest.raises(PfstudyError, match=r"block type 'botleneck' does not exist; .*bottleneck"):
        build_backbone(declared(args={"block": "botleneck"}), compose().data)


def test_a_backbone_without_published_weights_is_named() -> None:
    message = r"^pretrained=true: timm cannot load its weights of 'pfstudy_small_resnet': "
    with pytest.raises(PfstudyError, match=message):
        build_network(replace(compose(), pretrained=True), seed=0)


def test_the_path_of_a_layer_is_followed() -> None:
    network = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3)))
    assert find_layer(network, "0.1") is network[0][1]
    with pytest.raises(PfstudyError, match=r"has no layer '0\.0\.conv': 0\.0 contains no layers"):
        find_layer(network, "0.0.conv")


def substitution(layout: str = "NCHW", kernel_size: int | None = None, **pattern: Any) -> Any:
    """A max-pool in the place of the layer ``here``."""
    declaration = SitePattern("here", "conv", 3, layout=layout, **pattern)  # type: ignore[arg-type]
    return Substitution("stage1.block1", "here", "maxpool", kernel_size, (), "", declaration)


def test_a_convolution_is_described() -> None:
    layer = nn.Conv2d(4, 6, 5, stride=2, groups=2, bias=True)
    assert describe(layer, substitution()) == Layer(4, 6, 5, 2, bias=True, groups=2)
    assert describe(layer, substitution(kernel_size=3)).kernel_size == 3


@pytest.mark.parametrize(
    "arguments", [{"kernel_size": (3, 5)}, {"kernel_size": 3, "stride": (2, 1)}]
)
def test_a_convolution_that_is_not_square_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(PfstudyError, match=r"^the layer 'here' has a kernel of .* are square\.$"):
        describe(nn.Conv2d(4, 4, **arguments), substitution())


@pytest.mark.parametrize(
    ("layout", "shape", "out", "described"),
    [
        pytest.param("NCHW", (2, 4, 9, 9), (2, 6, 5, 5), (4, 6, 3, 2), id="NCHW"),
        pytest.param("NHWC", (2, 8, 8, 4), (2, 8, 8, 4), (4, 4, 3, 1), id="NHWC"),
        pytest.param("NLC", (2, 17, 4), (2, 17, 4), (4, 4, 3, 1), id="NLC"),
        pytest.param("NCL", (2, 4, 16), (2, 4, 16), (4, 4, 3, 1), id="NCL"),
    ],
)
def test_a_layer_that_is_no_convolution_is_described_by_what_goes_through_it(
    layout: str, shape: tuple[int, ...], out: tuple[int, ...], described: tuple[int, ...]
) -> None:
    seen = Seen(torch.empty(shape, device="meta"), torch.empty(out, device="meta"), ())
    assert describe(nn.Identity(), substitution(layout), seen) == Layer(*described)


def test_an_attention_is_replaced_on_the_grid_of_its_tokens() -> None:
    network = build_network(tiny_vit("maxpool", "original"), seed=0)
    replaced = network.get_submodule("blocks.0.attn")
    assert isinstance(replaced, OnGrid)
    assert (replaced.layout, replaced.prefix_tokens) == ("NLC", 1)
    tokens_NLC = torch.randn(2, 17, 16)
    on_grid = tokens_NLC[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
    expected = functional.max_pool2d(on_grid, 3, 1, 1).flatten(2).transpose(1, 2)
    torch.testing.assert_close(replaced(tokens_NLC)[:, 1:], expected, rtol=0, atol=0)
    assert torch.equal(replaced(tokens_NLC)[:, 0], tokens_NLC[:, 0])
    assert type(network.get_submodule("blocks.1.attn")).__name__ == "Attention"


def test_an_attention_that_stays_has_the_weights_it_would_have_had() -> None:
    plain = build_network(tiny_vit(), seed=3).state_dict()
    swapped = build_network(tiny_vit("dwconv", "original"), seed=3).state_dict()
    shared = plain.keys() & swapped.keys()
    assert any(key.startswith("blocks.1.attn.") for key in shared)
    assert all(torch.equal(plain[key], swapped[key]) for key in shared)


@pytest.mark.parametrize(
    ("model", "std", "operation", "layers"),
    [
        pytest.param("vit_digits", 0.145, "maxpool_mlp", ("expand", "reduce"), id="vit_digits"),
        pytest.param("vit_ti", 0.02, "maxpool_mlp", ("expand", "reduce"), id="vit_ti"),
        pytest.param("vit_ti", 0.02, "self_attention", ("qkv", "project"), id="self_attention"),
    ],
)
def test_new_linear_layers_are_drawn_as_those_of_the_attention_that_they_replace(
    model: str, std: float, operation: str, layers: tuple[str, ...]
) -> None:
    config = compose(f"model={model}", "data=synthetic", f"block.stage1.block1.spatial={operation}")
    blocks = build_network(config, seed=0).get_submodule("blocks")
    replaced = blocks[1].attn.qkv.weight.std().item()
    found = [getattr(blocks[0].attn.operation, name).weight.std().item() for name in layers]
    assert [replaced, *found] == pytest.approx([std] * 3, rel=0.04)


def test_an_even_kernel_is_refused_at_its_site() -> None:
    config = compose(MAXPOOL, "block.stage2.block2.kernel_size=2")
    with pytest.raises(PfstudyError, match=r"^stage2\.block2: maxpool takes an odd kernel_size"):
        build_network(config, seed=0)
