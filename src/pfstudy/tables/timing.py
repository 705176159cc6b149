"""Times of the networks of a table: one reference for all of them, errors, and the fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pfstudy.canonical import digest
from pfstudy.speed.phase import was_busy
from pfstudy.speed.results import Network
from pfstudy.speed.setting import complete_setting
from pfstudy.speed.summary import BETWEEN_PROCESSES, joint_interval, log_error
from pfstudy.variant import architecture_of

_BESIDE = {
    "beside_latency": "relative_latency",
    "beside_low": "relative_latency_low",
    "beside_high": "relative_latency_high",
    "beside_processes": "num_processes",
}
COMPARABLE = "comparable_latency_ms"
"""Key of the latencies that networks are compared by; see `reconcile_latencies`."""

TIMING_FLOATS = ("speed_processes", *_BESIDE)
"""Keys of `timing_columns` whose values are numbers."""


def timing_columns(canonical: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """What a row has of a measurement besides its figures.

    Args:
        canonical: Canonical form of the variant.
        measured: Its measurement; empty without one.

    Returns:
        ``backbone``, the identity of the unsubstituted backbone with the size of its images;
        ``speed_processes``; and of the backbone's time relative to another one ``beside``, the
        other one's identity, ``beside_latency``, ``beside_low``, ``beside_high``,
        ``beside_processes`` and ``beside_is_busy``. ``None`` for what is missing.
    """
    form = {key: value for key, value in canonical.items() if key != "sites"}
    return {"backbone": digest(architecture_of(form)), **_figures(measured)}


def frame_of_networks(networks: Sequence[Network]) -> pd.DataFrame:
    """Rows of measured networks that `timing_sentences` takes; only those of a setting compare."""
    rows = []
    for network in networks:
        setting = str(complete_setting(network.measured))
        figures = _figures(network.measured)
        rows.append(
            {
                **{key: network.measured[key] for key in ("latency_ms", "baseline_latency_ms")},
                **figures,
                "is_baseline": network.architecture_hash == network.baseline_hash,
                "backbone": network.baseline_hash + setting,
                "beside": figures["beside"] and figures["beside"] + setting,
                "test_set": setting,
            }
        )
    return pd.DataFrame(rows).astype(dict.fromkeys(TIMING_FLOATS, float))


def _figures(measured: Mapping[str, Any]) -> dict[str, Any]:
    beside = measured.get("beside") or {}
    return {
        "speed_processes": measured.get("num_processes"),
        "beside": beside.get("architecture"),
        **{column: beside.get(key) for column, key in _BESIDE.items()},
        "beside_is_busy": was_busy(beside),
    }


def reconcile_latencies(frame: pd.DataFrame) -> None:
    """Refer all latencies to one measurement of one baseline, as far as backbones are linked.

    Times differ between processes and days by more than ratios do. So networks are compared by
    ``comparable_latency_ms``: the ratio of a network to its baseline times the baseline's latency;
    and that is its ratio to the reference times the reference's latency where both were timed side
    by side. ``latency_ms`` stays as it was measured.
    """
    measured = frame[frame["latency_ms"].notna()]
    first = measured.sort_values("is_baseline", ascending=False, kind="stable")
    own = first.drop_duplicates("backbone").set_index("backbone")["baseline_latency_ms"]
    links = _link_backbones(frame)
    scales: dict[str, float] = {}
    latencies: dict[str, float] = {}
    for backbone, latency in own.items():
        link = links[str(backbone)]
        # of the reference, or else of the first of those that are linked
        scale = own.get(link.root, scales.setdefault(link.root, latency / link.ratio))
        latencies[str(backbone)] = scale * link.ratio
    reference = frame["backbone"].map(latencies).astype(float)
    frame[COMPARABLE] = reference * frame["relative_latency"]


def were_timed_together(frame: pd.DataFrame) -> bool:
    """Whether all networks are of one backbone and were timed in the same processes."""
    measured = frame[frame["latency_ms"].notna()]
    return len(measured.drop_duplicates(["backbone", "baseline_latency_ms"])) <= 1


def latency_errors(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Standard errors of the logarithms of latencies, in two independent parts.

    The second part is common to all networks of a backbone: draw it once for each value of
    ``backbone``. It is 0 for a single backbone and for the reference of those that were timed side
    by side. Backbones that were not are uncertain by `drift`, the reference among them; so the
    ratio of two of them is uncertain by 1.4 times as much.

    Args:
        frame: Rows of a table, or some of them; compared are those of one test set.

    Returns:
        Error of each network's ratio to its own baseline, 0 for the baseline itself; and that of
        its baseline. Both are ``(V,)``, and NaN for networks that were not measured.
    """
    low, high = frame["relative_latency_low"], frame["relative_latency_high"]
    errors = log_error(low, high, frame["speed_processes"])
    errors[frame["is_baseline"].to_numpy(bool)] = 0.0
    common = np.zeros(len(frame))
    for _, rows in frame.groupby("test_set").indices.items():
        links = _link_backbones(frame.iloc[rows])
        apart = drift(frame) if _num_groups(links) > 1 else 0.0
        found = {name: float(np.hypot(link.error, apart)) for name, link in links.items()}
        common[rows] = [found.get(name, 0.0) for name in frame["backbone"].iloc[rows]]
    errors[frame["latency_ms"].isna()] = common[frame["latency_ms"].isna()] = np.nan
    return errors, common


def drift(frame: pd.DataFrame) -> float:
    """Standard deviation of the logarithm of a backbone's time between measurements.

    It is pooled over the backbones of a table that were measured several times, and at least
    `BETWEEN_PROCESSES`.
    """
    measured = frame[frame["latency_ms"].notna()]
    distinct = measured.drop_duplicates(["backbone", "baseline_latency_ms"])
    times = [np.log(each.to_numpy(float)) for _, each in
             distinct.groupby("backbone")["baseline_latency_ms"]]  # fmt: skip
    degrees = sum(len(each) - 1 for each in times)
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in times)
    return max(BETWEEN_PROCESSES, (squares / degrees) ** 0.5 if degrees else 0.0)


def are_timed_apart(frame: pd.DataFrame) -> bool:
    """Whether some backbones of one test set were not timed side by side."""
    return any(_num_groups(_link_backbones(rows)) > 1 for _, rows in frame.groupby("test_set"))


def timing_sentences(frame: pd.DataFrame, *, shows_intervals: bool = False) -> list[str]:
    """Say for a caption what is uncertain about times of a table.

    Args:
        frame: Rows of a table.
        shows_intervals: Whether intervals of relative times are shown.
    """
    sentences = []
    if COMPARABLE in frame and not were_timed_together(frame):
        sentences.append(
            "Latencies are as measured, some in different processes; networks are compared by "
            "their times relative to the backbone."
        )
    if are_timed_apart(frame):
        sentences.append(
            "Backbones were timed apart, so the time of each is uncertain by "
            f"{100 * drift(frame):.0f} % (standard error) relative to the others."
        )
    if frame["beside_is_busy"].any():
        sentences.append("Others used the machine while backbones were timed side by side.")
    if shows_intervals:
        sentences.append("Intervals of relative time are for each network alone.")
    return sentences


def find_fastest(frame: pd.DataFrame) -> np.ndarray:
    """Find the network that is faster than all others of a table.

    Its interval lies below those of all others, which are widened to hold at once. There is none
    where the table has several backbones, data or recipes, where a network was not measured, or
    where a figure is marked.

    Returns:
        ``(V,)``, true for one row at most.
    """
    fastest = np.zeros(len(frame), bool)
    ratios = frame["relative_latency"].to_numpy(float)
    is_whole = not np.isnan(ratios).any() and not any(frame["speed_mark"])
    if len(frame) > 1 and frame["family"].nunique() == 1 and is_whole:
        low, high = joint_interval(
            ratios,
            frame["relative_latency_low"],
            frame["relative_latency_high"],
            frame["speed_processes"],
            len(frame),
        )
        best = int(ratios.argmin())
        fastest[best] = high[best] < np.delete(low, best).min()
    return fastest


@dataclass(frozen=True)
class _Link:
    """How a backbone's time relates to that of the reference.

    Attributes:
        root: Identity of the reference.
        ratio: Time relative to it.
        error: Standard error of the logarithm of the ratio.
    """

    root: str
    ratio: float
    error: float


def _link_backbones(frame: pd.DataFrame) -> dict[str, _Link]:
    """Link the backbones of the measured rows, and those they were timed next to, to references.

    The reference of backbones that are linked, some perhaps by others in between, is the one that
    most were timed next to. Of several measurements of one pair the first counts, those of
    baselines before others.
    """
    measured = frame[frame["latency_ms"].notna()]
    measured = measured.sort_values("is_baseline", ascending=False, kind="stable")
    near: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in measured["backbone"]}
    pairs = measured[measured["beside_latency"].notna()]
    errors = log_error(pairs["beside_low"], pairs["beside_high"], pairs["beside_processes"])
    for name, other, ratio, error in zip(
        pairs["backbone"], pairs["beside"], pairs["beside_latency"], errors, strict=True
    ):
        if name != other and other not in near[name]:
            near[name][other] = (float(ratio), float(error))
            near.setdefault(other, {})[name] = (1 / float(ratio), float(error))
    links: dict[str, _Link] = {}
    for root in sorted(near, key=lambda name: -len(near[name])):
        if root in links:
            continue
        links[root] = _Link(root, 1.0, 0.0)
        reached = [root]
        for name in reached:
            for other, (ratio, error) in near[name].items():
                if other not in links:
                    known = links[name]
                    links[other] = _Link(
                        root, known.ratio / ratio, float(np.hypot(known.error, error))
                    )
                    reached.append(other)
    return links


def _num_groups(links: Mapping[str, _Link]) -> int:
    return len({link.root for link in links.values()})
