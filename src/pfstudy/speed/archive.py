"""Where measurements are kept: in results files, and beside the records that tables read.

A sweep and ``pfstudy speed`` write both, so each finds what the other has measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfstudy import files, store
from pfstudy.canonical import digest
from pfstudy.speed.phase import may_stand
from pfstudy.speed.pooling import PROCESSES, pool
from pfstudy.speed.results import (
    Network,
    add_results,
    is_complete,
    list_results,
    network_of,
    results_path,
)
from pfstudy.speed.setting import complete_setting, name_setting, setting_of
from pfstudy.variant import Variant, architecture_of

Directories = Mapping[str, Sequence[Path]]
"""The variants' directories by the identity of their network."""


def find_measured(
    variant: Variant, place: Mapping[str, str], directories: Directories | None = None
) -> dict[str, Any] | None:
    """Find what is known of the speed of a variant in its config's setting.

    Args:
        variant: The variant.
        place: Where it must be from: ``host``, and ``device`` or ``device_kind`` where known.
        directories: Of the variants whose measurements count; ``None`` for its own.

    Returns:
        The measurement, pooled over all that were found.
    """
    wanted = {**setting_of(variant.config.speed), **place}
    identity = variant.architecture_hash
    beside = [store.variant_directory(variant)]
    if directories is not None:
        beside = [*directories.get(identity, ())]
    stored = [measured for directory in beside for measured in store.read_speeds(directory)]
    for results in list_results(Path(variant.config.runs_dir)):
        network = results.networks_by_identity.get(identity)
        stored += [] if network is None else [dict(network.measured)]
    fitting: list[Mapping[str, Any]] = []
    for measured in stored:
        known = measured | complete_setting(measured)
        is_same = all(known.get(key) == value for key, value in wanted.items())
        if is_same and may_stand(measured, variant.config.speed):
            fitting.append(measured)
    if not fitting:
        return None
    first = complete_setting(fitting[0])  # of several devices that fit the place
    pooled: Mapping[str, Any] = fitting[0]
    for other in fitting[1:]:
        pooled = pool(pooled, other) if complete_setting(other) == first else pooled
    return dict(pooled)


def add(variant: Variant, measured: Mapping[str, Any], *, replace: bool = False) -> Network:
    """Add a measurement of a variant's network to the results file of its setting.

    Args:
        variant: The variant.
        measured: The measurement.
        replace: Whether it replaces what the file has of the network.

    Returns:
        The network with all that the file has of it now.
    """
    path = results_path(Path(variant.config.runs_dir), measured)
    network, environment = network_of(variant, measured), measured.get("environment", {})
    if not is_complete(measured):
        return network
    results = add_results(path, [network], environment, replace=replace)
    return results.networks_by_identity[variant.architecture_hash]


def save(variant: Variant, measured: Mapping[str, Any]) -> Network:
    """Add a measurement to what is known of a variant, beside its runs and in a results file."""
    path = measurement_path(store.variant_directory(variant), measured)
    if path.exists():
        measured = pool(files.read_json(path), measured)
    network = add(variant, measured)
    files.write_json(path, network.measured)
    return network


def place_beside(variant: Variant, place: Mapping[str, str]) -> None:
    """Put what is known of the speed of a variant beside its records, where tables look for it."""
    measured = find_measured(variant, place)
    if measured is not None:
        path = measurement_path(store.variant_directory(variant), measured)
        if files.read_json(path, missing_ok=True) != measured:
            files.write_json(path, measured)


def measurement_path(variant_directory: Path, measured: Mapping[str, Any]) -> Path:
    """Name the file of a measurement, after its setting, in a variant's directory."""
    return variant_directory / "speed" / f"{name_setting(measured)}.json"


def list_directories(root: Path) -> dict[str, list[Path]]:
    """List the variants' directories below that of the runs, by the identity of their network."""
    found: dict[str, list[Path]] = {}
    seen = set()
    for path in sorted(root.glob(f"*/seed*/{store.CONFIG}")):
        directory = path.parent.parent
        if directory not in seen:
            seen.add(directory)
            canonical = files.read_json(path)["identity"]["canonical"]
            found.setdefault(digest(architecture_of(canonical)), []).append(directory)
    return found


@dataclass(frozen=True)
class Taken:
    """Measurements that were put beside records.

    Attributes:
        written: The files, by name of the network.
        kept: Those that have a better measurement and stayed as they were, likewise.
        same: Those that had all of it already.
    """

    written: Mapping[str, list[Path]]
    kept: Mapping[str, list[Path]]
    same: Mapping[str, list[Path]]


def take_results(
    networks: Iterable[Network],
    root: Path,
    *,
    replace: bool = False,
    directories: Directories | None = None,
) -> Taken:
    """Put measurements beside the records of the variants that have the same networks.

    They are pooled with those of the same device, host and setting that are there.

    Args:
        networks: Measured on this or another machine.
        root: Directory of the run directories.
        replace: Whether to replace what is there of the same device, host and setting.
        directories: As `list_directories` gives them, where that is known.
    """
    if directories is None:
        directories = list_directories(root)
    written: dict[str, list[Path]] = {}
    kept: dict[str, list[Path]] = {}
    same: dict[str, list[Path]] = {}
    for network in networks:
        for directory in directories.get(network.architecture_hash, ()):
            path = measurement_path(directory, network.measured)
            known = files.read_json(path) if path.exists() else None
            pooled = network.measured
            if known is not None and not replace:
                pooled = pool(known, network.measured)
            if known != pooled:
                files.write_json(path, pooled)
                written.setdefault(network.name, []).append(path)
            elif known == network.measured or network.measured.get(PROCESSES):
                same.setdefault(network.name, []).append(path)
            else:
                kept.setdefault(network.name, []).append(path)
    return Taken(written, kept, same)
