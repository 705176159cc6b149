"""What the benchmarks share: where they ran, and how a figure is printed."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from pfstudy.environment import describe_environment


def machine() -> str:
    """Describe the machine in a line."""
    found = describe_environment()
    versions = found["versions"]
    return (
        f"{found['cpu_model']}, {len(os.sched_getaffinity(0))} cores, Python {found['python']}, "
        f"torch {versions['torch']}, lightning {versions['lightning']}, wandb {versions['wandb']}"
    )


def show(what: str, values: Sequence[float], unit: str, target: str = "") -> None:
    """Print the median, the least and the greatest of some values."""
    wanted = f"   (asked: {target})" if target else ""
    print(
        f"{what:<58} {statistics.median(values):8.3f} {unit:<3} "
        f"[{min(values):.3f}, {max(values):.3f}], n={len(values)}{wanted}"
    )
