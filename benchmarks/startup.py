"""What passes before anything is computed: the help, and composing and checking 1,000 variants.

python benchmarks/startup.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from _measuring import machine, show
from pfstudy.cli import compose
from pfstudy.data import fingerprint
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.variant import make_variant

OPERATIONS = "original,dwconv,maxpool,avgpool,identity"
THOUSAND = [
    "-m",
    "model=resnet50",
    "data=synthetic",
    *(f"block.stage{stage}.spatial={OPERATIONS}" for stage in (1, 2, 3)),
    "block.stage4.spatial=original,dwconv,maxpool,avgpool",
    "block.norm_act=keep,drop",
]


def time_help() -> float:
    started = time.perf_counter()
    program = Path(sys.executable).with_name("pfstudy")
    subprocess.run([program, "--help"], check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    print(machine())
    time_help()
    show("pfstudy --help", [time_help() for _ in range(20)], "s", "0.4 s")

    started = time.perf_counter()
    configs = compose(THOUSAND)
    composed = time.perf_counter() - started
    assert len(configs) == 1000
    variants = [make_variant(config, fingerprint(config.data)) for config in configs]
    identified = time.perf_counter() - started
    distinct = list({variant.hash: variant for variant in variants}.values())
    with Pool(PRELOAD) as pool:
        pool.call("pfstudy.launch.check:check_variants", distinct)
    checked = time.perf_counter() - started
    show("composing 1,000 variants of resnet50", [composed], "s")
    show("  and their identities", [identified - composed], "s")
    show("  and checking them, imports of the stack included", [checked - identified], "s")
    show("  together", [checked], "s", "30 s")


if __name__ == "__main__":
    main()
