"""Backbone plus substitutions: builds the network of a variant."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import timm
import torch
from torch import nn

import pfstudy.network.backbones  # noqa: F401  # registers our backbones with timm
from pfstudy.errors import PfstudyError
from pfstudy.ops import Layer, Projected, build_operation
from pfstudy.schema.config import Config, Data, Model
from pfstudy.schema.operations import find_operation
from pfstudy.variant import Substitution, Variant


def build_backbone(model: Model, data: Data) -> nn.Module:
    """Build the unsubstituted backbone for the images and classes of a dataset.

    Returns:
        A network ``(N, data.channels, H, W) -> (N, data.num_classes)``.

    Raises:
        PfstudyError: timm has no such model, or it does not take these arguments.
    """
    if not timm.is_model(model.timm):
        raise PfstudyError(f"model {model.name}: timm {timm.__version__} has no {model.timm!r}.")
    try:
        network: nn.Module = timm.create_model(
            model.timm, in_chans=data.channels, num_classes=data.num_classes, **model.args
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise PfstudyError(
            f"model {model.name}: timm cannot build {model.timm!r}: {error}"
        ) from None
    return network


def build_network(variant: Variant, seed: int | None = None) -> nn.Module:
    """Build the network of a variant.

    The backbone draws its weights first and every operation draws its own from a generator of
    its site, so that with one seed all variants agree in every layer that they share.

    Args:
        variant: What to build.
        seed: Seed of the initial weights; ``None`` draws from the current generator.

    Raises:
        PfstudyError: The backbone or an operation cannot be built, or the checkpoint to start
            from does not fit.
    """
    config = variant.config
    if seed is not None:
        torch.manual_seed(seed)
    network = build_backbone(config.model, config.data)
    for substitution in variant.substitutions:
        substitute(network, substitution, seed)
    if config.init_from:
        load_weights(network, config.init_from)
    return network


def substitute(network: nn.Module, substitution: Substitution, seed: int | None = None) -> None:
    """Put an operation in the place of a layer, in place.

    Keeps everything else, copies no weights, and drops the replaced layer and what
    ``substitution.drops`` names.

    Raises:
        PfstudyError: The backbone has no such layer, or the operation cannot stand there.
    """
    layer = find_layer(network, substitution.layer)
    described = describe(layer, substitution.layer, substitution.kernel_size)
    with torch.random.fork_rng(devices=[], enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(_site_seed(seed, substitution.layer))
        try:
            operation = build_operation(find_operation(substitution.operation), described)
        except PfstudyError as error:
            raise PfstudyError(f"{substitution.address}: {error}") from None
    _replace(network, substitution.layer, operation)
    for path in substitution.drops:
        find_layer(network, path)
        _replace(network, path, nn.Identity())


def find_layer(network: nn.Module, path: str) -> nn.Module:
    """Return the submodule at a path.

    Raises:
        PfstudyError: There is none; shows what stands at the last place that exists.
    """
    here = network
    reached: list[str] = []
    for name in path.split("."):
        children = dict(here.named_children())
        if name not in children:
            place = ".".join(reached) or type(network).__name__
            raise PfstudyError(
                f"the backbone has no layer {path!r}: {place} contains "
                f"{', '.join(children) or 'no layers'}."
            )
        here = children[name]
        reached.append(name)
    return here


def describe(layer: nn.Module, path: str, kernel_size: int | None = None) -> Layer:
    """Describe the layer at a site to the operation that will replace it.

    Args:
        layer: A 2-d convolution.
        path: Its path, for the error.
        kernel_size: Kernel of the operation; ``None`` for that of the layer.

    Raises:
        PfstudyError: The layer is no convolution.
    """
    if not isinstance(layer, nn.Conv2d):
        raise PfstudyError(
            f"the layer {path!r} is a {type(layer).__name__}, but a site is a Conv2d."
        )
    return Layer(
        in_channels=layer.in_channels,
        out_channels=layer.out_channels,
        kernel_size=kernel_size or layer.kernel_size[0],
        stride=layer.stride[0],
        bias=layer.bias is not None,
    )


def load_weights(network: nn.Module, path: str) -> None:
    """Load a checkpoint, safetensors or a state dict, whose names are the network's own.

    Raises:
        PfstudyError: The file is no checkpoint, or belongs to another network.
    """
    try:
        if Path(path).suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PfstudyError(f"init_from={path} is no readable checkpoint: {reason}") from None
    if not isinstance(state, dict) or not all(torch.is_tensor(v) for v in state.values()):
        raise PfstudyError(f"init_from={path} is no state dict: expected names and tensors.")
    ours = network.state_dict()
    missing, left_over = sorted(ours.keys() - state.keys()), sorted(state.keys() - ours.keys())
    reshaped = [n for n in ours.keys() & state.keys() if ours[n].shape != state[n].shape]
    if missing or left_over or reshaped:
        raise PfstudyError(
            f"init_from={path} belongs to another network: {_some('missing', missing)}, "
            f"{_some('left over', left_over)}, {_some('of another shape', sorted(reshaped))}."
        )
    network.load_state_dict(state)


def check_backbone(config: Config, layers: Iterable[tuple[str, str]]) -> dict[str, torch.Size]:
    """Check a model's declaration against the backbone itself.

    Args:
        config: Holds the declaration and the size of the images.
        layers: Address and layer path of every site.

    Returns:
        Shape of what goes into every site, for one image, by address.

    Raises:
        PfstudyError: A site does not exist, is never called, or is not what is declared.
    """
    model, data = config.model, config.data
    with torch.device("meta"):
        network = build_backbone(model, data).eval()
        image = torch.empty(1, data.channels, data.image_size, data.image_size)
    shapes: dict[str, torch.Size] = {}
    for address, path in layers:
        try:
            layer = find_layer(network, path)
            described = describe(layer, path)
            for name in model.sites.norm_act:
                find_layer(network, f"{path.rpartition('.')[0]}.{name}")
        except PfstudyError as error:
            raise PfstudyError(f"model {model.name}, {address}: {error}") from None
        assert isinstance(layer, nn.Conv2d)
        _check_declared(model, address, "kernel_size", model.sites.kernel_size, layer.kernel_size)
        _check_declared(model, address, "original", model.sites.original, _operation_of(layer))
        reduces = described.stride > 1
        _check_declared(model, address, "downsample", address in model.downsample, reduces)
        layer.register_forward_hook(
            lambda _, inputs, __, address=address: shapes.update({address: inputs[0].shape})
        )
    try:
        network(image)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise PfstudyError(
            f"model {model.name} cannot take images of {data.channels}x{data.image_size}x"
            f"{data.image_size}: {str(error).splitlines()[0]}"
        ) from None
    silent = [address for address, _ in layers if address not in shapes]
    if silent:
        raise PfstudyError(f"model {model.name}: {silent[0]} is never called by the backbone.")
    return shapes


def check_substitution(
    backbone: nn.Module, substitution: Substitution, input_shape: torch.Size
) -> bool:
    """Check on the meta device that an operation keeps the shape of the layer that it replaces.

    Returns:
        Whether a 1x1 convolution has to follow the operation.

    Raises:
        PfstudyError: It cannot stand there.
    """
    layer = find_layer(backbone, substitution.layer)
    operation = find_operation(substitution.operation)
    described = describe(layer, substitution.layer, substitution.kernel_size)
    with torch.device("meta"):
        x_NCHW = torch.empty(input_shape)
        try:
            module = build_operation(operation, described)
            shape = module(x_NCHW).shape
        except (PfstudyError, RuntimeError, ValueError) as error:
            raise PfstudyError(f"{substitution.address}: {str(error).splitlines()[0]}") from None
    expected = layer(x_NCHW).shape
    if shape != expected:
        raise PfstudyError(
            f"{substitution.address}: {operation.name} puts out {tuple(shape)}, but the backbone "
            f"expects {tuple(expected)} there."
        )
    return isinstance(module, Projected)


def _operation_of(layer: nn.Conv2d) -> str:
    if layer.groups == 1:
        return "conv"
    return "dwconv" if layer.groups == layer.in_channels else "groupconv"


def _check_declared(model: Model, address: str, key: str, declared: object, found: object) -> None:
    if isinstance(found, tuple):
        found = found[0]
    if declared != found:
        raise PfstudyError(
            f"model {model.name}, {address}: declared {key} is {declared}, but the backbone has "
            f"{found}."
        )


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _site_seed(seed: int, path: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed} {path}".encode()).digest()[:6], "big")


def _some(what: str, names: list[str]) -> str:
    if not names:
        return f"none {what}"
    return f"{len(names)} {what} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
