"""The default search under a budget, from the command to what it found.

    python benchmarks/search.py

Each in an empty directory, so that the block table is measured, too; imports included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measuring import machine, show

NUM_SEARCHES = 2
BUDGET = 0.95
SEARCHES = {
    "darts, the block table included": [f"search.latency={BUDGET}"],
    "evolution, the block table included": ["search=evolution", f"search.latency={BUDGET}"],
    "darts, no budget": [],
}


def main() -> None:
    print(machine())
    program = Path(sys.executable).with_name("pfstudy")
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    for name, overrides in SEARCHES.items():
        seconds = []
        for seed in range(NUM_SEARCHES):
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                subprocess.run(
                    [program, "search", *overrides, f"seed={seed}"],
                    cwd=folder,
                    env=environment,
                    check=True,
                    capture_output=True,
                )
                seconds.append(time.perf_counter() - started)
        show(f"search: {name}", seconds, "s", "180 s")


if __name__ == "__main__":
    main()
