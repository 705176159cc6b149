"""Sweeps of many runs: what a run costs beside the plain ways, skipping, throughput.

python benchmarks/many_runs.py [one_step] [skip] [throughput]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import pfstudy
from _measuring import machine, show
from pfstudy import files, ledger, store
from pfstudy.cli import compose
from pfstudy.data import fingerprint
from pfstudy.schema.config import Config, config_tree
from pfstudy.variant import make_variant

PROGRAM = str(Path(sys.executable).with_name("pfstudy"))
PLAIN = (sys.executable, str(Path(__file__).with_name("_plain.py")))
ENVIRONMENT = {**os.environ, "WANDB_ERROR_REPORTING": "false"}

ONE_STEP = ("data=synthetic", "recipe.epochs=1", "block.spatial=maxpool", "speed=none")
NUM_RUNS = 100
NUM_ISOLATED = 6
TWELVE = (
    "block.stage1.spatial=conv,maxpool,dwconv",
    "block.stage2.spatial=conv,maxpool,avgpool,dwconv",
)
NUM_SEEDS = 3
NUM_FINISHED = 1000


def time_command(command: Sequence[str], folder: str | Path) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)[:200]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def write_configs(configs: Sequence[Config], folder: Path) -> str:
    paths = [folder / f"{index}.json" for index in range(len(configs))]
    for path, config in zip(paths, configs, strict=True):
        path.write_text(json.dumps(config_tree(config)))
    return ",".join(map(str, paths))


def one_step() -> None:
    """Runs of a single step, each in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours = time_command([PROGRAM, "-m", *ONE_STEP, f"seeds={NUM_RUNS}"], folder)
        show(f"{NUM_RUNS} one-step runs, a process each, W&B offline", [ours], "s", "30 s")
        config = write_configs([pfstudy.compose(ONE_STEP)], folder)
        seeds = ",".join(map(str, range(NUM_ISOLATED)))
        isolated = time_command(
            [*PLAIN, "-m", "isolate=true", f"config={config}", f"seed={seeds}"], folder
        )
        show(
            f"the same by hydra/launcher=basic and subprocesses, from {NUM_ISOLATED}",
            [isolated / NUM_ISOLATED * NUM_RUNS],
            "s",
        )
        seeds = ",".join(map(str, range(NUM_RUNS)))
        joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
        shared = time_command([*PLAIN, "-m", *joblib, f"config={config}", f"seed={seeds}"], folder)
        show("the same by joblib, two processes for all, no W&B", [shared], "s")


def skip() -> None:
    """The same command again, when everything is done."""
    for num_variants in (1, 100, NUM_FINISHED):
        rates = [round(0.001 * (index + 1), 4) for index in range(num_variants)]
        num_seeds = NUM_FINISHED // num_variants
        command = ["-m", f"recipe.lr={','.join(map(str, rates))}", f"seeds={num_seeds}", *ONE_STEP]
        with tempfile.TemporaryDirectory() as name:
            finish(command, Path(name))
            seconds = [time_command([PROGRAM, *command], name) for _ in range(5)]
        what = f"skipping {NUM_FINISHED:,} finished runs: {num_variants} x {num_seeds} seeds"
        show(what, seconds, "s", "2 s")


def finish(command: Sequence[str], folder: Path) -> None:
    """Write the records of a sweep; one is trained, the others are its copies."""
    template: dict[str, object] = {}
    here = Path.cwd()
    os.chdir(folder)
    try:
        for config in compose([*command, "logger=none"]):
            variant = make_variant(config, fingerprint(config.data))
            for seed in range(config.seeds or 1):
                run = store.make_run(variant, seed)
                store.prepare(run)
                if not template:
                    subprocess.run(
                        [sys.executable, "-m", "pfstudy.worker", str(run.directory)],
                        check=True,
                        capture_output=True,
                    )
                    template = files.read_json(run.directory / ledger.RECORD)
                identity = {
                    "hash": variant.hash,
                    "baseline": variant.baseline_hash,
                    "canonical": variant.canonical,
                }
                record = {**template, "identity": identity, "seed": seed}
                files.write_json(run.directory / ledger.RECORD, record)
    finally:
        os.chdir(here)


def throughput() -> None:
    """Twelve variants with three seeds of the default job."""
    ours, plain, accuracies = [], [], {"pfstudy": 0.0, "plain": 0.0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ours.append(
            time_command([PROGRAM, "-m", *TWELVE, f"seeds={NUM_SEEDS}", "speed=none"], folder)
        )
        records = [files.read_json(path) for path in folder.glob(f"runs/*/*/{ledger.RECORD}")]
        accuracies["pfstudy"] = mean(record["metrics"]["test_top1_percent"] for record in records)
        configs = write_configs(compose(["-m", *TWELVE]), folder)
        seeds = ",".join(map(str, range(NUM_SEEDS)))
        plain.append(time_command([*PLAIN, "-m", f"config={configs}", f"seed={seeds}"], folder))
        results = [files.read_json(path) for path in folder.glob("multirun/*/*/*/result.json")]
        accuracies["plain"] = mean(result["test_top1_percent"] for result in results)
        assert len(records) == len(results) == 12 * NUM_SEEDS
    show("12 variants x 3 seeds of the default job, whole sweep", ours, "s")
    show("the same by hydra/launcher=basic and Lightning's defaults", plain, "s")
    show("sweep throughput against it", [plain[0] / ours[0]], "x", "1.5x")
    for what, accuracy in accuracies.items():
        show(f"mean test accuracy of the 36 runs: {what}", [accuracy], "%")


def main() -> None:
    print(machine())
    chosen = sys.argv[1:] or ["one_step", "skip", "throughput"]
    for part in (one_step, skip, throughput):
        if part.__name__ in chosen:
            part()


if __name__ == "__main__":
    main()
