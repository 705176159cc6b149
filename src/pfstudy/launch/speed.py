"""`pfstudy speed`: measures networks in one or many settings; trains nothing, reads no data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pfstudy import store
from pfstudy.errors import PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.measure import measure_speed
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.schema.config import Config
from pfstudy.speed import archive, results
from pfstudy.speed.pooling import pool as pool_measurements
from pfstudy.speed.results import Network
from pfstudy.speed.setting import PLACE, check_settings, device_name, expected_place, setting_of
from pfstudy.tasks import Device, place_of
from pfstudy.variant import Variant, make_variant

_NO_DATA = "none"


@dataclass(frozen=True)
class Measured:
    """What `measure_networks` found.

    Attributes:
        networks: In the order in which they were asked for.
        files: The results files that have them.
        taken: Number of variants beside whose records measurements were put.
        problems: Why not, by label, for networks that could not be measured.
    """

    networks: tuple[Network, ...]
    files: tuple[Path, ...]
    taken: int
    problems: Mapping[str, str] = field(default_factory=dict)


def measure_networks(
    configs: Sequence[Config], *, again: bool = False, replace: bool = False
) -> Measured:
    """Measure the networks of configs beside their baselines, each in its setting.

    Args:
        configs: What to measure; ``speed`` may differ between them.
        again: Whether to measure what has been measured on this device and setting, too, and to
            pool both.
        replace: Whether to measure it and to forget what was known.

    Raises:
        PfstudyError: Something cannot be measured; found before anything is.
    """
    refused: dict[str, PfstudyError] = {}
    variants = list_networks(configs, lambda error: refused.setdefault(str(error), error))
    if not variants:
        raise next(iter(refused.values()))
    root = Path(configs[0].runs_dir)
    store.check_writable(root)
    found: dict[tuple[str, str], Network] = {}
    new: dict[tuple[str, str], Network] = {}
    paths: dict[Path, None] = {}
    directories = archive.list_directories(root)
    outdated = {_key(variant) for variant in variants} if replace else set()
    problems: dict[str, str] = {}
    with Display() as display, Pool(PRELOAD, configs[0].launcher.stop_seconds) as pool:
        devices = check_networks(pool, display, variants)
        for sentence in refused:
            display.note(f"left out: {sentence}")
        for name, device in devices.items():
            place = place_of(device)
            here = [variant for variant in variants if device_name(variant.config) == name]

            def keep(variant: Variant, measured: Mapping[str, Any]) -> None:
                key = _key(variant)
                is_first = key in outdated  # and pooled where it is measured several times
                outdated.discard(key)
                at = {part: measured[part] for part in PLACE}
                known = None if is_first else archive.find_measured(variant, at, directories)
                measured = measured if known is None else pool_measurements(known, measured)
                found[key] = new[key] = archive.add(variant, measured, replace=is_first)
                archive.take_results([new[key]], root, replace=True, directories=directories)
                paths[results.results_path(root, measured)] = None

            todo = []
            for variant in here:
                known = archive.find_measured(variant, place, directories)
                if known is None or again or replace:
                    todo.append(variant)
                else:
                    found[_key(variant)] = archive.add(variant, known)
                    paths[results.results_path(root, known)] = None
            if len(todo) < len(here):
                display.note(f"{len(here) - len(todo)} measured before; --again measures more")
            if todo:
                problems |= measure_speed(pool, display, device, todo, keep, here)
    asked = [found[_key(variant)] for variant in variants if _key(variant) in found]
    beside = {d for network in new.values() for d in directories.get(network.architecture_hash, ())}
    return Measured(tuple(asked), tuple(paths), len(beside), problems)


def list_networks(
    configs: Sequence[Config], refuse: Callable[[PfstudyError], object] | None = None
) -> list[Variant]:
    """Make the variants of configs as far as speed goes: no data is read, equal ones are one.

    Args:
        configs: The networks and settings.
        refuse: Called for a setting that cannot be measured, which is left out then, as not all
            combinations of a product may make sense.

    Raises:
        PfstudyError: A setting cannot be measured, or an operation does not exist.
    """
    found: dict[tuple[str, str], Variant] = {}
    for config in configs:
        try:
            check_settings(config.speed, expected_place(config).get("device_kind"))
        except PfstudyError as error:
            if refuse is None:
                raise
            refuse(error)
            continue
        variant = make_variant(config, _NO_DATA).without_weights()
        found.setdefault(_key(variant), variant)
    return list(found.values())


def check_networks(pool: Pool, display: Display, variants: Sequence[Variant]) -> dict[str, Device]:
    """Check that networks can be built and their devices are there.

    Returns:
        The devices, by what `device_name` gives.

    Raises:
        PfstudyError: A network cannot be built, or there is no such device.
    """
    started = time.monotonic()
    display.phase("check", "importing torch, building every network")
    display.bar("importing")
    names = list(dict.fromkeys(device_name(variant.config) for variant in variants))
    found: dict[str, Device] = pool.call("pfstudy.launch.check:check_networks", variants, names)
    display.drop_bar("importing")
    display.note(f"done in {time.monotonic() - started:.1f} s")
    return found


def _key(variant: Variant) -> tuple[str, str]:
    setting = (device_name(variant.config), *setting_of(variant.config.speed).values())
    return variant.architecture_hash, repr(setting)
