"""Shipped models in tests: what stands at their sites, and their networks on the meta device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from configs import compose
from pfstudy.network.surgery import build_network
from pfstudy.schema.config import Config
from pfstudy.schema.sites import list_sites

LAST = {"pit_s": "stage3.block4", "pit_ti": "stage3.block4", "vit_ti": "stage1.block12"}
"""Sites that keep their attention, so that the class token learns of the image."""


@cache
def config_for(model: str) -> Config:
    return compose(f"model={model}", "data=synthetic")


def resized(config: Config, size: int, channels: int = 3) -> Config:
    """A config for other images, of seven classes."""
    args = dict(config.model.args)
    if "img_size" in args:  # in the declaration it follows the data
        args["img_size"] = size
    data = replace(config.data, image_size=size, channels=channels, num_classes=7)
    return replace(config, model=replace(config.model, args=args), data=data)


def swapped(config: Config, operation: str | Mapping[str, str]) -> Config:
    """A config with an operation at all sites, or at some."""
    if isinstance(operation, str):
        operation = {site.address: operation for site in config.sites}
    sites = (replace(s, operation=operation.get(s.address, "original")) for s in config.sites)
    return replace(config, sites=tuple(sites))


def parameter_free(config: Config, kept: str | None = None) -> Config:
    """A config with max-pool at all sites but one, between linear layers where there are tokens."""
    pooling = {}
    for site in list_sites(config.model):
        is_attention = site.pattern.original == "attention"
        pooling[site.address] = "maxpool_mlp" if is_attention else "maxpool"
    pooling.pop(kept or "", None)
    return swapped(config, pooling)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def on_meta(config: Config) -> nn.Module:
    with torch.device("meta"):
        return build_network(config).eval()


def shape_of_logits(network: nn.Module, config: Config) -> tuple[int, ...]:
    data = config.data
    images = torch.empty(2, data.channels, data.image_size, data.image_size, device="meta")
    return tuple(network(images).shape)
