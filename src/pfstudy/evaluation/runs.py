"""Evaluates the networks of finished runs on test images that all of them see alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pfstudy import lease
from pfstudy.data.restore import read_config
from pfstudy.environment import describe_environment
from pfstudy.evaluation.attacks import attack, gradient_sign
from pfstudy.evaluation.cases import CLEAN, Case
from pfstudy.evaluation.corruptions import Corruptor, count_processes
from pfstudy.evaluation.figures import CleanFigures, Figures, Top1
from pfstudy.evaluation.given import AUTOCAST, Report, lease_id, waits
from pfstudy.evaluation.occlusion import occlude
from pfstudy.evaluation.pixels import RawImages, open_images
from pfstudy.evaluation.results import add_figures
from pfstudy.network.restore import load_run
from pfstudy.schema.config import Config

_MOST_IMAGES = 256


Wanted = tuple[Path, Sequence[Case]]
"""A run directory, and what the run is to be evaluated on."""


def evaluate_runs(wanted: Sequence[Wanted], report: Report) -> None:
    """Evaluate runs that were trained on the same data, and add the figures to them.

    Every image is changed once, for all networks. What belongs together, such as a corruption in
    all severities, is written as soon as all networks have seen it.

    Args:
        wanted: The runs, and what each is to be evaluated on.
        report: Told what is being done, and how far it is (``"progress"``).

    Raises:
        PfstudyError: A network cannot be loaded, the images cannot be read or corrupted, or the
            figures cannot be written.
    """
    configs = [read_config(directory) for directory, _ in wanted]
    torch.set_num_threads(max(config.trainer.num_threads for config in configs))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = configs[0].data
    batch_size = min(_MOST_IMAGES, *(config.recipe.batch_size for config in configs))
    images = open_images(data, batch_size, device)
    networks = [_Network(*pair, images) for pair in zip(wanted, configs, strict=True)]
    environment = _describe(device)
    cases = list(dict.fromkeys(case for _, some in wanted for case in some))
    with lease.training(lease_id(device), on_wait=waits(report)), ExitStack() as held:
        held.callback(images.close)
        corruptor = None
        if any(case.kind == "corruptions" for case in cases):
            corruptor = held.enter_context(Corruptor(count_processes(data.num_workers)))
        for series, alike in groupby(cases, lambda case: case.series):

            def tell(done: int, series: str = series) -> None:
                report("progress", {"what": series, "done": done, "total": images.num_batches})

            found = _look(networks, list(alike), images, corruptor, tell)
            for directory, figures in found.items():
                add_figures(directory, figures, images.describe(), environment)


class _Network:
    """The network of a run, which takes pixels."""

    def __init__(self, wanted: Wanted, config: Config, images: RawImages) -> None:
        self.directory, self.cases = wanted
        self._dtype = AUTOCAST[config.trainer.precision]
        self._images = images
        network: nn.Module = load_run(self.directory).requires_grad_(False)
        self._network = network.to(images.mean_C11.device)

    def logits(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits by the precision of the training."""
        with torch.autocast(pixels_NCHW.device.type, self._dtype, enabled=self._dtype is not None):
            return self.exact_logits(pixels_NCHW).float()

    def exact_logits(self, pixels_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits by float32: half the bits round small gradients to 0, which hides them."""
        logits: torch.Tensor = self._network(self._images.normalise(pixels_NCHW))
        return logits


@torch.no_grad()
def _look(
    networks: Sequence[_Network],
    cases: Sequence[Case],
    images: RawImages,
    corruptor: Corruptor | None,
    tell: Callable[[int], None],
) -> dict[Path, dict[Case, Any]]:
    """Pass once over all images; returns the figures of each run."""
    kept: list[tuple[_Network, Case, Figures]] = [
        (network, case, _make_figures(case, images))
        for case in cases
        for network in networks
        if case in network.cases
    ]
    first = 0
    for number, (pixels_NCHW, labels_N) in enumerate(images.batches()):
        tell(number)
        signs: dict[Path, torch.Tensor] = {}
        changed: dict[Case, torch.Tensor] = {}
        for network, case, figures in kept:
            if case.kind == "fgsm":
                if network.directory not in signs:
                    signs[network.directory] = gradient_sign(
                        network.exact_logits, pixels_NCHW, labels_N
                    )
                seen = attack(pixels_NCHW, signs[network.directory], case.strength)
            else:
                if case not in changed:
                    changed = {case: _change(case, pixels_NCHW, first, images, corruptor)}
                seen = changed[case]
            figures.update(network.logits(seen), labels_N)
        first += len(labels_N)
    tell(images.num_batches)
    found: dict[Path, dict[Case, Any]] = {}
    for network, case, figures in kept:
        found.setdefault(network.directory, {})[case] = figures.compute()
    return found


def _make_figures(case: Case, images: RawImages) -> Figures:
    return CleanFigures(images.classes, images.mean_C11.device) if case == CLEAN else Top1()


def _change(
    case: Case,
    pixels_NCHW: torch.Tensor,
    first: int,
    images: RawImages,
    corruptor: Corruptor | None,
) -> torch.Tensor:
    """Change images in a way that has nothing to do with a network."""
    if case.kind == "corruptions":
        assert corruptor is not None
        return corruptor.corrupt(pixels_NCHW, first, case.corruption, int(case.strength))
    if case.kind == "occlusion":
        return occlude(pixels_NCHW, first, case.strength, images.mean_C11)
    return pixels_NCHW


def _describe(device: torch.device) -> Mapping[str, Any]:
    """In what figures were computed; what host and versions alone make different is in it."""
    described = describe_environment()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "device": name,
        **{key: described[key] for key in ("host", "cpu_model", "python", "versions")},
    }
