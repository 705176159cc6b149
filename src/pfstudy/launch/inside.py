"""`pfstudy speed table` and `--by-layer`: what is within a pass, in fresh processes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pfstudy import store
from pfstudy.environment import describe_environment
from pfstudy.errors import PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.measure import BAR, call_pinned, check_device, hold
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.launch.slots import available_cores
from pfstudy.launch.speed import check_networks, list_networks
from pfstudy.schema.config import Config
from pfstudy.speed.blocktable import (
    BlockTable,
    TableFinder,
    draw_mixed,
    make_table,
    save_table,
    table_path,
    what_stands,
)
from pfstudy.speed.layers import Layers, put_together
from pfstudy.speed.setting import (
    check_segments,
    describe_setting,
    device_name,
    expected_place,
    setting_of,
)
from pfstudy.speed.summary import Ceilings, SegmentTimings
from pfstudy.tasks import Device, place_of
from pfstudy.variant import Variant

_NUM_PROCESSES = 2
_HELD_OUT = 2  # for each process
_LAYERS_S = 30.0  # the most; where time goes is seen sooner than what a ratio is to a percent
_SEED = 0


@dataclass
class _Session:
    """A device that is held, and what measures on it."""

    pool: Pool
    display: Display
    device: Device
    variants: Sequence[Variant]

    @property
    def setting(self) -> dict[str, Any]:
        """Device, host and setting."""
        return {**place_of(self.device), **setting_of(self.variants[0].config.speed)}

    def call(self, function: str, *arguments: Any, **options: Any) -> Any:
        """Run a function in a fresh process whose threads are pinned."""
        threads = self.variants[0].config.speed.num_threads
        path = f"pfstudy.speed.inside:{function}"
        return call_pinned(self.pool, self.device, threads, path, *arguments, **options)

    def time(self, whole: Sequence[Sequence[Variant]], seconds: float) -> list[SegmentTimings]:
        """Time segments in fresh processes, one for each set of networks timed as a whole."""
        settings = self.variants[0].config.speed
        number, on_gpu = len(whole), self.device.kind == "gpu"
        found: list[SegmentTimings] = []
        for others in whole:
            num_networks = len(self.variants) + len(others)
            progress = _Progress(self.display, len(found), number, num_networks)
            timings = self.call(
                "time_segments",
                list(self.variants),
                list(others),
                settings,
                on_gpu,
                available_cores(),
                seconds,
                on_report=progress,
            )
            found.append(timings)
        self.display.drop_bar(BAR)
        return found


class _Progress:
    """Shows how far a process is, of how many."""

    def __init__(self, display: Display, done: int, total: int, num_networks: int) -> None:
        self._display, self._done, self._total = display, done, total
        self._num_built, self._num_networks = 0, num_networks
        self._display.bar(BAR, done, total)

    def __call__(self, kind: str, details: Mapping[str, Any]) -> None:
        if kind == "built":
            self._num_built += 1
            figures = f"{self._num_built} of {self._num_networks} networks built"
        else:
            figures = f"round {details['number']}"
        self._display.bar(BAR, self._done, self._total, figures)


def make_block_table(configs: Sequence[Config], seconds: float) -> tuple[BlockTable, Path]:
    """Measure what stands at the sites of some networks, for predicting any mixture of them.

    Args:
        configs: The networks; one of each operation at all sites is enough.
        seconds: For how long, besides building the networks.

    Returns:
        The table, and the file that it is kept in.

    Raises:
        PfstudyError: The networks are not of one backbone and setting, or cannot be measured.
    """
    store.check_writable(Path(configs[0].runs_dir))
    with Display() as display, Pool(PRELOAD, configs[0].launcher.stop_seconds) as pool:
        return measure_table(pool, display, configs, seconds)


def measure_table(
    pool: Pool, display: Display, configs: Sequence[Config], seconds: float
) -> tuple[BlockTable, Path]:
    """Measure a block table by processes of a pool; see `make_block_table`."""
    started = time.monotonic()
    variants = _one_family(configs, "a block table")
    generator = np.random.default_rng(_SEED)
    held_out = [draw_mixed(variants, _HELD_OUT, generator) for _ in range(_NUM_PROCESSES)]
    if len(variants) == 1:
        held_out = [[] for _ in range(_NUM_PROCESSES)]
    session = _open(pool, display, variants, f"{len(variants)} networks")
    with hold(display, session.device):
        whole = [[variants[0], *mixed] for mixed in held_out]
        processes = session.time(whole, seconds / _NUM_PROCESSES)
    environment = describe_environment()
    table = make_table(variants, held_out, processes, session.setting, environment)
    path = table_path(Path(configs[0].runs_dir), variants[0], session.setting)
    table = save_table(path, table)
    display.note(f"done in {time.monotonic() - started:.1f} s")
    return table, path


def explain_layers(configs: Sequence[Config]) -> list[Layers]:
    """Find out where the time of networks goes, beside that of the unsubstituted backbone.

    Args:
        configs: The networks.

    Raises:
        PfstudyError: The networks are not of one backbone and setting, or cannot be measured.
    """
    variants = _one_family(configs, "--by-layer")
    if len(variants) == 1:
        raise PfstudyError(
            "--by-layer compares a network with the unsubstituted backbone, but nothing is "
            "substituted here; give block.spatial=maxpool, say."
        )
    with Display() as display, Pool(PRELOAD, configs[0].launcher.stop_seconds) as pool:
        session = _open(pool, display, variants, f"{len(variants)} networks, by layer")
        settings = variants[0].config.speed
        costs = session.call("cost_of_segments", list(variants))
        with hold(display, session.device):
            on_gpu = session.device.kind == "gpu"
            ceilings: Ceilings = session.call("find_ceilings", settings, on_gpu)
            number = settings.num_processes
            seconds = min(settings.max_seconds, _LAYERS_S)
            processes = session.time([[]] * number, seconds / number)
    return put_together(variants, processes, costs, ceilings, session.setting)


def predict_speed(configs: Sequence[Config]) -> list[tuple[Variant, BlockTable]]:
    """Find the block tables by which the times of networks can be predicted.

    Raises:
        PfstudyError: There is none for one of them, or it lacks an operation.
    """
    found = []
    tables = TableFinder(Path(configs[0].runs_dir))
    for variant in list_networks(configs):
        table = tables.find(variant, expected_place(variant.config))
        if table is None:
            raise PfstudyError(
                f"there is no block table of {variant.config.model.name} in this setting "
                f"({describe_setting(setting_of(variant.config.speed))}); measure one: pfstudy "
                f"speed table -m model={variant.config.model.name} ... block.spatial=..."
            )
        lacking = table.lacks(what_stands(variant).items())
        if lacking:
            raise PfstudyError(f"{variant.label}: {lacking}")
        found.append((variant, table))
    return found


def _one_family(configs: Sequence[Config], what: str) -> list[Variant]:
    """The variants, their baseline first.

    Raises:
        PfstudyError: They have not one backbone, or not one setting.
    """
    variants = list_networks(configs)
    baseline = variants[0].baseline()
    if len({variant.baseline().architecture_hash for variant in variants}) > 1:
        raise PfstudyError(f"{what} is of one backbone and one size of images; give one model.")
    settings = {(config.speed, device_name(config)) for config in configs}
    if len(settings) > 1:
        raise PfstudyError(f"{what} is of one setting; give one value to each key of speed.")
    check_segments(configs[0].speed, expected_place(configs[0]).get("device_kind"))
    others = [v for v in variants if v.architecture_hash != baseline.architecture_hash]
    return [baseline, *others]


def _open(pool: Pool, display: Display, variants: Sequence[Variant], what: str) -> _Session:
    (device,) = check_networks(pool, display, variants).values()
    check_device(variants[0].config.speed, device)
    check_segments(variants[0].config.speed, device.kind)
    session = _Session(pool, display, device, variants)
    display.phase("speed", f"{what}, {describe_setting(session.setting)}")
    return session
