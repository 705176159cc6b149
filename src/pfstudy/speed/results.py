"""Results files: what was measured on one device in one setting, with all that is known of both.

``runs/speed/DEVICE_HOST_DTYPE_LAYOUT_bBATCH_tTHREADS_BACKEND_VERSION.json``
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from pfstudy import files
from pfstudy.errors import PfstudyError
from pfstudy.record import check_speed
from pfstudy.speed.pooling import pool
from pfstudy.speed.setting import complete_setting, describe_setting, name_setting
from pfstudy.speed.summary import joint_interval
from pfstudy.variant import SCHEMA_VERSION, Variant

DIRECTORY = "speed"

_NUMBERS = (
    *("latency_ms", "latency_p10_ms", "latency_p90_ms", "throughput_images_per_s"),
    *("relative_latency", "relative_latency_low", "relative_latency_high"),
    *("baseline_latency_ms", "num_processes", "batch_size", "num_threads"),
)
_TEXTS = ("device", "host", "layout", "dtype", "backend", "stopped_by")


@dataclass(frozen=True)
class Network:
    """A network and its measurement.

    Attributes:
        model: Name of its backbone's declaration.
        label: What is substituted.
        architecture_hash: Identity of the network.
        baseline_hash: That of the unsubstituted backbone.
        operations: What stands at every site.
        measured: The measurement, as it stands beside the records of a variant.
    """

    model: str
    label: str
    architecture_hash: str
    baseline_hash: str
    operations: Mapping[str, str]
    measured: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Model and label."""
        return f"{self.model} {self.label}"


@dataclass(frozen=True)
class Results:
    """The content of a results file.

    Attributes:
        setting: Device, host and setting.
        environment: As `pfstudy.environment.describe_environment` gave it when the file was last
            written; that of a measurement stands with it.
        networks: The networks.
    """

    setting: Mapping[str, Any]
    environment: Mapping[str, Any]
    networks: tuple[Network, ...]

    @property
    def device(self) -> str:
        """Name of the device."""
        return str(self.setting["device"])

    @cached_property
    def networks_by_identity(self) -> dict[str, Network]:
        """The networks by their identity."""
        return {network.architecture_hash: network for network in self.networks}


def network_of(variant: Variant, measured: Mapping[str, Any]) -> Network:
    """Put a variant and its measurement together."""
    return Network(
        variant.config.model.name,
        variant.label,
        variant.architecture_hash,
        variant.baseline().architecture_hash,
        variant.operations,
        measured,
    )


def results_path(root: Path, measured: Mapping[str, Any]) -> Path:
    """Name the file that a measurement belongs into, below the directory of the runs."""
    return root / DIRECTORY / f"{name_setting(measured)}.json"


def list_results(root: Path) -> list[Results]:
    """Read the results files below the directory of the runs, as far as they can be read."""
    found = (
        _read_cached(path, *_version(path)) for path in sorted(root.glob(f"{DIRECTORY}/*.json"))
    )
    return [results for results in found if results is not None]


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=64)
def _read_cached(path: Path, changed_ns: int, size: int) -> Results | None:
    del changed_ns, size
    try:
        return read_results(path)
    except PfstudyError:  # of block tables, or damaged
        return None


def is_complete(measured: Mapping[str, Any]) -> bool:
    """Whether a measurement has every figure that a results file needs; very old ones do not."""
    return all(
        isinstance(measured.get(key), kind)
        for kind, keys in ((int | float, _NUMBERS), (str, _TEXTS))
        for key in keys
    )


def add_results(
    path: Path,
    networks: Iterable[Network],
    environment: Mapping[str, Any],
    *,
    replace: bool = False,
) -> Results:
    """Write networks into a results file, beside those that are in it already.

    A network that is measured again is pooled with what was known of it.

    Args:
        path: The file.
        networks: The networks.
        environment: Of the measurement.
        replace: Whether what was known of these networks is forgotten.
    """
    with files.locked(path):
        before = read_results(path) if path.exists() else None
        merged = {} if before is None else dict(before.networks_by_identity)
        for network in networks:
            known = merged.get(network.architecture_hash)
            if known is not None and not replace:
                network = dataclasses.replace(
                    network, measured=pool(known.measured, network.measured)
                )
            merged[network.architecture_hash] = network
        if before is not None and merged == before.networks_by_identity:
            return before
        first = next(iter(merged.values()))
        results = Results(complete_setting(first.measured), environment, tuple(merged.values()))
        files.write_json(path, _as_data(results))
    return results


def read_results(path: Path) -> Results:
    """Read a results file.

    Raises:
        PfstudyError: It is no such file, or damaged, or of an unknown schema.
    """
    content = files.read_json(path)
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise PfstudyError(
            f"{path} is no results file of pfstudy speed that this version reads: its schema "
            f"version is {version}, not {SCHEMA_VERSION}."
        )
    try:
        networks = tuple(Network(**network) for network in content["networks"])
        if not all(is_complete(network.measured) for network in networks):
            raise ValueError
        for network in networks:
            check_speed(network.measured, str(path))
        setting = complete_setting(content["setting"])
        describe_setting(setting)
        return Results(setting, {**content["environment"]}, networks)
    except PfstudyError:
        raise
    except (KeyError, TypeError, ValueError):
        raise PfstudyError(f"{path} is damaged: it is no results file of pfstudy speed.") from None


def _as_data(results: Results) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "setting": dict(results.setting),
        "environment": dict(results.environment),
        "networks": [vars(network) for network in results.networks],
    }


@dataclass(frozen=True)
class Comparison:
    """Two results files beside each other.

    Attributes:
        first: The one.
        second: The other.
        pairs: The networks that both have.
        only_first: Names of those that only the first has.
        only_second: Names of those that only the second has.
    """

    first: Results
    second: Results
    pairs: tuple[tuple[Network, Network], ...]
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]

    @property
    def rank_correlation(self) -> float | None:
        """Kendall's tau of the relative times; ``None`` of fewer than three networks."""
        if len(self.pairs) < _LEAST_TO_RANK:
            return None
        from scipy.stats import kendalltau

        times = [[n.measured["relative_latency"] for n in pair] for pair in self.pairs]
        return float(kendalltau(*zip(*times, strict=True)).statistic)


_LEAST_TO_RANK = 3


def compare_results(first: Results, second: Results) -> Comparison:
    """Compare two results files by the identity of their networks.

    Raises:
        PfstudyError: They have no network in common.
    """
    theirs = {network.architecture_hash: network for network in second.networks}
    ours = {network.architecture_hash for network in first.networks}
    pairs = tuple(
        (network, theirs[network.architecture_hash])
        for network in first.networks
        if network.architecture_hash in theirs
    )
    if not pairs:
        raise PfstudyError(
            "the two files have no network in common; measure the same networks, with images of "
            "the same size, on both machines."
        )
    return Comparison(
        first,
        second,
        pairs,
        tuple(n.name for n in first.networks if n.architecture_hash not in theirs),
        tuple(n.name for n in second.networks if n.architecture_hash not in ours),
    )


def agree(pair: tuple[Network, Network], num_networks: int = 1) -> bool:
    """Whether the intervals of a network's relative time overlap.

    Args:
        pair: The network in two results files.
        num_networks: Number of networks that are compared; the intervals hold for all at once.
    """
    one, other = (_joint_ends(network.measured, num_networks) for network in pair)
    return one[0] <= other[1] and other[0] <= one[1]


def _joint_ends(measured: Mapping[str, Any], num_networks: int) -> tuple[float, float]:
    ratio, *ends = (measured[f"relative_latency{end}"] for end in ("", "_low", "_high"))
    low, high = joint_interval(ratio, ends[0], ends[1], measured["num_processes"], num_networks)
    return float(low), float(high)
