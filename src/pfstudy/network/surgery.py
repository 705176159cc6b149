"""Backbone plus substitutions: builds the network of a config."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import timm
import torch
from torch import nn

import pfstudy.network.backbones  # registers our backbones with timm
import pfstudy.network.pit  # noqa: F401  # as well
from pfstudy.errors import PfstudyError, first_line
from pfstudy.network.checkpoint import load_checkpoint
from pfstudy.network.probe import BATCH, Seen, probe
from pfstudy.ops import Layer, build_operation
from pfstudy.ops.grid import OnGrid, grid_side
from pfstudy.schema.config import Config, Data, Model, SitePattern
from pfstudy.schema.operations import find_operation
from pfstudy.schema.sites import list_sites
from pfstudy.variant import Substitution, check_initial_weights, list_substitutions


def build_backbone(model: Model, data: Data, pretrained: bool = False) -> nn.Module:
    """Build the unsubstituted backbone for the images and classes of a dataset.

    Args:
        model: The declaration.
        data: The dataset.
        pretrained: Whether to load timm's weights, which may have to be downloaded.

    Returns:
        A network ``(N, data.channels, H, W) -> (N, data.num_classes)``.

    Raises:
        PfstudyError: timm has no such model, or it does not take these arguments, or there are
            no weights.
    """
    if not timm.is_model(model.timm):
        raise PfstudyError(f"model {model.name}: timm {timm.__version__} has no {model.timm!r}.")

    try:
        network = _create(model, data, model.args)
    except (TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise PfstudyError(
            f"model {model.name}: timm cannot build {model.timm!r}: {first_line(error)}"
        ) from None
    if pretrained:
        _copy_pretrained(network, model, data)
    return network


def _create(model: Model, data: Data, arguments: Mapping[str, Any]) -> nn.Module:
    network: nn.Module = timm.create_model(
        model.timm, in_chans=data.channels, num_classes=data.num_classes, **arguments
    )
    return network


def create_for_weights(model: Model, data: Data, *, pretrained: bool = False) -> nn.Module:
    """Create the network that timm's weights are loaded into: without arguments that change it."""
    kept = {key: model.args[key] for key in _PRETRAINED_ARGS if key in model.args}
    return _create(model, data, {**kept, "pretrained": pretrained})


def _copy_pretrained(network: nn.Module, model: Model, data: Data) -> None:
    """Copy every tensor of timm's weights that has a place in a network, by name and shape.

    timm adapts them to the channels, classes and size of the images. A position embedding without
    the tokens in front of the grid takes what is behind them.
    """
    try:
        theirs = create_for_weights(model, data, pretrained=True).state_dict()
    except Exception as error:  # of timm, of the hub, of the network
        raise PfstudyError(
            f"pretrained=true: timm cannot load its weights of {model.timm!r}: {first_line(error)}"
        ) from None
    has_no_prefix = all(pattern.prefix_tokens == 0 for pattern in model.sites)
    num_copied = 0
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            source = theirs.get(name)
            if source is None:
                continue
            if name.endswith("pos_embed") and source.dim() == 3 and has_no_prefix:
                num_surplus = source.shape[1] - tensor.shape[1]
                if 0 < num_surplus <= _MOST_PREFIX_TOKENS:
                    source = source[:, num_surplus:]
            if source.shape == tensor.shape:
                tensor.copy_(source)
                num_copied += tensor.dim() > 1  # a new head has a bias of the same shape, too
    if not num_copied:
        raise PfstudyError(
            f"pretrained=true: no tensor of timm's weights of {model.timm!r} has a place in the "
            f"network of model {model.name}."
        )


_PRETRAINED_ARGS = ("img_size", "pretrained_cfg", "pretrained_cfg_overlay")
_MOST_PREFIX_TOKENS = 5  # a class token, a distillation token, registers
_SEEN: dict[str, dict[str, Seen]] = {}


def image_shape(data: Data) -> tuple[int, int, int]:
    """``(C, H, W)`` of the images."""
    return data.channels, data.image_size, data.image_size


def backbone_key(config: Config) -> str:
    """What configs share that have the same backbone for the same images."""
    return repr((config.model, config.data))


def build_network(config: Config, seed: int | None = None) -> nn.Module:
    """Build the network that a config describes.

    The backbone draws its weights first and every operation draws its own from a generator of
    its site, so that with one seed all variants agree in every layer that they share, and in
    convolutions of the same shape that replace one another.

    Args:
        config: What to build.
        seed: Seed of the initial weights; ``None`` draws from the current generator.

    Returns:
        A network ``(N, config.data.channels, H, W) -> (N, config.data.num_classes)``.

    Raises:
        PfstudyError: The backbone or an operation cannot be built, or the checkpoint to start
            from does not fit.
    """
    check_initial_weights(config)
    if seed is not None:
        torch.manual_seed(seed)
    network = build_backbone(config.model, config.data, config.pretrained)
    substitutions = list_substitutions(config)
    seen = _see(network, config, substitutions)
    for substitution in substitutions:
        substitute(network, substitution, seed, seen.get(substitution.layer))
    if config.init_from:
        load_checkpoint(network, config.init_from, config.init_weights)
    return network


def for_training(config: Config) -> Config:
    """The config of the network that is trained: what it leaves out at random is the recipe's."""
    if not config.recipe.drop_path:
        return config
    args = {**config.model.args, "drop_path_rate": config.recipe.drop_path}
    return replace(config, model=replace(config.model, args=args))


def substitute(
    network: nn.Module,
    substitution: Substitution,
    seed: int | None = None,
    seen: Seen | None = None,
) -> None:
    """Put an operation in the place of a layer, in place, at every path of the layer.

    Keeps everything else, and drops the replaced layer and what ``substitution.drops`` names. A
    convolution whose weights have the shape of the replaced one's takes these over.

    Args:
        network: The backbone.
        substitution: What to put where.
        seed: Seed of the initial weights; ``None`` draws from the current generator.
        seen: What goes through the layer, needed where that is no convolution.

    Raises:
        PfstudyError: The backbone has no such layer, or the operation cannot stand there.
    """
    layer = find_layer(network, substitution.layer)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(site_seed(seed, substitution.layer))
        operation = make_replacement(layer, substitution, seen)
    replace_everywhere(network, substitution.layer, operation)
    for path in substitution.drops:
        find_layer(network, path)
        replace_layer(network, path, nn.Identity())
    if seen is not None:
        set_parent(network, substitution.layer, substitution.pattern, seen)


def make_replacement(
    layer: nn.Module, substitution: Substitution, seen: Seen | None = None
) -> nn.Module:
    """Build what stands in the place of a layer: the operation, in the layout of the site.

    Raises:
        PfstudyError: The operation cannot stand there.
    """
    pattern = substitution.pattern
    try:
        described = describe(layer, substitution, seen)
        operation = build_operation(find_operation(substitution.operation), described)
    except PfstudyError as error:
        raise PfstudyError(f"{substitution.address}: {error}") from None
    if pattern.layout == "NCHW":
        return operation
    return OnGrid(operation, pattern.layout, pattern.prefix_tokens)


def find_layer(network: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a path.

    Raises:
        PfstudyError: There is none; shows what stands at the last place that exists.
    """
    here = network
    reached: list[str] = []
    for name in path.split("."):
        children = {name: child for name, child in here._modules.items() if child is not None}
        if name not in children:
            place = ".".join(reached) or type(network).__name__
            raise PfstudyError(
                f"the backbone has no layer {path!r}: {place} contains "
                f"{', '.join(children) or 'no layers'}."
            )
        here = children[name]
        reached.append(name)
    return here


def describe(layer: nn.Module, substitution: Substitution, seen: Seen | None = None) -> Layer:
    """Describe the layer at a site to the operation that will replace it.

    Args:
        layer: The layer.
        substitution: Says which kernel the operation has.
        seen: What goes through the layer, needed where it is no convolution.

    Raises:
        PfstudyError: The layer is a convolution whose kernel or stride is not square.
    """
    if isinstance(layer, nn.Conv2d):
        if len(set(layer.kernel_size)) > 1 or len(set(layer.stride)) > 1:
            raise PfstudyError(
                f"the layer {substitution.layer!r} has a kernel of {layer.kernel_size} and a "
                f"stride of {layer.stride}; a site's are square."
            )
        return Layer(
            in_channels=layer.in_channels,
            out_channels=layer.out_channels,
            kernel_size=substitution.kernel_size or layer.kernel_size[0],
            stride=layer.stride[0],
            bias=layer.bias is not None,
            groups=layer.groups,
            convolution=layer,
        )
    assert seen is not None
    linear = next((m for m in layer.modules() if isinstance(m, nn.Linear)), None)
    layout = substitution.pattern.layout
    channels = layout.index("C")
    stride = 1
    if layout in ("NCHW", "NHWC"):
        height = layout.index("H")
        stride = -(-seen.x.shape[height] // max(1, seen.out.shape[height]))
    return Layer(
        in_channels=seen.x.shape[channels],
        out_channels=seen.out.shape[channels],
        kernel_size=substitution.kernel_size or 3,
        stride=stride,
        weight_std=None if linear is None else _spread(linear.weight),
    )


def _spread(weight: torch.Tensor) -> float | None:
    """Standard deviation of weights; ``None`` on the meta device, where there are none."""
    return None if weight.is_meta else float(weight.detach().std())


def grid_of(seen: Seen, pattern: SitePattern) -> tuple[int, int]:
    """Height and width of what goes through a site, or of the map whose windows go through it.

    Raises:
        PfstudyError: Its tokens form no square grid.
    """
    if pattern.layout in ("NCHW", "NHWC") and not pattern.parent:
        height = pattern.layout.index("H")
        return seen.x.shape[height], seen.x.shape[height + 1]
    channels = seen.x.shape[pattern.layout.index("C")]
    if pattern.parent and seen.around is not None and seen.around.dim() == 4:
        height = 1 if seen.around.shape[3] == channels else 2  # windows may be padded
        return seen.around.shape[height], seen.around.shape[height + 1]
    side = grid_side(seen.x.numel() // (BATCH * channels) - pattern.prefix_tokens)
    return side, side


def set_parent(network: nn.Module, path: str, pattern: SitePattern, seen: Seen) -> None:
    """Set the attributes of a layer's parent that a replacement needs.

    Raises:
        PfstudyError: The parent has no such attribute.
    """
    if not pattern.parent:
        return
    height, width = grid_of(seen, pattern)
    filled = {"{grid}": (height, width), "{area}": height * width}
    parent = network.get_submodule(path.rpartition(".")[0])
    for name, value in pattern.parent.items():
        if not hasattr(parent, name):
            raise PfstudyError(
                f"`parent` sets {name}, but {type(parent).__name__} has no such attribute."
            )
        value = filled.get(value, value) if isinstance(value, str) else value
        setattr(parent, name, tuple(value) if isinstance(value, list) else value)


def replace_layer(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at a path, and leave the other paths of the module there alone."""
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def replace_everywhere(network: nn.Module, path: str, module: nn.Module) -> None:
    """Put a module at all paths of the module at ``path``, as only one of them may be called."""
    replaced = network.get_submodule(path)
    for parent in list(network.modules()):
        for name, child in list(parent._modules.items()):  # named_children() names each once
            if child is replaced:
                setattr(parent, name, module)


def _see(
    network: nn.Module, config: Config, substitutions: tuple[Substitution, ...]
) -> dict[str, Seen]:
    """See what goes through the sites whose layers do not tell; a pass for each backbone."""
    if all(_tells_by_itself(network, substitution) for substitution in substitutions):
        return {}
    key = backbone_key(config)
    if key not in _SEEN:
        sites = [site.layer for site in list_sites(config.model)]
        _SEEN[key] = probe(network, image_shape(config.data), sites)
    return _SEEN[key]


def _tells_by_itself(network: nn.Module, substitution: Substitution) -> bool:
    is_convolution = isinstance(find_layer(network, substitution.layer), nn.Conv2d)
    return is_convolution and not substitution.pattern.parent


def site_seed(seed: int, path: str) -> int:
    """Seed of the generator that what replaces a layer draws its weights from."""
    return int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:6], "big")
