"""Evaluates the networks of finished runs on test images that all of them see alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pfstudy import lease
from pfstudy.data import identify as identify_content
from pfstudy.data.order import UNREAD
from pfstudy.data.restore import read_config
from pfstudy.environment import describe_environment
from pfstudy.errors import PfstudyError
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
from pfstudy.worker.trainer import device_name

_MOST_IMAGES = 256


Wanted = tuple[Path, Sequence[Case]]
"""A run directory, and what the run is to be evaluated on."""


def evaluate_runs(wanted: Sequence[Wanted], report: Report) -> dict[Path, str]:
    """Evaluate runs that were trained on the same data, and add the figures to them.

    Every image is changed once, for all networks. What belongs together, such as a corruption in
    all severities, is written as soon as all networks have seen it.

    Args:
        wanted: The runs, and what each is to be evaluated on.
        report: Told what is being done, and how far it is (``"progress"``).

    Returns:
        Why some runs could not be evaluated, if there are others that could.

    Raises:
        PfstudyError: No network can be loaded, the images cannot be read or corrupted, or the
            figures cannot be written.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks, failed = _load(wanted, device)
    torch.set_num_threads(max(network.config.trainer.num_threads for network in networks))
    data = networks[0].config.data
    batch_size = min(_MOST_IMAGES, *(network.config.recipe.batch_size for network in networks))
    images = open_images(data, batch_size, device)
    environment = _describe(device)
    cases = list(dict.fromkeys(case for network in networks for case in network.cases))
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
    return failed


def _load(wanted: Sequence[Wanted], device: torch.device) -> tuple[list[_Network], dict[Path, str]]:
    identify = cache(identify_content)  # of a large folder, that takes long
    networks, failed = [], {}
    for directory, cases in wanted:
        try:
            config = read_config(directory, identify)
            networks.append(_Network(directory, cases, config, load_run(directory).to(device)))
        except PfstudyError as error:
            failed[directory] = str(error)
    if not networks:
        raise PfstudyError(next(iter(failed.values())))
    return networks, failed


class _Network:
    """The network of a run, and what the run is to be evaluated on."""

    def __init__(
        self, directory: Path, cases: Sequence[Case], config: Config, network: nn.Module
    ) -> None:
        self.directory, self.cases, self.config = directory, cases, config
        self._dtype = AUTOCAST[config.trainer.precision]
        self._network = network.requires_grad_(False)

    def logits(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        """Logits by the precision of the training."""
        with torch.autocast(x_NCHW.device.type, self._dtype, enabled=self._dtype is not None):
            logits: torch.Tensor = self._network(x_NCHW)
        return logits.float()

    def sign(
        self, pixels_NCHW: torch.Tensor, labels_N: torch.Tensor, images: RawImages
    ) -> torch.Tensor:
        """Where to change pixels, by float32: half the bits would round small gradients to 0."""
        return gradient_sign(
            lambda pixels: self._network(images.normalise(pixels)), pixels_NCHW, labels_N
        )


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
        is_read_N = labels_N != UNREAD
        signs: dict[Path, torch.Tensor] = {}
        changed: dict[Case, torch.Tensor] = {}
        for network, case, figures in kept:
            if case.kind == "fgsm":
                if network.directory not in signs:
                    signs[network.directory] = network.sign(pixels_NCHW, labels_N, images)
                seen = attack(pixels_NCHW, signs[network.directory], case.strength)
            else:
                if case not in changed:
                    changed = {case: _change(case, pixels_NCHW, first, images, corruptor)}
                seen = changed[case]
            logits_NK = network.logits(images.normalise(seen))
            figures.update(logits_NK[is_read_N], labels_N[is_read_N])
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
    return {
        "device": device_name(device),
        **{key: described[key] for key in ("host", "cpu_model", "python", "versions")},
    }
