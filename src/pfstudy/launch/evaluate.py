"""Evaluates a network in a fresh process, as runs are trained; the parent needs no torch."""

from __future__ import annotations

from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.schema.config import Config
from pfstudy.variant import make_variant


def evaluate_in_child(config: Config) -> dict[str, Any]:
    """Evaluate the network of a config with the weights that it starts from.

    Returns:
        The figures of `pfstudy.evaluation.evaluate`, and what they are of.

    Raises:
        PfstudyError: The network cannot be built, or weights or images cannot be read.
    """
    if config.init_from is None and not config.pretrained:
        raise PfstudyError("eval needs weights: give init_from=FILE, or pretrained=true.")
    label = make_variant(config, data_fingerprint="").label
    with Display() as display, Pool(PRELOAD) as pool:
        display.phase("eval", f"{config.model.name} ({label}) on {config.data.name}")
        display.bar("importing")
        figures: dict[str, Any] = pool.call(
            "pfstudy.evaluation:evaluate",
            config,
            on_report=display.follow("batches", "batch_index", "num_batches"),
        )
    return {
        "model": config.model.name,
        "variant": label,
        "data": config.data.name,
        "weights": config.init_from or "timm",
        **figures,
    }
