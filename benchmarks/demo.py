"""The demo sweep of five variants, from the command to its table.

python benchmarks/demo.py
"""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _measuring import machine, show

NUM_SWEEPS = 3


def main() -> None:
    print(machine())
    program = Path(sys.executable).with_name("pfstudy")
    command = [program, "-m", "block.spatial=conv,maxpool,avgpool,dwconv,identity"]
    environment = {**os.environ, "WANDB_ERROR_REPORTING": "false"}
    seconds = []
    accuracies: dict[str, list[float]] = {}
    for seed in range(NUM_SWEEPS):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            subprocess.run(
                [*command, f"seed={seed}"],
                cwd=folder,
                env=environment,
                check=True,
                capture_output=True,
            )
            seconds.append(time.perf_counter() - started)
            (table,) = Path(folder).glob("runs/studies/*/table.csv")
            with table.open() as file:
                for row in csv.DictReader(file):
                    accuracy = float(row["test_top1_percent"])
                    accuracies.setdefault(row["variant"], []).append(accuracy)
    show("demo sweep of five variants", seconds, "s", "60 s")
    for variant, values in accuracies.items():
        show(f"  {variant}, test accuracy of seeds 0 to {NUM_SWEEPS - 1}", values, "%")


if __name__ == "__main__":
    main()
