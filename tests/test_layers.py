"""What importing a module brings along, seen by a fresh interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "lightning", "wandb")


def imported_by(module: str) -> set[str]:
    """The top-level modules that an import brings into a fresh interpreter."""
    program = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    return set(done.stdout.split())


def test_a_fresh_interpreter_shows_what_is_imported() -> None:
    assert {"sys", "pfstudy", "numpy"} <= imported_by("pfstudy.speed.summary")


def test_the_command_line_starts_light() -> None:
    heavy = {*HEAVY, "hydra", "omegaconf", "pandas", "numpy", "timm", "sklearn", "torchmetrics"}
    assert not imported_by("pfstudy.cli") & heavy


@pytest.mark.parametrize(
    "module",
    [
        "pfstudy.schema.compose",
        "pfstudy.variant",
        "pfstudy.store",
        "pfstudy.launch.sweep",
        "pfstudy.launch.pool",
        "pfstudy.speed.phase",
        "pfstudy.tables.rows",
        "pfstudy.tables.render",
        "hydra_plugins.pfstudy",
    ],
)
def test_modules_of_the_parent_need_neither_torch_nor_lightning(module: str) -> None:
    assert not imported_by(module) & {"torch", "lightning", "timm", "torchmetrics"}
