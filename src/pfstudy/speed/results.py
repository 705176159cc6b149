"""Results files: what was measured on one device in one setting, with all that is known of both.

``runs/speed/DEVICE_HOST_DTYPE_LAYOUT_bBATCH_tTHREADS_BACKEND_VERSION.json``
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfstudy import files, store
from pfstudy.canonical import digest
from pfstudy.errors import PfstudyError
from pfstudy.speed.phase import measurement_path, name_setting
from pfstudy.speed.setting import complete_setting, describe_setting
from pfstudy.speed.summary import joint_interval
from pfstudy.variant import SCHEMA_VERSION, Variant, architecture_of

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


def find_results(path: Path) -> dict[str, Network]:
    """The networks of a results file by their identity; empty if there is no such file."""
    networks = read_results(path).networks if path.exists() else ()
    return {network.architecture_hash: network for network in networks}


def add_results(path: Path, networks: Iterable[Network], environment: Mapping[str, Any]) -> Results:
    """Write networks into a results file, beside those that are in it already.

    A network that is measured again replaces what was known of it.
    """
    found = {network.architecture_hash: network for network in networks}
    with files.locked(path):
        merged = find_results(path) | found
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
        for network in networks:
            for kind, keys in ((int | float, _NUMBERS), (str, _TEXTS)):
                if not all(isinstance(network.measured[key], kind) for key in keys):
                    raise ValueError
        setting = complete_setting(content["setting"])
        describe_setting(setting)
        return Results(setting, {**content["environment"]}, networks)
    except (KeyError, TypeError, ValueError):
        raise PfstudyError(f"{path} is damaged: it is no results file of pfstudy speed.") from None


@dataclass(frozen=True)
class Taken:
    """Measurements that were put beside records.

    Attributes:
        written: The files, by name of the network.
        kept: Those that have another measurement and stayed as they were, likewise.
        same: Those that had the same already.
    """

    written: Mapping[str, list[Path]]
    kept: Mapping[str, list[Path]]
    same: Mapping[str, list[Path]]


def take_results(networks: Iterable[Network], root: Path, *, replace: bool = False) -> Taken:
    """Put measurements beside the records of the variants that have the same networks.

    Args:
        networks: Measured on this or another machine.
        root: Directory of the run directories.
        replace: Whether to replace one of the same device, host and setting that is there.
    """
    directories: dict[str, list[Path]] = {}
    for path in sorted(root.glob(f"*/seed*/{store.CONFIG}")):
        canonical = files.read_json(path)["identity"]["canonical"]
        places = directories.setdefault(digest(architecture_of(canonical)), [])
        if path.parent.parent not in places:
            places.append(path.parent.parent)
    written: dict[str, list[Path]] = {}
    kept: dict[str, list[Path]] = {}
    same: dict[str, list[Path]] = {}
    for network in networks:
        for place in directories.get(network.architecture_hash, ()):
            path = measurement_path(place, network.measured)
            known = files.read_json(path) if path.exists() else None
            if known == network.measured:
                same.setdefault(network.name, []).append(path)
            elif known is not None and not replace:
                kept.setdefault(network.name, []).append(path)
            else:
                files.write_json(path, network.measured)
                written.setdefault(network.name, []).append(path)
    return Taken(written, kept, same)


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
