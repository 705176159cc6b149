"""From records to a table: 10,000 of them in this process, and `pfstudy table` from a cold one.

python benchmarks/table.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from _measuring import machine, show
from pfstudy import files
from pfstudy.cli.results import make_table
from pfstudy.tables import render

PROGRAM = Path(sys.executable).with_name("pfstudy")
OPERATIONS = ("original", "dwconv", "maxpool", "avgpool", "identity")
NUM_BLOCKS = 16
NUM_SEEDS = 5
NUM_REPEATS = 5


def write_study(root: Path, num_records: int) -> None:
    """Write the records of random mixtures, as full as those of real runs, with their speed."""
    generator = np.random.default_rng(0)
    recipe = {"epochs": 15, "batch_size": 64, "lr": 0.2, "momentum": 0.9, "weight_decay": 5e-4}
    places = [f"stage{1 + block // 4}.block{1 + block % 4}" for block in range(NUM_BLOCKS)]
    setting = {
        **{"device": "Some CPU", "host": "here", "batch_size": 1, "layout": "contiguous"},
        **{"dtype": "float32", "backend": "eager", "num_threads": 1, "num_processes": 5},
    }
    for number in range(num_records // NUM_SEEDS):
        drawn = generator.integers(0, len(OPERATIONS), NUM_BLOCKS) if number else [0] * NUM_BLOCKS
        stands = {place: OPERATIONS[i] for place, i in zip(places, drawn, strict=True)}
        num_replaced = sum(operation != "original" for operation in stands.values())
        ratio = 1 - 0.02 * num_replaced + 0.01 * generator.standard_normal()
        label = " ".join(f"{p}={o}" for p, o in stands.items() if o != "original")
        name = f"{number:010x}"
        directory = root / f"resnet50-digits-{name}"
        files.write_json(
            directory / "speed" / "cpu.json",
            {
                **setting,
                **{"latency_ms": 10 * ratio, "baseline_latency_ms": 10.0},
                **{"latency_p10_ms": 9.9 * ratio, "latency_p90_ms": 10.4 * ratio},
                **{"throughput_images_per_s": 100 / ratio, "relative_latency": ratio},
                **{"relative_latency_low": ratio * 0.99, "relative_latency_high": ratio * 1.01},
                "samples_ms": list(map(float, generator.normal(10, 1, 40))),
            },
        )
        for seed in range(NUM_SEEDS):
            accuracy = 97 - 0.2 * num_replaced + 0.3 * float(generator.standard_normal())
            record = {
                "schema_version": 1,
                "identity": {
                    "hash": name,
                    "baseline": f"{0:010x}",
                    "canonical": {
                        "schema": 1,
                        "backbone": {"timm": "resnet50", "args": {}},
                        "sites": {
                            f"layer{place}.conv2": {"operation": operation, "kernel_size": 3}
                            for place, operation in stands.items()
                            if operation != "original"
                        },
                        "data": {"fingerprint": "0123456789abcdef" * 4, "num_test": 500},
                        "recipe": recipe,
                        "precision": "32-true",
                    },
                },
                "variant": {
                    "model": "resnet50",
                    "label": label or "original",
                    "is_baseline": not label,
                    "original": "conv",
                    "operations": stands,
                },
                "seed": seed,
                "seeds": {"init": 1, "order": 2, "augmentation": 3},
                "data": "digits",
                "recipe": "digits",
                "metrics": {
                    f"{split}_{metric}": accuracy
                    for split in ("val", "test")
                    for metric in ("top1_percent", "top5_percent", "loss")
                },
                "cost": {
                    **{"params": 10**6 - 10**4 * num_replaced, "macs": 10**9 - 10**7 * number},
                    **{"activations": 10**6, "memory_traffic_bytes": 10**8},
                    "num_projected_sites": 0,
                },
                "training": {"seconds": 60.0, "epochs": 15, "world_size": 1, "num_threads": 1},
                "environment": {
                    "host": "here",
                    "cpu_model": "Some CPU",
                    "device": "cpu",
                    "git": {"commit": "1a2b3c4d5e6f", "dirty": False},
                    "versions": {"pfstudy": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"},
                },
            }
            run = directory / f"seed{seed}"
            files.write_json(run / "record.json", record)
            files.write_json(run / "state.json", {"state": "done"})


def time_table(root: Path) -> float:
    started = time.perf_counter()
    _, content = make_table([root])
    for name in ("markdown", "csv", "latex"):
        render.FORMATS[name][1](content)
    return time.perf_counter() - started


def time_command(root: Path) -> float:
    started = time.perf_counter()
    subprocess.run([PROGRAM, "table", str(root)], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        for number, target in ((100, ""), (10_000, "0.5 s")):
            root = Path(name) / str(number)
            write_study(root, number)
            time_table(root)
            what = f"{number:,} records to a table, after start-up"
            show(what, [time_table(root) for _ in range(NUM_REPEATS)], "s", target)
            time_command(root)
            what = f"pfstudy table of {number:,} records, a process each"
            target = "1.5 s" if number == 100 else ""
            show(what, [time_command(root) for _ in range(NUM_REPEATS)], "s", target)


if __name__ == "__main__":
    main()
