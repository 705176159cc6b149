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
        RunsFailedError: Some runs failed, or are being trained elsewhere.
    """
    from pfstudy.launch.sweep import run_sweep
    from pfstudy.speed.phase import setting_of

    result = run_sweep(configs)
    if len(result.failed) + len(result.elsewhere) < len(result.members):
        show_table(result.root, result.study, speed=setting_of(configs[0].speed))
    problems = []
    if result.failed:
        reasons = "; ".join(f"{name} ({reason})" for name, reason in result.failed.items())
        problems.append(f"{len(result.failed)} of {len(result.members)} runs failed: {reasons}")
    if result.elsewhere:
        problems.append(
            f"{', '.join(result.elsewhere)}: trained by another pfstudy just now; the same command "
            "later prints the whole table"
        )
    if problems:
        raise RunsFailedError(". ".join(problems))
