"""Builds supernets: a backbone with a mixture at every site that is searched."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from pfstudy.network.probe import Seen, probe
from pfstudy.network.surgery import (
    build_network,
    find_layer,
    image_shape,
    make_replacement,
    replace_everywhere,
    replace_layer,
    set_parent,
    site_seed,
)
from pfstudy.schema.sites import Site, list_sites
from pfstudy.space import Choice, Space
from pfstudy.supernet.mixture import Mixture, Normed, ScaleNorm
from pfstudy.variant import Substitution


class Supernet(nn.Module):
    """A network with a mixture at every searched site.

    Args:
        network: The network, ``(N, C, H, W) -> (N, num_classes)``.
        mixtures: Its mixtures, in the order of the searched sites.
    """

    def __init__(self, network: nn.Module, mixtures: Sequence[Mixture]) -> None:
        super().__init__()
        self.network = network
        self._mixtures = tuple(mixtures)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits, ``(N, num_classes)``."""
        logits: torch.Tensor = self.network(x_NCHW)
        return logits

    def mix(self, weights_SK: Sequence[torch.Tensor]) -> None:
        """Have every site compute the mixture of its operations, with these weights."""
        for mixture, weights_K in zip(self._mixtures, weights_SK, strict=True):
            mixture.weights_K, mixture.chosen = weights_K, None

    def take(self, choice: Choice) -> None:
        """Have every site compute one operation alone."""
        for mixture, chosen in zip(self._mixtures, choice, strict=True):
            mixture.weights_K, mixture.chosen = None, chosen


def build_supernet(space: Space, seed: int, *, mixes: bool) -> Supernet:
    """Build the supernet of a space.

    Where a site has a norm of its own, every candidate has one of these behind it, and a supernet
    that takes one path is that network with ``norm_act=keep``. Candidates have their initial
    weights as variants have, drawn from a generator of their site.

    Args:
        space: What may stand where.
        seed: Seed of the initial weights.
        mixes: Whether mixtures are computed: candidates of sites without a norm of their own get
            a batch norm without parameters then, for the sake of their scales.

    Raises:
        PfstudyError: The backbone or an operation cannot be built.
    """
    network = build_network(space.config, seed)
    sites = {site.address: site for site in list_sites(space.config.model)}
    searched = [sites[address] for address in space.sites]
    seen = probe(network, image_shape(space.config.data), [site.layer for site in searched])
    mixtures = []
    for site in searched:
        mixture = _make_mixture(
            network, site, space.candidates[site.address], seen[site.layer], seed, mixes
        )
        replace_everywhere(network, site.layer, mixture)
        mixtures.append(mixture)
    return Supernet(network, mixtures)


def list_norms(network: nn.Module, site: Site) -> list[str]:
    """The norms and activations behind a site up to the last one that has a state of its own."""
    paths = list(site.norm_act)
    while paths and not find_layer(network, paths[-1]).state_dict():
        paths.pop()
    return paths


def _make_mixture(
    network: nn.Module,
    site: Site,
    substitutions: Sequence[Substitution | None],
    seen: Seen,
    seed: int,
    mixes: bool,
) -> Mixture:
    layer = find_layer(network, site.layer)
    norms = list_norms(network, site)
    behind: list[nn.Module] = [find_layer(network, path) for path in norms]
    if not norms and mixes:
        channels = seen.out.shape[site.pattern.layout.index("C")]
        behind = [ScaleNorm(channels, site.pattern.layout)]
    distinct = list(dict.fromkeys(substitutions))
    candidates = []
    for substitution in distinct:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(site_seed(seed, site.layer))
            operation = layer
            if substitution is not None:
                # its own, where it would take the original's weights over
                operation = copy.deepcopy(make_replacement(layer, substitution, seen))
        candidates.append(Normed(operation, *copy.deepcopy(behind)) if behind else operation)
    for path in norms:
        replace_layer(network, path, nn.Identity())
    if None not in distinct:
        set_parent(network, site.layer, site.pattern, seen)
    return Mixture(candidates, [distinct.index(substitution) for substitution in substitutions])


def batch_norms(network: nn.Module) -> Iterator[nn.modules.batchnorm._BatchNorm]:
    """The batch norms of a network, whose statistics depend on the path."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            yield module
