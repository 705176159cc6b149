"""Training images per second of two processes with gloo against one, each with one thread.

    python benchmarks/two_processes.py

The same run, ResNet-20 on images of 32x32 with batches of 128, by one process and by two that share
every batch; they alternate. Compared is what the records say: training steps alone, over the whole
of the run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from _measuring import machine, show

NUM_ROUNDS = 3
COMMAND = [
    *("model=resnet20", "data=synthetic", "data.num_train=2048", "recipe.batch_size=128"),
    *("recipe.epochs=2", "speed=none", "logger=none", "trainer.accelerator=cpu"),
]


def images_per_second(num_devices: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        program = "from pfstudy.cli import main; main()"
        command = [sys.executable, "-c", program, *COMMAND, f"trainer.devices={num_devices}"]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
        (record,) = Path(folder).glob("runs/*/seed0/record.json")
        return float(json.loads(record.read_text())["training"]["images_per_second"])


def main() -> None:
    print(machine())
    one, two = [], []
    for number in range(NUM_ROUNDS):
        pair = [(one, 1), (two, 2)]
        for found, num_devices in pair if number % 2 else reversed(pair):
            found.append(images_per_second(num_devices))
    show("one process", one, "images/s")
    show("two processes", two, "images/s")
    show("  ratio", [b / a for a, b in zip(one, two, strict=True)], "x", "1.6x")


if __name__ == "__main__":
    main()
