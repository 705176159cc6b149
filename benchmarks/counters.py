"""Multiply-accumulates and parameters of three networks, as other counters see them.

    python benchmarks/counters.py

ResNet-50, ViT-Ti and ConvNeXt-T of timm at 224x224. The counters are not dependencies of pfstudy:

    pip install --target COUNTERS --no-deps fvcore==0.1.5.post20221221 iopath==0.1.10 \
        yacs==0.1.8 portalocker tabulate termcolor ptflops==0.7.5 thop==0.1.1.post2209072238 \
        torchinfo==1.8.0
    PYTHONPATH=COUNTERS python benchmarks/counters.py
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import pfstudy
from _measuring import machine

NETWORKS = {
    "ResNet-50": "resnet50",
    "ViT-Ti": "vit_tiny_patch16_224",
    "ConvNeXt-T": "convnext_tiny",
}
SHAPE = (1, 3, 224, 224)

Counted = tuple[float, int]  # MACs and parameters


def ours(network: nn.Module) -> Counted:
    counted = pfstudy.cost(network, SHAPE[1:])
    return counted.macs, counted.params


def torchs(network: nn.Module) -> Counted:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(SHAPE))
    return counter.get_total_flops() / 2, sum(p.numel() for p in network.parameters())


def fvcores(network: nn.Module) -> Counted:
    from fvcore.nn import FlopCountAnalysis, parameter_count

    return FlopCountAnalysis(network, torch.zeros(SHAPE)).total(), parameter_count(network)[""]


def ptflops_of(backend: str) -> Callable[[nn.Module], Counted]:
    def count(network: nn.Module) -> Counted:
        from ptflops import get_model_complexity_info

        macs, params = get_model_complexity_info(
            network, SHAPE[1:], as_strings=False, print_per_layer_stat=False, backend=backend
        )
        return macs, params

    return count


def thops(network: nn.Module) -> Counted:
    from thop import profile

    macs, params = profile(network, (torch.zeros(SHAPE),), verbose=False)
    return macs, int(params)


def torchinfos(network: nn.Module) -> Counted:
    from torchinfo import summary

    found = summary(network, SHAPE, verbose=0)
    return found.total_mult_adds, found.total_params


COUNTERS: dict[str, tuple[str, Callable[[nn.Module], Counted]]] = {
    "pfstudy": ("pfstudy", ours),
    "FlopCounterMode / 2": ("torch", torchs),
    "fvcore": ("fvcore", fvcores),
    "ptflops, pytorch": ("ptflops", ptflops_of("pytorch")),
    "ptflops, aten": ("ptflops", ptflops_of("aten")),
    "thop": ("thop", thops),
    "torchinfo": ("torchinfo", torchinfos),
}
"""By the name of the row: the package, and what counts."""


def main() -> None:
    logging.disable(logging.WARNING)  # fvcore lists what it does not know
    print(f"{machine()}, timm {version('timm')}; millions of MACs, millions of parameters\n")
    print(f"{'':<40}" + "".join(f"{name:>20}" for name in NETWORKS))
    missing = []
    for name, (package, count) in COUNTERS.items():
        try:
            row = f"{name} ({package} {version(package)})"
        except PackageNotFoundError:
            missing.append(package)
            continue
        cells = []
        for model in NETWORKS.values():  # a network of its own: some counters leave buffers in it
            macs, params = count(timm.create_model(model).eval())
            cells.append(f"{macs / 1e6:>12,.1f} {params / 1e6:>7.2f}")
        print(f"{row:<40}" + "".join(cells))
    if missing:
        print(f"\nNot installed, so left out: {', '.join(dict.fromkeys(missing))}.")


if __name__ == "__main__":
    main()
