"""Training: a sweep and its table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pfstudy.cli.results import show_table
from pfstudy.errors import RunsFailedError

if TYPE_CHECKING:
    from pfstudy.schema.config import Config


def run_configs(configs: Sequence[Config]) -> None:
    """Run a sweep and print its table.

    Raises:
        PfstudyError: The sweep is not valid.
        RunsFailedError: Some runs failed.
    """
    from pfstudy.launch.sweep import run_sweep
    from pfstudy.speed.phase import setting_of

    result = run_sweep(configs)
    if len(result.failed) < len(result.members):
        show_table(result.root, result.study, speed=setting_of(configs[0].speed))
    if result.failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in result.failed.items())
        raise RunsFailedError(
            f"{len(result.failed)} of {len(result.members)} runs failed: {reasons}"
        )
