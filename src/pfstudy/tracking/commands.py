"""W&B's own command line."""

from __future__ import annotations

import os
import subprocess
import sys
from tempfile import TemporaryDirectory


def call_wandb(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Call ``wandb``; what it notes for itself is not left in the working directory."""
    with TemporaryDirectory() as scratch:
        return subprocess.run(
            [sys.executable, "-m", "wandb", *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "WANDB_SILENT": "false", "WANDB_DIR": scratch},
        )
