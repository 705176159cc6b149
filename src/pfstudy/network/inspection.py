"""Checks of a declaration against its backbone, and of a substitution against its site.

What goes wrong silently is checked, too: a norm that belongs to another layer, windows that a
pool cannot look out of, arguments that a replacement would ignore, a class token that nothing of
the image reaches any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.network.behaviour import (
    Backbone,
    check_grid_order,
    check_image_is_used,
    check_originals,
    passing_sites,
)
from pfstudy.network.probe import BATCH, Seen, probe
from pfstudy.network.surgery import (
    build_backbone,
    find_layer,
    grid_of,
    image_shape,
    make_replacement,
    replace_layer,
    set_parent,
)
from pfstudy.ops import Projected
from pfstudy.schema.config import Config, Model
from pfstudy.schema.operations import REGISTERED_IN
from pfstudy.schema.sites import Site, list_sites, stage_and_block
from pfstudy.variant import Substitution, list_substitutions


def check_backbone(config: Config) -> Backbone:
    """Check a model's declaration against the backbone itself.

    Raises:
        PfstudyError: A pattern matches nothing or something else than the depths say, a site is
            never called or is not what is declared, the logits do not depend on the image, or
            tokens do not lie row by row.
    """
    model, data = config.model, config.data
    sites = list_sites(model)
    with torch.device("meta"):
        network = build_backbone(model, data).eval()
    _check_patterns(model, network, sites)
    norms = [path for site in sites for path in site.norm_act]
    try:
        seen = probe(network, image_shape(data), [*(site.layer for site in sites), *norms])
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise PfstudyError(
            f"model {model.name} cannot take images of {data.channels}x{data.image_size}x"
            f"{data.image_size}: {str(error).splitlines()[0]}"
        ) from None
    for site in sites:
        if site.layer not in seen:
            raise PfstudyError(
                f"model {model.name}, {site.address}: {site.layer} is never called by the backbone."
            )
        _check_site(model, site, network.get_submodule(site.layer), seen[site.layer])
        _check_norm_act(model, site, seen)
    substituted = _see_behind_parents(config, sites, seen)
    for site in sites:
        _check_input(model, site, substituted[site.layer])
    backbone = Backbone(config, network, substituted, {site.address: site for site in sites})
    check_image_is_used(backbone, frozenset())
    check_grid_order(backbone)
    check_originals(backbone)
    return backbone


def check_network(config: Config) -> None:
    """Check that the network of a config can be built and does what it says.

    Raises:
        PfstudyError: It cannot, or its logits would not depend on the image.
    """
    backbone = check_backbone(config)
    substitutions = list_substitutions(config)
    for substitution in substitutions:
        check_substitution(backbone, substitution)
    passing = passing_sites(substitutions)
    if passing:
        check_image_is_used(backbone, passing)


def check_substitution(backbone: Backbone, substitution: Substitution) -> bool:
    """Check on the meta device that an operation keeps the shape of the layer that it replaces.

    Returns:
        Whether a 1x1 convolution has to follow the operation.

    Raises:
        PfstudyError: It cannot stand there.
    """
    site, seen = backbone.sites[substitution.address], backbone.seen[substitution.layer]
    layer = find_layer(backbone.network, substitution.layer)
    height, width = _grid(site, seen)
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
            message = _first_line(error).removeprefix(f"{site.address}: ")
            raise PfstudyError(f"{site.address}: {_named(name, message)}{_place(error)}") from None
    expected = seen.out.shape
    if shape != expected:
        raise PfstudyError(
            f"{site.address}: {name} puts out {tuple(shape)}, but the backbone expects "
            f"{tuple(expected)} there."
        )
    return any(isinstance(part, Projected) for part in module.modules())


def _check_patterns(model: Model, network: nn.Module, sites: list[Site]) -> None:
    """Compare the places that are declared with those that a pattern matches."""
    names = [name for name, _ in network.named_modules()]
    declared: dict[str, Site] = {}
    for site in sites:
        other = declared.setdefault(site.layer, site)
        if other is not site:
            raise PfstudyError(
                f"model {model.name}: {other.address} and {site.address} are the same layer, "
                f"{site.layer}; a pattern of several stages or blocks needs {{stage}} or {{block}}."
            )
    for pattern in model.sites:
        expected = [site for site in sites if site.pattern is pattern]
        found = _match(pattern.layer, names, *stage_and_block((expected or sites)[0].address))
        beyond = [
            f"stage {stage}, block {block}"
            for stage, block in found
            if not (1 <= stage <= len(model.depths) and 1 <= block <= model.depths[stage - 1])
        ]
        missing = [site for site in expected if site.layer not in names]
        if missing and not found:
            try:
                find_layer(network, missing[0].layer)
            except PfstudyError as error:
                raise PfstudyError(
                    f"model {model.name}: the pattern {pattern.layer!r} matches nothing: {error}"
                ) from None
        if missing or beyond:
            depths = [sum(s == stage for s, _ in found) for stage in _stages(found)]
            what = [f"{site.address} is missing" for site in missing[:1]]
            what += [f"{place} is not declared" for place in beyond[:1]]
            raise PfstudyError(
                f"model {model.name}: depths says {list(model.depths)}, but the pattern "
                f"{pattern.layer!r} matches {depths} blocks per stage in {model.timm} "
                f"({'; '.join(what)})."
            )
    for site in declared.values():
        for path in site.norm_act:
            try:
                find_layer(network, path)
            except PfstudyError as error:
                raise PfstudyError(f"model {model.name}, {site.address}: {error}") from None


def _match(
    pattern: str, names: Iterable[str], own_stage: int, own_block: int
) -> list[tuple[int, int]]:
    """Stages and blocks, from 1, at which a pattern matches a layer; its own where it has none."""
    expression, offsets = re.escape(pattern), {}
    for key, offset in (("stage", 0), ("stage0", 1), ("block", 0), ("block0", 1)):
        escaped = re.escape("{" + key + "}")
        if escaped in expression:
            expression = expression.replace(escaped, rf"(?P<{key}>\d+)", 1)
            expression = expression.replace(escaped, rf"(?P={key})")
            offsets[key] = offset
    found = []
    for name in names:
        match = re.fullmatch(expression, name)
        if match:
            places = {"stage": {own_stage}, "block": {own_block}}
            for kind, place in places.items():
                read = {int(match[k]) + o for k, o in offsets.items() if k.rstrip("0") == kind}
                places[kind] = read or place
            if all(len(place) == 1 for place in places.values()):  # {block} and {block0} agree
                found.append((places["stage"].pop(), places["block"].pop()))
    return sorted(found)


def _stages(places: Iterable[tuple[int, int]]) -> range:
    return range(1, max((stage for stage, _ in places), default=0) + 1)


def _check_site(model: Model, site: Site, layer: nn.Module, seen: Seen) -> None:
    """Compare what is declared of a site with what stands there."""
    rank = len(site.pattern.layout)
    if seen.x.dim() != rank:
        raise PfstudyError(
            f"model {model.name}, {site.address}: the layout is declared as "
            f"{site.pattern.layout}, but {tuple(seen.x.shape)} comes in."
        )
    if isinstance(layer, nn.Conv2d):
        _check_declared(model, site, "kernel_size", site.kernel_size, layer.kernel_size[0])
        _check_declared(model, site, "original", site.pattern.original, _operation_of(layer))
        reduces = layer.stride[0] > 1
    else:
        height = site.pattern.layout.find("H")
        reduces = height > 0 and seen.x.shape[height] != seen.out.shape[height]
        if height < 0 and seen.x.shape != seen.out.shape:
            raise PfstudyError(
                f"model {model.name}, {site.address}: {tuple(seen.x.shape)} comes in and "
                f"{tuple(seen.out.shape)} goes out; a site of tokens keeps their number."
            )
    if site.reduces != reduces:
        does = "reduces" if reduces else "keeps"
        listed = "lists it" if site.reduces else "does not list it"
        raise PfstudyError(
            f"model {model.name}, {site.address}: {site.layer} {does} the resolution, but "
            f"downsample {listed}."
        )


def _check_norm_act(model: Model, site: Site, seen: Mapping[str, Seen]) -> None:
    """Check that what goes with a site reads what comes out of it, one after the other."""
    before = site.layer
    for path in site.norm_act:
        if path not in seen or seen[path].x is not seen[before].out:
            raise PfstudyError(
                f"model {model.name}, {site.address}: norm_act names {path}, but that does not "
                f"read what {before} puts out."
            )
        before = path


def _see_behind_parents(
    config: Config, sites: list[Site], seen: Mapping[str, Seen]
) -> dict[str, Seen]:
    """See what goes through the sites once the attributes of their parents are set."""
    changed = [site for site in sites if site.pattern.parent]
    if not changed:
        return dict(seen)
    with torch.device("meta"):
        network = build_backbone(config.model, config.data).eval()
    for site in changed:
        replace_layer(network, site.layer, _Through())
        try:
            set_parent(network, site.layer, site.pattern, seen[site.layer])
        except (PfstudyError, TypeError) as error:
            raise PfstudyError(f"model {config.model.name}, {site.address}: {error}") from None
    try:
        again = probe(network, image_shape(config.data), [site.layer for site in changed])
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise PfstudyError(
            f"model {config.model.name}: with the attributes under `parent` the backbone cannot "
            f"run: {str(error).splitlines()[0]}"
        ) from None
    return {**seen, **again}


class _Through(nn.Module):
    """Gives back its first argument."""

    def forward(self, x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return x


def _check_input(model: Model, site: Site, seen: Seen) -> None:
    """Check that a replacement sees whole images, and is given nothing that it would ignore."""
    place = f"model {model.name}, {site.address}"
    if seen.x.shape[0] != BATCH:
        raise PfstudyError(
            f"{place}: {site.layer} sees {seen.x.shape[0] // BATCH} windows of an image, which a "
            "replacement could not look out of; declare under `parent` what makes it see the "
            "whole grid."
        )
    if seen.extra:
        raise PfstudyError(
            f"{place}: the backbone gives {site.layer} a further argument "
            f"({', '.join(seen.extra)}), which a replacement would ignore."
        )
    try:
        height, width = _grid(site, seen)
    except PfstudyError as error:
        raise PfstudyError(f"{place}: {error}") from None
    if height != width:
        raise PfstudyError(
            f"{place}: with the layout {site.pattern.layout} {site.layer} sees a map of "
            f"{height}x{width}, but images are square; check the layout."
        )


def _grid(site: Site, seen: Seen) -> tuple[int, int]:
    return grid_of(seen, site.pattern)


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


def _operation_of(layer: nn.Conv2d) -> str:
    if type(layer) not in (nn.Conv2d, Conv2dSame):
        return type(layer).__name__
    name = "conv"
    if layer.groups > 1:
        name = "dwconv" if layer.groups == layer.in_channels else "groupconv"
    if layer.dilation == (1, 1):
        return name
    is_ours = name == "conv" and layer.dilation == (2, 2)
    return "dilated_conv" if is_ours else f"{name} with dilation {layer.dilation[0]}"


def _check_declared(model: Model, site: Site, key: str, declared: object, found: object) -> None:
    if declared != found:
        raise PfstudyError(
            f"model {model.name}, {site.address}: declared {key} is {declared}, but the backbone "
            f"has {found}."
        )


def _first_line(error: Exception) -> str:
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
