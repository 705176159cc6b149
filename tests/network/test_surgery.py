from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from configs import compose, variant_of
from pfstudy.cost import variant_cost
from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import (
    build_backbone,
    build_network,
    check_backbone,
    check_substitution,
    describe,
    find_layer,
    load_weights,
)
from pfstudy.schema.config import Config
from pfstudy.variant import Variant, layer_path, make_variant

MAXPOOL = "block.spatial=maxpool"
HYBRID = (MAXPOOL, "block.downsample=avgpool_conv")
OPERATIONS = ["original", "maxpool", "avgpool", "dwconv", "avgpool_conv", "identity"]
IMAGENET = "data=synthetic"


def sites_of(config: Config) -> list[tuple[str, str]]:
    return [(site.address, layer_path(config.model, site.address)) for site in config.sites]


def on_meta(variant: Variant) -> nn.Module:
    with torch.device("meta"):
        return build_network(variant)


def digits(seed: int = 0, *overrides: str) -> nn.Module:
    return build_network(variant_of(*overrides), seed)


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
def test_the_declaration_of_a_shipped_model_fits_its_backbone(model: str) -> None:
    config = compose(f"model={model}", IMAGENET)
    shapes = check_backbone(config, sites_of(config))
    assert list(shapes) == [site.address for site in config.sites]
    assert all(shape[0] == 1 and len(shape) == 4 for shape in shapes.values())


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "resnet_digits"])
def test_every_site_of_a_shipped_model_is_replaced(model: str) -> None:
    variant = variant_of(f"model={model}", IMAGENET, MAXPOOL)
    network, config = on_meta(variant), variant.config
    for address, path in sites_of(config):
        pool = network.get_submodule(path)
        assert isinstance(pool, nn.MaxPool2d)
        assert (pool.kernel_size, pool.padding) == (3, 1)
        assert pool.stride == (2 if address in config.model.downsample else 1)
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


def declared(**changes: Any) -> Config:
    """The default config with another declaration of its sites or its model."""
    config = compose()
    of_sites = {key: changes.pop(key) for key in list(changes) if key in ("layer", "norm_act",
                "original", "kernel_size")}  # fmt: skip
    model = replace(config.model, sites=replace(config.model.sites, **of_sites), **changes)
    return replace(config, model=model)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"layer": "layer{stage}.{block0}.conv9"},
                     "model resnet_digits, stage1.block1: the backbone has no layer "
                     "'layer1.0.conv9': layer1.0 contains conv1, ", id="no such layer"),
        pytest.param({"layer": "stage{stage}.{block0}.conv2"},
                     "model resnet_digits, stage1.block1: the backbone has no layer "
                     "'stage1.0.conv2': ResNet contains conv1, bn1, ", id="stages of another name"),
        pytest.param({"layer": "layer{stage}.{block}.conv2"},
                     "model resnet_digits, stage1.block2: the backbone has no layer "
                     "'layer1.2.conv2': layer1 contains 0, 1.", id="blocks counted from 1"),
        pytest.param({"layer": "layer{stage}.{block0}.bn2"},
                     "model resnet_digits, stage1.block1: the layer 'layer1.0.bn2' is a "
                     "BatchNorm2d, but a site is a Conv2d.", id="no convolution"),
        pytest.param({"norm_act": ("bn2", "relu2")},
                     "model resnet_digits, stage1.block1: the backbone has no layer "
                     "'layer1.0.relu2': layer1.0 contains conv1, ", id="no such activation"),
        pytest.param({"kernel_size": 5}, "model resnet_digits, stage1.block1: declared kernel_size "
                     "is 5, but the backbone has 3.", id="kernel"),
        pytest.param({"downsample": ()}, "model resnet_digits, stage2.block1: declared downsample "
                     "is False, but the backbone has True.", id="reducing site not declared"),
        pytest.param({"downsample": ("stage1.block1", "stage2.block1")},
                     "model resnet_digits, stage1.block1: declared downsample is True, but the "
                     "backbone has False.", id="site declared as reducing"),
        pytest.param({"original": "dwconv"}, "model resnet_digits, stage1.block1: declared "
                     "original is dwconv, but the backbone has conv.", id="original"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_shows_what_is_there(changes: dict[str, Any], sentence: str) -> None:
    config = declared(**changes)
    with pytest.raises(PfstudyError) as caught:
        check_backbone(config, sites_of(config))
    assert str(caught.value).startswith(sentence)


def test_a_model_that_timm_lacks_is_named() -> None:
    with pytest.raises(PfstudyError, match=r"^model resnet_digits: timm \S+ has no 'resnet5000'"):
        build_backbone(declared(timm="resnet5000").model, compose().data)


def test_an_argument_that_timm_refuses_is_named() -> None:
    model = declared(timm="resnet18", args={"nonsense": 1}).model
    with pytest.raises(PfstudyError, match=r"timm cannot build 'resnet18': .*nonsense"):
        build_backbone(model, compose().data)


def test_the_own_backbone_refuses_an_unknown_block() -> None:
    with pytest.raises(PfstudyError, match=r"block type 'botleneck' does not exist; .*bottleneck"):
        build_backbone(declared(args={"block": "botleneck"}).model, compose().data)


def test_the_path_of_a_layer_is_followed() -> None:
    network = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Conv2d(1, 2, 3)))
    assert find_layer(network, "0.1") is network[0][1]
    with pytest.raises(PfstudyError, match=r"has no layer '0\.0\.conv': 0\.0 contains no layers"):
        find_layer(network, "0.0.conv")


def test_a_convolution_is_described() -> None:
    layer = nn.Conv2d(4, 6, 5, stride=2, bias=True)
    described = describe(layer, "conv")
    found = (described.in_channels, described.out_channels, described.kernel_size)
    assert (*found, described.stride, described.bias) == (4, 6, 5, 2, True)
    assert describe(layer, "conv", kernel_size=3).kernel_size == 3


def test_an_even_kernel_is_refused_at_its_site() -> None:
    variant = variant_of(MAXPOOL, "block.stage2.block2.kernel_size=2")
    with pytest.raises(PfstudyError, match=r"^stage2\.block2: maxpool takes an odd kernel_size"):
        build_network(variant, seed=0)


@pytest.mark.parametrize("model", ["resnet_digits", "resnet18", "resnet50"])
def test_a_substitution_of_a_shipped_model_fits_without_a_projection(model: str) -> None:
    variant = variant_of(f"model={model}", IMAGENET, "block.spatial=maxpool")
    shapes = check_backbone(variant.config, sites_of(variant.config))
    backbone = on_meta(variant.baseline())
    found = {check_substitution(backbone, s, shapes[s.address]) for s in variant.substitutions}
    assert found == {False}


def test_a_site_that_changes_channels_is_followed_by_a_projection() -> None:
    config = declared(args={**compose().model.args, "block": "basic"}, norm_act=(),
                      layer="layer{stage}.{block0}.conv1")  # fmt: skip
    sites = tuple(replace(site, operation="maxpool") for site in config.sites)
    variant = make_variant(replace(config, sites=sites), "content")
    shapes = check_backbone(config, sites_of(config))
    backbone = on_meta(variant.baseline())
    found = {
        s.address: check_substitution(backbone, s, shapes[s.address]) for s in variant.substitutions
    }
    assert found == {a: a == "stage2.block1" for a in shapes}
    assert build_network(variant, seed=0)(torch.randn(2, 1, 8, 8)).shape == (2, 10)


def save_torch(state: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(state, path)


@pytest.mark.parametrize(
    ("ending", "save"),
    [
        pytest.param("safetensors", save_file, id="safetensors"),
        pytest.param("pt", save_torch, id="state dict"),
    ],
)
def test_a_network_starts_from_a_checkpoint(
    tmp_path: Path, ending: str, save: Callable[..., None]
) -> None:
    variant, path = variant_of(MAXPOOL), tmp_path / f"weights.{ending}"
    trained = disturb(digits(1, MAXPOOL)).state_dict()
    save(trained, path)
    config = replace(variant.config, init_from=str(path))
    loaded = build_network(make_variant(config, "content"), seed=2).state_dict()
    assert loaded.keys() == trained.keys()
    assert all(torch.equal(loaded[key], trained[key]) for key in trained)


def test_missing_left_over_and_reshaped_tensors_are_named(tmp_path: Path) -> None:
    network, path = digits(0, MAXPOOL), tmp_path / "other.safetensors"
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = {**before, "extra.weight": torch.zeros(1), "fc.weight": torch.zeros(11, 128)}
    del state["fc.bias"]
    save_file(state, path)
    with pytest.raises(PfstudyError) as caught:
        load_weights(network, str(path))
    assert str(caught.value) == (
        f"init_from={path} belongs to another network: 1 missing (fc.bias), 1 left over "
        "(extra.weight), 1 of another shape (fc.weight)."
    )
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())


def test_many_names_are_cut_to_three(tmp_path: Path) -> None:
    path = tmp_path / "baseline.safetensors"
    save_file(digits(0).state_dict(), path)
    with pytest.raises(PfstudyError) as caught:
        load_weights(digits(0, MAXPOOL), str(path))
    assert "none missing, 24 left over (layer1.0.bn2.bias, " in str(caught.value)
    assert str(caught.value).count("layer") == 3


class _Malicious:
    """An object whose unpickling makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("saved_by", [torch.save, "pickle"])
def test_a_checkpoint_that_carries_code_is_refused(tmp_path: Path, saved_by: Any) -> None:
    trace, path = tmp_path / "was_here", tmp_path / "weights.pt"
    content = {"fc.weight": _Malicious(trace)}
    if saved_by == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        saved_by(content, path)
    with pytest.raises(PfstudyError, match=r"^init_from=\S+ is no readable checkpoint: "):
        load_weights(digits(), str(path))
    assert not trace.exists()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, ending: str) -> None:
    network, path = digits(), tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else save_torch)(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(PfstudyError, match=r"^init_from=\S+ is no readable checkpoint: "):
        load_weights(network, str(path))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param([1, 2], id="a list"),
        pytest.param({"state_dict": {"fc.bias": torch.zeros(10)}}, id="a nested dict"),
    ],
)
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(PfstudyError, match=r"is no state dict: expected names and tensors\.$"):
        load_weights(digits(), str(tmp_path / "weights.pt"))


def test_a_checkpoint_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PfstudyError, match="is no readable checkpoint: "):
        load_weights(digits(), str(tmp_path / "nowhere.safetensors"))
