"""Grad-CAM of trained networks on test images, by the package pytorch-grad-cam.

With ``A_k`` the k-th channel of a block's output, ``y`` the logit of a class and the mean taken
over the grid, the map is ``relu(sum_k mean(dy / dA_k) A_k)`` (Selvaraju et al. 2017, section 3),
here scaled to run from 0 to 1 and enlarged to the size of the image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from pfstudy import lease
from pfstudy.data import FOLDERS, imagefolder
from pfstudy.data.order import BatchIndices
from pfstudy.data.restore import read_config
from pfstudy.data.tensors import load_splits
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.explanation.content import Chosen, Explained, Explanations, Target
from pfstudy.network.restore import load_run
from pfstudy.ops.grid import grid_side
from pfstudy.schema.config import Data, Model
from pfstudy.schema.sites import Site, list_sites, stages_of
from pfstudy.words import counted

Report = Callable[[str, Mapping[str, Any]], None]

_CPU = torch.device("cpu")


def explain(
    chosen: Sequence[Chosen],
    indices: Sequence[int],
    stage: str | None,
    target: Target,
    report: Report,
) -> Explanations:
    """Explain what trained networks predict for test images of the data that they share.

    Args:
        chosen: The networks.
        indices: Which test images, counted from 0 in their fixed order.
        stage: The block whose output is looked at, ``stage2.block1``, or a stage for the last one
            of it that the logits depend on; ``None`` for the last such block of the network.
        target: Whether to explain the predicted or the true class.
        report: Told how many networks are done (``"progress"``).

    Raises:
        PfstudyError: There is no such image, stage or block, a run has kept no weights, the data is
            gone or another one by now, or the logits do not depend on the block.
    """
    configs = [read_config(one.directory) for one in chosen]
    candidates = [_find_sites(config.model, stage) for config in configs]
    images_NCHW, pictures_NHWC, labels_N, classes = _read_images(configs[0].data, indices)
    torch.set_num_threads(max(config.trainer.num_threads for config in configs))
    networks = []

    def waits() -> None:
        report("note", {"text": "waiting for a measurement of speed to end"})

    with lease.training("cpu", on_wait=waits):
        for number, (one, sites) in enumerate(zip(chosen, candidates, strict=True)):
            report("progress", {"completed": number, "total": len(chosen)})
            network = load_run(one.directory)
            with torch.inference_mode():
                probability_NK = network(images_NCHW).softmax(1)
            probability_N, predicted_N = probability_NK.max(1)
            target_N = predicted_N if target == "predicted" else labels_N
            try:
                block, maps_NHW = compute_maps(network, sites, images_NCHW, target_N.tolist())
            except PfstudyError as error:
                raise PfstudyError(f"{one.name}: {error}") from None
            found = (predicted_N.numpy(), probability_N.numpy(), target_N.numpy(), maps_NHW)
            networks.append(Explained(one, block, *found))
    return Explanations(
        target, list(indices), pictures_NHWC, labels_N.numpy(), list(classes), networks
    )


def compute_maps(
    network: nn.Module, sites: Sequence[Site], images_NCHW: torch.Tensor, classes: Sequence[int]
) -> tuple[str, np.ndarray]:
    """Compute Grad-CAM at the output of the last of some blocks whose grid the logits depend on.

    A head that reads a class token alone depends on the grid only through the attention behind it,
    so that the last block with such a head has no map.

    Args:
        network: In evaluation mode, on the CPU.
        sites: The sites of the blocks, in the order of the network.
        images_NCHW: The images.
        classes: For which class the map of each image is.

    Returns:
        Address of the block, and maps ``(N, H, W)`` from 0 to 1.

    Raises:
        PfstudyError: The logits depend on the grid of no such block, or a block puts out no map.
    """
    GradCAM, ClassifierOutputTarget = _import_package()
    for site in reversed(sites):
        layer = network.get_submodule(block_path(site))
        on_grid = partial(_on_grid, site)
        cam = GradCAM(model=network, target_layers=[layer], reshape_transform=on_grid)
        maps_NHW = cam(images_NCHW, [ClassifierOutputTarget(one) for one in classes])
        gradients = cam.activations_and_grads.gradients
        if gradients and gradients[0].any():
            return site.address, maps_NHW
    raise PfstudyError(
        f"the logits do not depend on the grid behind {sites[-1].address}, as where a head reads "
        "only the class token; explain an earlier block, if there is one, with --stage."
    )


def block_path(site: Site) -> str:
    """Path of the block that a site is in: as much of it as the pattern counts stages and blocks.

    A layer whose pattern counts nothing is in its parent.
    """
    parts = site.pattern.layer.split(".")
    counted_parts = [number for number, part in enumerate(parts, 1) if "{" in part]
    length = max(counted_parts, default=max(1, len(parts) - 1))
    return ".".join(site.layer.split(".")[:length])


def _import_package() -> tuple[Any, Any]:
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError as error:  # OpenCV, too, may lack a library of the system
        raise PfstudyError(f"pytorch-grad-cam cannot be imported: {error}.") from None
    return GradCAM, ClassifierOutputTarget


def _on_grid(site: Site, out: Any) -> torch.Tensor:
    """Lay what a block puts out on its grid: ``(N, C, H, W)``."""
    rank = out.dim() if isinstance(out, torch.Tensor) else None
    if rank == 3:  # blocks pass tokens on as NLC, whatever the layer in them sees
        out = out[:, site.pattern.prefix_tokens :]
        side = grid_side(out.shape[1])
        out = out.unflatten(1, (side, side))
    elif rank != 4:
        raise PfstudyError(f"the block of {site.address} puts out neither a map nor tokens.")
    is_NHWC = rank == 3 or out.shape[1] == out.shape[2] != out.shape[3]
    on_grid: torch.Tensor = out.permute(0, 3, 1, 2) if is_NHWC else out
    return on_grid


def _find_sites(model: Model, stage: str | None) -> list[Site]:
    sites = list_sites(model)
    addresses = [site.address for site in sites]
    stages = stages_of(addresses)
    if stage is not None and stage not in (*stages, *addresses):
        raise unknown_name(f"model {model.name}: the stage", stage, [*stages, *addresses])
    if stage is None:
        return sites
    return [site for site in sites if stage in (site.address, site.address.partition(".")[0])]


def _read_images(
    data: Data, indices: Sequence[int]
) -> tuple[torch.Tensor, np.ndarray, torch.Tensor, Sequence[str]]:
    """Read test images: as networks take them, as people see them, their labels, all classes."""
    wanted = list(indices)
    if data.name in FOLDERS:
        from pfstudy.data.images import ImageBatches

        listed = imagefolder.list_test(data)
        _check_indices(wanted, len(listed), data)
        some, count = listed.select(np.array(wanted)), len(wanted)
        here = replace(data, num_workers=0)
        ((images, labels),) = ImageBatches(some, here, BatchIndices(count, count), _CPU)
        assert data.mean is not None
        assert data.std is not None
        std, mean = (torch.tensor(values).view(-1, 1, 1) for values in (data.std, data.mean))
        return images, _as_pictures(images * std + mean), labels, listed.classes
    split = load_splits(data)["test"]
    _check_indices(wanted, len(split), data)
    images, labels = split.images_NCHW[wanted], split.labels_N[wanted]
    every = split.images_NCHW  # one scale for all, so that images compare
    low_C11, high_C11 = (end((0, 2, 3)).view(-1, 1, 1) for end in (every.amin, every.amax))
    shown = (images - low_C11) / (high_C11 - low_C11).clamp_min(1e-6)
    return images, _as_pictures(shown), labels, [str(n) for n in range(data.num_classes)]


def _as_pictures(images_NCHW: torch.Tensor) -> np.ndarray:
    """Images of 1 or 3 channels to look at; of other numbers the mean."""
    if images_NCHW.shape[1] not in (1, 3):
        images_NCHW = images_NCHW.mean(1, keepdim=True)
    pictures: np.ndarray = images_NCHW.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return pictures


def _check_indices(indices: Sequence[int], number: int, data: Data) -> None:
    for index in indices:
        if not 0 <= index < number:
            raise PfstudyError(
                f"there is no test image {index}: data {data.name} has "
                f"{counted(number, 'test image')}, counted from 0."
            )
