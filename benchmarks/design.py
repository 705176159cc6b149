"""Is a designed network better than random ones that are as fast?

    python benchmarks/design.py [RUNS]

On the embedded data, with the commands that a user types: a study of every operation at every site
and of random combinations, three seeds each; a block table; `pfstudy design` for a budget in the
middle between the fastest and the slowest network of the space. Then the designed network and 20
random ones of the same predicted time are trained with three seeds each. About half an hour on two
cores; with a directory for RUNS, what is done there is not done again.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from _measuring import machine
from pfstudy import store
from pfstudy.launch.search import times_of
from pfstudy.launch.sweep import run_sweep
from pfstudy.schema.compose import compose
from pfstudy.search.drawing import draw_like, limits_of
from pfstudy.space import Choice, Space, make_space
from pfstudy.speed.blocktable import TableFinder
from pfstudy.speed.setting import expected_place
from pfstudy.stats.integer import Program
from pfstudy.variant import make_variant

NUM_RANDOM = 20
NUM_SEEDS = 3
TOLERANCE = 0.01
OPERATIONS = ("conv", "dwconv", "maxpool", "avgpool", "identity")
STUDY = (
    *("-m", "site=glob(stage?.block*)", f"swap={','.join(OPERATIONS[1:])}"),
    *("study.design=[one_at_a_time,random]", "study.num_samples=16", "block.norm_act=keep"),
    *("study.name=effects", f"seeds={NUM_SEEDS}", "speed=none"),
)
TABLE = ("-m", f"block.spatial={','.join(OPERATIONS)}", "block.norm_act=keep")


def pfstudy(*arguments: str) -> str:
    program = str(Path(sys.executable).with_name("pfstudy"))
    command = [program, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def train(space: Space, choices: list[Choice], runs: Path) -> dict[Choice, list[Any]]:
    """Train networks, and return their records."""
    study = replace(space.config.study, name="proof")
    speed = replace(space.config.speed, enabled=False)
    configs = [
        replace(space.place(choice), study=study, speed=speed, seeds=NUM_SEEDS)
        for choice in choices
    ]
    result = run_sweep(configs)
    by_operations = defaultdict(list)
    for record in store.read_records([str(runs / member) for member in result.members]):
        by_operations[str(record["variant"]["operations"])].append(record["metrics"])
    return {
        choice: by_operations[str(make_variant(config, "none").operations)]
        for choice, config in zip(choices, configs, strict=True)
    }


def main() -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(sys.argv[1] if len(sys.argv) > 1 else folder).absolute()
        here = f"runs_dir={runs}"
        pfstudy(*STUDY, here)
        space = make_space(
            compose(["search=darts", f"search.operations=[{','.join(OPERATIONS)}]", here])
        )
        finder = TableFinder(runs)
        table = finder.find(space.uniform[0], expected_place(space.config))
        if table is None:
            pfstudy("speed", "table", *TABLE, here)
            table = TableFinder(runs).find(space.uniform[0], expected_place(space.config))
        assert table is not None
        times = times_of(table, space)
        program = Program(np.zeros((len(space.sites), len(OPERATIONS))), np.array(times.operations))
        fastest, slowest = (times.rest + cost for cost in (program.least_cost, program.most_cost))
        budget = (fastest + slowest) / 2
        print(
            f"the space: {fastest:.3f} to {slowest:.3f} of the backbone's time; {budget:.3f} asked"
        )
        said = pfstudy(
            *("design", str(runs), "--study", "effects", "--latency", f"{budget:.4f}", "--json")
        )
        design = json.loads(said)
        chosen = space.choice_of(design["chosen"]["operations"])
        assert chosen is not None
        target = times.predict(chosen)
        print(f"designed: {design['chosen']['label']}, predicted {target:.3f} of the time")
        limits, generator = limits_of(space, times, None), random.Random(0)
        drawn: dict[Choice, None] = {}
        for _ in range(1000 * NUM_RANDOM):
            network = draw_like(limits, target, TOLERANCE, generator)
            if network != chosen and abs(times.predict(network) / target - 1) <= TOLERANCE:
                drawn[network] = None
            if len(drawn) == NUM_RANDOM:
                break
        print(f"{len(drawn)} random networks within {TOLERANCE:.0%} of that")
        found = train(space, [chosen, *drawn], runs)
        for key, what in (("val_top1_percent", "validation"), ("test_top1_percent", "test")):
            ours = [metrics[key] for metrics in found[chosen]]
            others = [fmean(metrics[key] for metrics in found[network]) for network in drawn]
            better = sum(other > fmean(ours) for other in others)
            print(
                f"{what} top-1: designed {fmean(ours):.2f} % [{min(ours):.2f}, {max(ours):.2f}], "
                f"{len(ours)} seeds; {len(others)} random ones of as many seeds: mean "
                f"{fmean(others):.2f} % (deviation {stdev(others):.2f}), best {max(others):.2f} %; "
                f"{better} of them are better"
            )


if __name__ == "__main__":
    main()
