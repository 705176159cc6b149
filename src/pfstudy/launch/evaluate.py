"""Evaluates a network in a fresh process, as runs are trained; the parent needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
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

        def progress(kind: str, details: Mapping[str, Any]) -> None:
            if kind == "note":
                display.note(details["text"])
            else:
                display.drop_bar("importing")
                display.bar("batches", details["batch_index"], details["num_batches"])

        figures: dict[str, Any] = pool.call(
            "pfstudy.evaluation:evaluate", config, on_report=progress
        )
    return {
        "model": config.model.name,
        "variant": label,
        "data": config.data.name,
        "weights": config.init_from or "timm",
        **figures,
    }
