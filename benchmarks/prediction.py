"""How well does the block table predict mixed networks that were measured in other processes?"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import kendalltau, spearmanr

from _measuring import machine

OPERATIONS = ("conv", "dwconv", "maxpool", "avgpool")
SEED = 20221


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--number", type=int, default=50, help="mixed networks")
    parser.add_argument("--rounds", type=int, default=36, help="of each of three processes")
    parser.add_argument("--backend", default="eager")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    from pfstudy import compose
    from pfstudy.launch.display import Display
    from pfstudy.launch.measure import measure_speed
    from pfstudy.launch.pool import PRELOAD, Pool
    from pfstudy.launch.speed import check_networks
    from pfstudy.speed.blocktable import draw_mixed, list_operations, read_table
    from pfstudy.variant import make_variant

    common = ("model=resnet50", "data=imagenet", "data.path=none")
    setting = (f"speed.backend={arguments.backend}", f"speed.device={arguments.device}")
    executable = str(Path(sys.executable).with_name("pfstudy"))
    print(f"block table of ResNet-50, {machine()}, {arguments.backend}, {arguments.device}")
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        started = time.perf_counter()
        spatial = f"block.spatial={','.join(OPERATIONS)}"
        command = [executable, "speed", "table", "-m", *common[:2], spatial, *setting]
        subprocess.run(command, check=True, capture_output=True)
        print(f"table: {time.perf_counter() - started:.1f} s in all (asked: 60, eager)")
        table = read_table(next(Path("runs/speed/tables").glob("*.json")))
        error = table.relative_error
        print(f"its own 95 % interval: +-{100 * error:.1f} %" if error else "no interval")
        rounds = (
            f"speed.num_rounds={arguments.rounds}",
            "speed.num_warmup=2",
            "speed.num_processes=3",
        )
        ends = ("speed.max_processes=3", "speed.max_seconds=6000")
        overrides = [*common, *setting, *rounds, *ends]
        uniform = [
            make_variant(compose([*overrides, f"block.spatial={operation}"]), "none")
            for operation in OPERATIONS
        ]
        mixed = draw_mixed(uniform, arguments.number, np.random.default_rng(SEED))
        measured: dict[str, float] = {}
        busy: list[float] = []

        def keep(variant: object, found: object) -> None:
            measured[variant.architecture_hash] = found["relative_latency"]  # type: ignore
            busy.append(found["others_load"])  # type: ignore

        with Display() as display, Pool(PRELOAD) as pool:
            (device,) = check_networks(pool, display, mixed).values()
            started = time.perf_counter()
            problems = measure_speed(pool, display, device, mixed, keep)
            assert not problems, problems
        print(f"{len(mixed)} mixed networks measured in {time.perf_counter() - started:.0f} s, "
              f"others' load {np.mean(busy):.2f} cores")  # fmt: skip
        truth = np.array([measured[variant.architecture_hash] for variant in mixed])
        guess = np.array([table.predict(variant).relative_latency for variant in mixed])  # type: ignore
        off = 100 * (guess / truth - 1)
        print(f"times relative to ResNet-50: {truth.min():.3f} to {truth.max():.3f}")
        print(
            f"mean absolute error {np.abs(off).mean():.2f} % (asked: 2), "
            f"mean {off.mean():+.2f} %, worst {np.abs(off).max():.2f} %"
        )
        if error:
            print(f"within the table's interval: {np.mean(np.abs(off) <= 100 * error):.0%}")
        print(f"Spearman {spearmanr(guess, truth).statistic:.3f} (asked: 0.97), "
              f"Kendall {kendalltau(guess, truth).statistic:.3f}")  # fmt: skip
        keys = list_operations(table.cells.values())
        choices = np.random.default_rng(0).integers(len(keys), size=(2**20, len(table.sites)))
        started = time.perf_counter()
        table.predict_many(choices, keys)
        each = (time.perf_counter() - started) / len(choices)
        print(f"ranking: {1e9 * each:.0f} ns a network, {4**16 * each:.0f} s for all {4**16:.1e}")


if __name__ == "__main__":
    main()
