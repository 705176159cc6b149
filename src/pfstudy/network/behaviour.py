"""Checks of a backbone that have to compute: what it says of images, and how its tokens lie."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.network.probe import Seen
from pfstudy.network.surgery import (
    build_backbone,
    grid_of,
    image_shape,
    make_replacement,
    replace_everywhere,
    set_parent,
)
from pfstudy.ops.grid import OnGrid
from pfstudy.schema.config import Config
from pfstudy.schema.operations import OPERATIONS
from pfstudy.schema.sites import Site
from pfstudy.variant import Substitution

_LEAST_SIDE = 4


@dataclass(frozen=True, eq=False)
class Backbone:
    """A backbone that is checked.

    Attributes:
        config: Holds its declaration and the size of the images.
        network: The backbone on the meta device.
        seen: What goes through the layers of its sites, by path, as a replacement will see it.
        sites: Its sites by address.
        projects: Whether a 1x1 convolution follows, by substitution that was checked.
        called: Substitutions whose replacements were found to be called.
        used_with: Sets of passing sites with which the image was found to be used.
    """

    config: Config
    network: nn.Module
    seen: Mapping[str, Seen]
    sites: Mapping[str, Site]
    projects: dict[Substitution, bool] = field(default_factory=dict)
    called: set[Substitution] = field(default_factory=set)
    used_with: set[frozenset[str]] = field(default_factory=set)

    @cached_property
    def opened(self) -> nn.Module:
        """The backbone with random weights, and none of its gates or heads closed."""
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            network = build_backbone(self.config.model, self.config.data).eval()
            for parameter in network.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
        return network

    @cached_property
    def images(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Two random images, ``(1, C, H, W)`` each."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, *image_shape(self.config.data))
        return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def check_image_is_used(backbone: Backbone, passed: frozenset[str]) -> None:
    """Check that two images give different logits when nothing is mixed at some sites.

    A token in front of the grid learns of the image by attention alone. Where the head reads that
    token, and every attention is replaced, the network runs, but says the same of all images.

    Args:
        backbone: The backbone.
        passed: Layers of tokens whose replacement lets the tokens in front of the grid pass.

    Raises:
        PfstudyError: The logits do not depend on the image.
    """
    network, replaced = backbone.opened, {}
    sites = [site for site in backbone.sites.values() if site.layer in passed]
    for site in sites:
        replaced[site.layer] = network.get_submodule(site.layer)
        through = OnGrid(nn.Identity(), site.pattern.layout, site.pattern.prefix_tokens)
        replace_everywhere(network, site.layer, through)
        set_parent(network, site.layer, site.pattern, backbone.seen[site.layer])
    with torch.no_grad():
        one, other = map(network, backbone.images)
    for layer, module in replaced.items():
        replace_everywhere(network, layer, module)
    if any(site.pattern.parent for site in sites):
        del backbone.__dict__["opened"]  # attributes of parents are not set back
    if not torch.equal(one, other):
        return
    if not passed:
        raise PfstudyError(
            f"model {backbone.config.model.name}: the backbone says the same of two different "
            "images."
        )
    raise PfstudyError(
        "the logits would not depend on the image: the head reads a token in front of the grid, "
        "which only attention connects to it; leave attention at some site, or take a model "
        "without class token that averages over the grid"
    )


def passing_sites(substitutions: Iterable[Substitution]) -> frozenset[str]:
    """Layers whose replacement lets tokens in front of the grid pass."""
    return frozenset(s.layer for s in substitutions if s.pattern.prefix_tokens)


def check_grid_order(backbone: Backbone) -> None:
    """Check that tokens lie row by row: each sees the place of the image that it stands for.

    Looks at the first site of tokens; where these see the whole image by then, nothing is said.

    Raises:
        PfstudyError: A token sees another place.
    """
    site = next(iter(backbone.sites.values()))
    pattern, seen = site.pattern, backbone.seen[site.layer]
    if pattern.layout in ("NCHW", "NHWC") or pattern.parent:
        return
    side, _ = grid_of(seen, pattern)
    if side < _LEAST_SIDE:
        return
    caught: list[torch.Tensor] = []
    layer = backbone.opened.get_submodule(site.layer)

    def catch(_: nn.Module, args: Any) -> None:
        caught.append(args[0])

    handle = layer.register_forward_pre_hook(catch)
    try:
        image = backbone.images[0].clone().requires_grad_()
        with torch.enable_grad():
            backbone.opened(image)
    finally:
        handle.remove()
    x_NLC = caught[0].transpose(1, 2) if pattern.layout == "NCL" else caught[0]
    for row, column in ((side // 4, side // 2), (side // 2, side // 4)):
        token = x_NLC[0, pattern.prefix_tokens + row * side + column]
        (gradient,) = torch.autograd.grad(token.square().sum(), image, retain_graph=True)
        centre, spread = _place(gradient[0])
        expected = torch.tensor([row + 0.5, column + 0.5]) / side
        is_local = bool((spread < 0.15).all())
        if is_local and bool(((centre - expected).abs() > 1.5 / side).any()):
            raise PfstudyError(
                f"model {backbone.config.model.name}, {site.address}: the tokens do not lie row by "
                f"row: that of row {row + 1}, column {column + 1} sees another place of the image; "
                "an operation on the grid would mix tokens that are no neighbours."
            )


def _place(gradient_CHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where an image is looked at: centre and standard deviation, as shares of height and width."""
    mass_HW = gradient_CHW.square().sum(0)
    mass_HW = mass_HW / mass_HW.sum().clamp_min(1e-30)
    moments = []
    for axis in (0, 1):
        along = mass_HW.sum(1 - axis)
        position = (torch.arange(len(along)) + 0.5) / len(along)
        mean = (along * position).sum()
        moments.append((mean, (along * (position - mean).square()).sum().sqrt()))
    return torch.stack([m for m, _ in moments]), torch.stack([s for _, s in moments])


def check_originals(backbone: Backbone) -> None:
    """Check that sites which are declared to have one of our operations compute just that.

    A convolution tells by itself what it is; of other layers a random input tells.

    Raises:
        PfstudyError: A site computes something else.
    """
    for site in backbone.sites.values():
        layer = backbone.opened.get_submodule(site.layer)
        operation = OPERATIONS.get(site.pattern.original)
        if operation is None or isinstance(layer, nn.Conv2d):
            continue
        kernel_size = site.kernel_size if operation.has_kernel else None
        itself = Substitution(
            site.address, site.layer, operation.name, kernel_size, (), "", site.pattern
        )
        seen = backbone.seen[site.layer]
        x = torch.randn(seen.x.shape, generator=torch.Generator().manual_seed(0))
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            ours = make_replacement(layer, itself, seen).eval()
            is_same = torch.allclose(ours(x), layer(x), rtol=1e-3, atol=1e-4)
        if not is_same:
            raise PfstudyError(
                f"model {backbone.config.model.name}, {site.address}: declared original is "
                f"{operation.name}, but {site.layer} ({type(layer).__name__}) computes something "
                "else; give it a name of its own."
            )
