"""What a run costs beyond its training: its own process, data, network, W&B offline, record.

    python benchmarks/run_cost.py

Every run trains one epoch. The cost is the time from asking for its process to its end, less the
time of training and of the test; the import of the stack, once per sweep, is not in it.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from _measuring import machine, show
from pfstudy import files, store, tracking
from pfstudy.cli import compose
from pfstudy.data import fingerprint
from pfstudy.environment import describe_environment
from pfstudy.launch.pool import PRELOAD, PRELOAD_TRACKING, Pool
from pfstudy.tasks import Task
from pfstudy.variant import make_variant

NUM_RUNS = 20


def main() -> None:
    print(machine())
    os.environ["WANDB_ERROR_REPORTING"] = "false"
    with tempfile.TemporaryDirectory() as folder, Pool(PRELOAD + PRELOAD_TRACKING) as pool:
        (config,) = compose(["recipe.epochs=1", f"runs_dir={folder}"])
        variant = make_variant(config, fingerprint(config.data))
        environment = describe_environment()
        for mode in ("disabled", "offline"):
            if mode == "offline":
                pool.environment |= tracking.start_service()
            whole, fixed = [], []
            for seed in range(NUM_RUNS + 1):
                run = store.make_run(variant, seed + (100 if mode == "offline" else 0))
                store.prepare(run)
                task = Task(run.directory, "benchmark", mode, environment=environment)
                log = Path(run.directory / "run.log")
                started = time.perf_counter()
                pool.call("pfstudy.worker:train_run", task, log=log)
                seconds = time.perf_counter() - started
                record = files.read_json(run.directory / store.RECORD)["training"]
                whole.append(seconds)
                fixed.append(seconds - record["seconds"] - record["test_seconds"])
            show(f"a run of one epoch, W&B {mode}", whole[1:], "s")
            target = "0.25 s" if mode == "offline" else ""
            show(f"  of which neither training nor test, W&B {mode}", fixed[1:], "s", target)
        pool.stop()
        tracking.stop_service()


if __name__ == "__main__":
    main()
