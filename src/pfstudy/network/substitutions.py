"""Checks of what replaces the layers of a backbone, and of the network as a whole."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.network.behaviour import Backbone, check_image_is_used, passing_sites
from pfstudy.network.inspection import check_backbone
from pfstudy.network.probe import BATCH, forward_on_meta
from pfstudy.network.surgery import (
    find_layer,
    grid_of,
    image_shape,
    make_replacement,
    substitute,
)
from pfstudy.ops import Projected
from pfstudy.schema.config import Config
from pfstudy.schema.operations import REGISTERED_IN
from pfstudy.schema.sites import Site
from pfstudy.variant import Substitution, list_substitutions


def check_network(config: Config) -> None:
    """Check that the network of a config can be built and does what it says.

    Raises:
        PfstudyError: It cannot, or its logits would not depend on the image.
    """
    check_substitutions(check_backbone(config), list_substitutions(config))


def check_substitutions(backbone: Backbone, substitutions: Sequence[Substitution]) -> int:
    """Check what replaces the layers of a backbone; what was checked before is remembered.

    Returns:
        Number of sites where a 1x1 convolution has to follow the operation.

    Raises:
        PfstudyError: An operation cannot stand at its site or would never be called, or the logits
            would not depend on the image.
    """
    for substitution in substitutions:
        if substitution not in backbone.projects:
            backbone.projects[substitution] = check_substitution(backbone, substitution)
    if not backbone.called.issuperset(substitutions):
        check_replacements_are_called(backbone, substitutions)
        backbone.called.update(substitutions)
    passing = passing_sites(substitutions)
    if passing and passing not in backbone.used_with:
        check_image_is_used(backbone, passing)
        backbone.used_with.add(passing)
    return sum(backbone.projects[substitution] for substitution in substitutions)


def check_substitution(backbone: Backbone, substitution: Substitution) -> bool:
    """Check on the meta device that an operation keeps the shape of the layer that it replaces.

    Returns:
        Whether a 1x1 convolution has to follow the operation.

    Raises:
        PfstudyError: It cannot stand there.
    """
    site, seen = backbone.sites[substitution.address], backbone.seen[substitution.layer]
    layer = find_layer(backbone.network, substitution.layer)
    height, width = grid_of(seen, site.pattern)
    name, kernel_size = substitution.operation, substitution.kernel_size
    if kernel_size and kernel_size > min(height, width) and kernel_size != site.kernel_size:
        raise PfstudyError(
            f"{site.address}: kernel_size={kernel_size} is larger than the map there, which is "
            f"{height}x{width}."
        )
    _check_padding(site, layer)
    with torch.device("meta"):
        try:
            module = make_replacement(layer, substitution, seen)
            shape = module(seen.x).shape
        except Exception as error:  # a user's operation can raise anything
            message = _described(error).removeprefix(f"{site.address}: ")
            raise PfstudyError(f"{site.address}: {_named(name, message)}{_place(error)}") from None
    expected = seen.out.shape
    if shape != expected:
        raise PfstudyError(
            f"{site.address}: {name} puts out {tuple(shape)}, but the backbone expects "
            f"{tuple(expected)} there."
        )
    return any(isinstance(part, Projected) for part in module.modules())


def check_replacements_are_called(
    backbone: Backbone, substitutions: Sequence[Substitution]
) -> None:
    """Check that the substituted network runs, and calls everything that was put into it.

    A backbone may compute with a module that it also has elsewhere, or compute by the type of one,
    so that what was put in its place does nothing.

    Raises:
        PfstudyError: A replacement is never called, or the network cannot run.
    """
    network = copy.deepcopy(backbone.network)
    placed: dict[str, Substitution] = {}
    calls: Counter[str] = Counter()

    def count(path: str) -> Callable[..., None]:
        return lambda *_: calls.update([path])

    with torch.device("meta"):
        for substitution in substitutions:
            substitute(network, substitution, seen=backbone.seen[substitution.layer])
            placed |= dict.fromkeys((substitution.layer, *substitution.drops), substitution)
    for path in placed:
        network.get_submodule(path).register_forward_pre_hook(count(path))
    try:
        forward_on_meta(network, (BATCH, *image_shape(backbone.config.data)))
    except Exception as error:  # of the backbone's code, or a user's
        raise PfstudyError(
            f"the backbone cannot run with {', '.join({s.operation: None for s in substitutions})}:"
            f" {_described(error)}"
        ) from None
    for path, substitution in placed.items():
        if not calls[path]:
            what = substitution.operation if path == substitution.layer else "nothing"
            raise PfstudyError(
                f"{substitution.address}: the backbone never calls its layer {path}, so that "
                f"{what} in its place would change nothing; declare the module that it calls."
            )


def _check_padding(site: Site, layer: nn.Module) -> None:
    """Refuse a site whose padding is not the same on all sides, so that the grid would shift."""
    if not isinstance(layer, nn.Conv2d) or layer.stride[0] == 1:
        return
    expected = (layer.kernel_size[0] - 1) // 2 * layer.dilation[0]
    if layer.padding not in (expected, (expected, expected)):
        raise PfstudyError(
            f"{site.address}: {site.layer} reduces the resolution with a padding of "
            f"{layer.padding} instead of {expected}, so a replacement would shift the grid; leave "
            "it as it is."
        )


def _described(error: Exception) -> str:
    first = (str(error).splitlines() or [""])[0]
    return first if isinstance(error, PfstudyError) else f"{type(error).__name__}: {first}"


def _place(error: Exception) -> str:
    """File and line of an error in the user's own code."""
    trace, place = error.__traceback__, ""
    own = {Path(file).resolve() for file in REGISTERED_IN.values()}
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.resolve() in own and file.name != "operations.py":
            place = f" ({file.name}, line {trace.tb_lineno})"
        trace = trace.tb_next
    return place


def _named(operation: str, message: str) -> str:
    """Name the operation in a message that does not."""
    return message if operation in message else f"{operation}: {message}"
