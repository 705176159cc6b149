"""Accuracy of a network with given weights on the test images of a dataset."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pfstudy import lease
from pfstudy.complexity import cost
from pfstudy.data.loading import describe_pixels, open_test
from pfstudy.data.order import UNREAD
from pfstudy.evaluation.figures import CleanFigures
from pfstudy.network.pretrained import describe_initial_weights
from pfstudy.network.substitutions import check_network
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.schema.config import Config
from pfstudy.tasks import gpu_id
from pfstudy.worker.trainer import choose_device

_SECONDS_BETWEEN_REPORTS = 0.2
AUTOCAST = {"32-true": None, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}

Report = Callable[[str, Mapping[str, Any]], None]


def evaluate(config: Config, report: Report) -> dict[str, Any]:
    """Evaluate the network of a config, with the weights that it starts from.

    Args:
        config: Its ``recipe.batch_size`` images are taken at a time.
        report: Told how many images are done (``"progress"``).

    Returns:
        What `pfstudy.evaluation.figures.CleanFigures` computes but for the classes, the cost, and
        how long it took.

    Raises:
        PfstudyError: The network cannot be built, the weights do not fit, or the images cannot be
            read.
    """
    torch.set_num_threads(config.trainer.num_threads)
    device = choose_device(config)
    check_network(config)
    for note in (*describe_initial_weights(config), *describe_pixels(config.data)):
        report("note", {"text": note})
    network = build_network(config, seed=0).eval()
    figures = cost(network, image_shape(config.data))
    network.to(device)
    batches = open_test(config.data, config.recipe.batch_size, device)
    found = CleanFigures([str(n) for n in range(config.data.num_classes)], device)
    dtype = AUTOCAST[config.trainer.precision]
    num_images, said, started = 0, 0.0, time.perf_counter()
    with torch.inference_mode(), lease.training(lease_id(device), on_wait=waits(report)):
        for images, labels in batches:
            images, labels = images.to(device), labels.to(device)
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                logits = network(images).float()
            found.update(logits[labels != UNREAD], labels[labels != UNREAD])
            num_images += len(labels)
            if time.perf_counter() - said > _SECONDS_BETWEEN_REPORTS:
                said = time.perf_counter()
                report(
                    "progress",
                    {
                        "batch_index": num_images // config.recipe.batch_size,
                        "num_batches": len(batches),
                    },
                )
        computed = found.compute()
        del computed["per_class"]
        return {
            **computed,
            "params": figures.params,
            "macs": figures.macs,
            "seconds": time.perf_counter() - started,
        }


def lease_id(device: torch.device) -> str:
    """What a device is leased by."""
    if device.type == "cpu":
        return "cpu"
    return gpu_id(torch.cuda.get_device_properties(device).uuid)


def waits(report: Report) -> Callable[[], None]:
    """What is done where a device has to be waited for."""
    return lambda: report("note", {"text": "waiting for a measurement of speed to end"})
