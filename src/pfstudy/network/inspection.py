"""Checks of a declaration against its backbone.

What goes wrong silently is checked, too: a norm that belongs to another layer, windows that a
pool cannot look out of, arguments that a replacement would ignore, a class token that nothing of
the image reaches any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from timm.layers import Conv2dSame
from torch import nn

from pfstudy.errors import PfstudyError, first_line
from pfstudy.network.behaviour import (
    Backbone,
    check_grid_order,
    check_image_is_used,
    check_originals,
)
from pfstudy.network.probe import BATCH, Seen, probe
from pfstudy.network.surgery import (
    build_backbone,
    find_layer,
    grid_of,
    image_shape,
    replace_everywhere,
    set_parent,
)
from pfstudy.schema.config import Config, Model
from pfstudy.schema.sites import Site, list_sites, stage_and_block


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
            f"{data.image_size}: {first_line(error)}"
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


def _check_patterns(model: Model, network: nn.Module, sites: list[Site]) -> None:
    """Compare the places that are declared with those that a pattern matches."""
    names = [name for name, _ in network.named_modules(remove_duplicate=False)]
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
    modules: dict[int, Site] = {}
    for site in declared.values():
        other = modules.setdefault(id(network.get_submodule(site.layer)), site)
        if other is not site:
            raise PfstudyError(
                f"model {model.name}: {other.address} and {site.address} are one module, which "
                f"the backbone has at {other.layer} and at {site.layer}; declare one of them."
            )
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
        replace_everywhere(network, site.layer, _Through())
        try:
            set_parent(network, site.layer, site.pattern, seen[site.layer])
        except (PfstudyError, TypeError) as error:
            raise PfstudyError(f"model {config.model.name}, {site.address}: {error}") from None
    try:
        again = probe(network, image_shape(config.data), [site.layer for site in changed])
    except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as error:
        raise PfstudyError(
            f"model {config.model.name}: with the attributes under `parent` the backbone cannot "
            f"run: {first_line(error)}"
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
        height, width = grid_of(seen, site.pattern)
    except PfstudyError as error:
        raise PfstudyError(f"{place}: {error}") from None
    if height != width:
        raise PfstudyError(
            f"{place}: with the layout {site.pattern.layout} {site.layer} sees a map of "
            f"{height}x{width}, but images are square; check the layout."
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
