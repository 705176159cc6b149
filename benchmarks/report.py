"""The report of 500 runs: its size, and when it can be used in Chromium.

python benchmarks/report.py [DIRECTORY]

The page of 250 variants with two seeds, curves of 100 epochs and measured speed is written (to
DIRECTORY, if that is given, to look at it). It is opened in a new tab of a running Chromium, whose
cache is off; it can be used when the table is there and the scatter plot is drawn, which the page
marks itself. Needs Chromium and its driver.
"""

from __future__ import annotations

import math
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.ui import WebDriverWait

from _measuring import machine, show
from pfstudy.report.page import library, write_page
from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.additive import LEVELS
from pfstudy.tables.audit import audit_records
from pfstudy.tables.content import make_content
from pfstudy.tables.effects import fit_effects
from pfstudy.tables.rows import make_rows

NUM_VARIANTS = 250
NUM_SEEDS = 2
NUM_EPOCHS = 100
NUM_OPENINGS = 5
DEPTHS = (3, 4, 6, 3)
COSTS_IN_POINTS = {ORIGINAL: 0.0, "maxpool": 0.25, "avgpool": 0.35, "dwconv": 0.05}
FASTER = {ORIGINAL: 0.0, "maxpool": 0.15, "avgpool": 0.2, "dwconv": -0.1}
SETTING = {
    "device": "Some CPU",
    "host": "here",
    "batch_size": 1,
    "layout": "contiguous",
    "dtype": "float32",
    "backend": "eager",
    "num_threads": 1,
}
INTERACTIVE = "return performance.getEntriesByName('interactive')[0]?.startTime ?? null"


def make_records(generator: random.Random) -> list[dict[str, Any]]:
    """Records of variants of ResNet-50 with an operation for each stage."""
    chosen = {(ORIGINAL,) * len(DEPTHS)}
    while len(chosen) < NUM_VARIANTS:
        chosen.add(tuple(generator.choice(list(FASTER)) for _ in DEPTHS))
    return [
        make_record(operations, seed, generator)
        for operations in sorted(chosen, key=lambda each: each != (ORIGINAL,) * len(DEPTHS))
        for seed in range(NUM_SEEDS)
    ]


def make_record(operations: tuple[str, ...], seed: int, generator: random.Random) -> dict[str, Any]:
    stands = {
        f"stage{stage}.block{block}": operation
        for stage, (depth, operation) in enumerate(zip(DEPTHS, operations, strict=True), 1)
        for block in range(1, depth + 1)
    }
    sites = {
        f"layer{address[5]}.{int(address[12:]) - 1}.conv2": {
            "operation": operation,
            "kernel_size": 3,
        }
        for address, operation in stands.items()
        if operation != ORIGINAL
    }
    replaced = [f"stage{i}={o}" for i, o in enumerate(operations, 1) if o != ORIGINAL]
    ratio = 1 - sum(FASTER[operation] for operation in operations) / 2 + generator.gauss(0, 0.01)
    lost = sum(COSTS_IN_POINTS[o] * stage / 2 for stage, o in enumerate(operations, 1))
    speed = {
        "latency_ms": 20 * ratio,
        "baseline_latency_ms": 20.0,
        "relative_latency": ratio,
        "relative_latency_low": 0.985 * ratio,
        "relative_latency_high": 1.015 * ratio,
    }
    form = {
        "schema": 1,
        "backbone": {"timm": "resnet50"},
        "data": {"fingerprint": "0123456789abcdef", "num_test": 50_000},
        "recipe": {"lr": 0.1, "epochs": NUM_EPOCHS, "batch_size": 256},
    }
    return {
        "schema_version": 1,
        "identity": {
            "hash": "-".join(operations),
            "baseline": "-".join([ORIGINAL] * len(DEPTHS)),
            "canonical": form | ({"sites": sites} if sites else {}),
        },
        "variant": {
            "model": "resnet50",
            "label": ", ".join(replaced) or ORIGINAL,
            "is_baseline": not replaced,
            "original": "conv",
            "operations": stands,
        },
        "seed": seed,
        "data": "imagenet",
        "recipe": "imagenet",
        "training": {"epochs": NUM_EPOCHS, "world_size": 1, "precision": "32-true"},
        "environment": {"host": "here", "versions": {"torch": "2.7.0"}},
        "metrics": {"test_top1_percent": 76 - lost + generator.gauss(0, 0.15)},
        "cost": {
            "params": 25_557_032 - 1_000_000 * len(replaced),
            "macs": 4_089_184_256 - 300_000_000 * len(replaced),
            "num_projected_sites": 0,
        },
        "speed": [{**SETTING, **speed}],
    }


def make_curves(records: list[dict[str, Any]], generator: random.Random) -> pd.DataFrame:
    """Validation accuracies that approach that of the test."""
    return pd.DataFrame(
        {
            "hash": record["identity"]["hash"],
            "seed": record["seed"],
            "epoch": epoch,
            "val_top1_percent": record["metrics"]["test_top1_percent"]
            - 70 * math.exp(-epoch / 12)
            + generator.gauss(0, 0.4),
        }
        for record in records
        for epoch in range(1, NUM_EPOCHS + 1)
    )


def write(path: Path) -> float:
    """Write the page; in how many seconds, Vega's bundle not included."""
    generator = random.Random(0)
    records = make_records(generator)
    curves = make_curves(records, generator)
    library()
    started = time.perf_counter()
    content = make_content(make_rows(records))
    models = [model for level in LEVELS if (model := fit_effects(content.rows, level))]
    write_page(
        path,
        "A study of 250 variants",
        content,
        audit_records(records),
        records=records,
        curves=curves,
        models=models,
        sources=["runs"],
    )
    return time.perf_counter() - started


def open_often(path: Path) -> list[float]:
    """Open the page in new tabs; seconds from the navigation until it can be used."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        sys.exit("chromium and chromedriver are needed; on Debian, apt install chromium-driver.")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    # root may not use the sandbox, and containers have a small /dev/shm
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    chromium = webdriver.Chrome(options=options, service=Service(driver))
    seconds = []
    try:
        chromium.set_window_size(1360, 1000)
        for _ in range(NUM_OPENINGS):
            chromium.switch_to.new_window("tab")
            chromium.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
            chromium.get(path.resolve().as_uri())
            found = WebDriverWait(chromium, 60).until(lambda each: each.execute_script(INTERACTIVE))
            seconds.append(found / 1000)
            chromium.close()
            chromium.switch_to.window(chromium.window_handles[0])
    finally:
        chromium.quit()
    return seconds


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1] if len(sys.argv) > 1 else folder) / "report.html"
        seconds = write(path)
        show(f"table and report of {NUM_VARIANTS * NUM_SEEDS} runs, written", [seconds], "s")
        show("  its size", [path.stat().st_size / 1e6], "MB", "3 MB")
        show("  table and plot ready in Chromium", open_often(path), "s", "1 s")


if __name__ == "__main__":
    main()
