"""The block table: the time of every operation at every site, and what follows for any mixture.

Times are shares of the time of the unsubstituted backbone in the same round, as times of a machine
drift by far more than ratios do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from pfstudy import files
from pfstudy.canonical import digest
from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.speed.setting import complete_setting, name_setting, setting_of
from pfstudy.speed.summary import (
    SegmentTimings,
    mean_load,
    over_processes,
    trimmed_error,
    trimmed_mean,
)
from pfstudy.variant import SCHEMA_VERSION, Variant, architecture_of, make_variant

DIRECTORY = "speed/tables"
_LEAST_ERRORS = 3
_SOURCE_LENGTH = 8


@dataclass(frozen=True)
class Prediction:
    """A predicted time.

    Attributes:
        relative_latency: Time relative to the unsubstituted backbone.
        low: Lower end of the 95 % interval; ``None`` if that is not known.
        high: Upper end, likewise.
        latency_ms: The time, where the backbone takes what it took when the table was made.
    """

    relative_latency: float
    low: float | None
    high: float | None
    latency_ms: float


@dataclass(frozen=True)
class HeldOut:
    """A mixed network that was measured as a whole beside the table, to see how far it is off.

    Attributes:
        label: What is substituted.
        predicted: Time relative to the unsubstituted backbone, from the table.
        measured: The same, as it was measured.
        predicted_error: Standard error of the prediction, relative: what the noise of rounds and
            processes makes of it.
        measured_error: That of the measurement.
    """

    label: str
    predicted: float
    measured: float
    predicted_error: float = 0.0
    measured_error: float = 0.0


@dataclass(frozen=True)
class BlockTable:
    """What is known of a backbone on a device in a setting.

    Attributes:
        setting: Device, host and setting.
        environment: As `pfstudy.environment.describe_environment` gives it.
        model: Name of the backbone's declaration.
        backbone: Identity of the unsubstituted backbone, with the size of its images.
        baseline_latency_ms: Median time of the unsubstituted backbone.
        rest: Share of what follows the last site.
        cells: Share of a site's segment by address and by what stands there.
        held_out: What the predictions were compared with.
        others_load: Cores, or share of the GPU, that others used meanwhile; ``None`` if not known.
        max_load: What they may have used.
    """

    setting: Mapping[str, Any]
    environment: Mapping[str, Any]
    model: str
    backbone: str
    baseline_latency_ms: float
    rest: float
    cells: Mapping[str, Mapping[str, float]]
    held_out: tuple[HeldOut, ...] = field(default=())
    others_load: float | None = 0.0
    max_load: float = float("inf")

    @property
    def sites(self) -> list[str]:
        """Addresses of the sites, in the order of the backbone."""
        return list(self.cells)

    @property
    def baseline(self) -> float:
        """The sum for the unsubstituted backbone: 1, but for noise."""
        return self.rest + sum(cells[ORIGINAL] for cells in self.cells.values())

    @property
    def relative_error(self) -> float | None:
        """Half the width of a prediction's 95 % interval; ``None`` if nothing was compared.

        By how much predictions are off, without what the measurements that they are compared with
        are off, and at least what the noise of the rounds makes of a prediction.
        """
        number = len(self.held_out)
        if number < _LEAST_ERRORS:
            return None
        off = [held.predicted / held.measured - 1 for held in self.held_out]
        noise, own = (
            np.mean(np.square([getattr(held, f"{which}_error") for held in self.held_out]))
            for which in ("measured", "predicted")
        )
        spread = float(np.sqrt(max(np.mean(np.square(off)) - noise, own)))
        return spread * float(stdtrit(number, 0.975))

    def lacks(self, stands: Iterable[tuple[str, str]]) -> str | None:
        """Say what is not known of what stands at sites; ``None`` if all is.

        Args:
            stands: Addresses and keys of cells, as `what_stands` gives them.
        """
        for site, operation in stands:
            known = self.cells.get(site, {})
            if operation not in known:
                return (
                    f"the block table has no {operation} at {site}, but "
                    f"{', '.join(known) or 'nothing'}; measure it with pfstudy speed table."
                )
        return None

    def predict(self, variant: Variant) -> Prediction | None:
        """Predict the time of a network; ``None`` if the table lacks what stands at a site."""
        stands = what_stands(variant)
        if self.lacks(stands.items()):
            return None
        share = self.rest + sum(self.cells[site][key] for site, key in stands.items())
        value, error = share / self.baseline, self.relative_error
        low, high = (None if error is None else value * (1 + sign * error) for sign in (-1, 1))
        return Prediction(value, low, high, value * self.baseline_latency_ms)

    def predict_many(self, choices: np.ndarray, operations: Sequence[str]) -> np.ndarray:
        """Predict the times of many networks at once, without building or composing any.

        Args:
            choices: ``(V, S)``; for every network and site an index into ``operations``.
            operations: Keys of cells, as `what_stands` gives them.

        Returns:
            ``(V,)``, times relative to the unsubstituted backbone.

        Raises:
            PfstudyError: The table lacks an operation at a site.
        """
        lacking = self.lacks(product(self.sites, operations))
        if lacking:
            raise PfstudyError(lacking)
        shares_SO = np.array([[self.cells[s][o] for o in operations] for s in self.sites])
        sums_V = shares_SO[np.arange(len(self.sites)), choices].sum(axis=1)
        times_V: np.ndarray = (sums_V + self.rest) / self.baseline
        return times_V


def what_stands(variant: Variant) -> dict[str, str]:
    """What stands at every site, by its address, as far as time depends on it."""
    stands = dict(variant.operations)
    for substitution in variant.substitutions:
        source = variant.canonical["sites"][substitution.layer].get("source")
        if source:  # of the user's own operation, which may have changed
            stands[substitution.address] += f"@{source[:_SOURCE_LENGTH]}"
    return stands


def backbone_of(variant: Variant) -> str:
    """Identity of the unsubstituted backbone, with the size of its images."""
    form = {key: value for key, value in variant.canonical.items() if key != "sites"}
    return digest(architecture_of(form))


def make_table(
    variants: Sequence[Variant],
    held_out: Sequence[Sequence[Variant]],
    processes: Sequence[SegmentTimings],
    setting: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> BlockTable:
    """Put together what several processes have timed.

    Args:
        variants: The networks that were cut; the baseline first.
        held_out: The mixed networks of each process.
        processes: What each has found; timed as a whole, too, were the baseline and the mixed
            networks.
        setting: Device, host and setting.
        environment: As `pfstudy.environment.describe_environment` gives it.
    """
    rounds = [_shares(timings) for timings in processes]
    shares_NS, _ = over_processes(rounds)
    cells: dict[str, dict[str, list[float]]] = {}
    for variant, shares_S in zip(variants, shares_NS, strict=True):
        for share, (address, key) in zip(shares_S[:-1], what_stands(variant).items(), strict=True):
            cells.setdefault(address, {}).setdefault(key, []).append(float(share))
    totals = [np.asarray(timings.totals_ms) for timings in processes]
    table = BlockTable(
        setting,
        environment,
        variants[0].config.model.name,
        backbone_of(variants[0]),
        float(np.median([np.median(baseline_R) for baseline_R, *_ in totals])),
        float(shares_NS[:, -1].mean()),
        {a: {key: float(np.mean(v)) for key, v in row.items()} for a, row in cells.items()},
        others_load=mean_load(processes),
        max_load=variants[0].config.speed.max_load,
    )
    compared = []
    for mixed, (baseline_R, *others) in zip(held_out, totals, strict=True):
        for variant, total_R in zip(mixed, others, strict=True):
            prediction = table.predict(variant)
            assert prediction is not None
            # marks cost time and keep a compiler from fusing, so of whole networks neither has any
            ratios_R = total_R / baseline_R
            measured = float(trimmed_mean(ratios_R))
            parts = _parts(variants, variant)
            _, error = over_processes(
                [shares_NSR[parts, np.arange(len(parts))].sum(axis=0) for shares_NSR in rounds]
            )
            compared.append(
                HeldOut(
                    variant.label,
                    prediction.relative_latency,
                    measured,
                    float(error) / prediction.relative_latency,
                    float(trimmed_error(ratios_R)) / measured,
                )
            )
    return replace(table, held_out=tuple(compared))


def _shares(timings: SegmentTimings) -> np.ndarray:
    """Share of every segment in the baseline's pass of the same round: ``(N, S, R)``."""
    segments_NSR = np.moveaxis(np.asarray(timings.segments_ms), 1, 2)
    shares_NSR: np.ndarray = segments_NSR / segments_NSR[0].sum(axis=0)
    return shares_NSR


def _parts(variants: Sequence[Variant], mixed: Variant) -> list[int]:
    """Which of the variants has what a mixed network has, for every segment."""
    stands = [what_stands(variant) for variant in variants]
    has = [
        next(index for index, keys in enumerate(stands) if keys[address] == key)
        for address, key in what_stands(mixed).items()
    ]
    return [*has, 0]  # the rest is everyone's


def table_path(root: Path, variant: Variant, setting: Mapping[str, Any]) -> Path:
    """Name the file of a table, below the directory of the runs."""
    return root / DIRECTORY / f"{_stem(variant)}_{name_setting(setting)}.json"


def _stem(variant: Variant) -> str:
    return f"{variant.config.model.name}-{backbone_of(variant)}"


def save_table(path: Path, table: BlockTable) -> BlockTable:
    """Write a table; what a file that is there knows besides stays in it.

    Returns:
        The table as it now is.
    """
    with files.locked(path):
        if path.exists():
            known = read_table(path)
            again = {held.label for held in table.held_out}
            loads = [t.others_load for t in (known, table) if t.others_load is not None]
            table = replace(
                table,
                cells={s: {**known.cells.get(s, {}), **row} for s, row in table.cells.items()},
                held_out=(*(h for h in known.held_out if h.label not in again), *table.held_out),
                others_load=max(loads, default=None),
            )
        content = {**vars(table), "held_out": [vars(held) for held in table.held_out]}
        files.write_json(path, {"schema_version": SCHEMA_VERSION, **content})
    return table


def read_table(path: Path) -> BlockTable:
    """Read a table.

    Raises:
        PfstudyError: It is none, or damaged, or of an unknown schema.
    """
    content = files.read_json(path)
    if content.pop("schema_version", None) != SCHEMA_VERSION:
        raise PfstudyError(f"{path} is no block table that this version reads.")
    try:
        held_out = tuple(HeldOut(**held) for held in content.pop("held_out"))
        return BlockTable(**content, held_out=held_out)
    except (KeyError, TypeError):
        raise PfstudyError(f"{path} is damaged: it is no block table.") from None


class TableFinder:
    """Finds block tables; reads each file once.

    Args:
        root: Directory of the run directories.
    """

    def __init__(self, root: Path) -> None:
        self._directory = root / DIRECTORY
        self._read = cache(read_table)

    def find(self, variant: Variant, place: Mapping[str, str]) -> BlockTable | None:
        """Find the table of a variant's backbone in its setting.

        Args:
            variant: The variant.
            place: Where it must be from: ``host``, and ``device`` where that is known.

        Raises:
            PfstudyError: A table is damaged, or there are several, of different devices.
        """
        wanted = {**setting_of(variant.config.speed), **place}
        paths = sorted(self._directory.glob(f"{_stem(variant)}_*.json"))
        found = {
            str(table.setting.get("device")): table
            for table in map(self._read, paths)
            if wanted.items() <= {**table.setting, **complete_setting(table.setting)}.items()
        }
        if len(found) > 1:
            raise PfstudyError(
                f"there are block tables of {variant.config.model.name} of several devices: "
                f"{', '.join(found)}; choose with speed.device=cpu or speed.device=gpu, or remove "
                f"from {self._directory} what is not wanted."
            )
        return next(iter(found.values()), None)


def draw_mixed(
    variants: Sequence[Variant], number: int, generator: np.random.Generator
) -> list[Variant]:
    """Draw networks that have at every site what one of some networks has there."""
    drawn = []
    for _ in range(number):
        chosen = generator.integers(len(variants), size=len(variants[0].config.sites))
        sites = tuple(variants[who].config.sites[place] for place, who in enumerate(chosen))
        config = replace(variants[0].config, sites=sites)
        fingerprint = str(variants[0].canonical["data"]["fingerprint"])
        drawn.append(make_variant(config, fingerprint))
    return drawn


def list_operations(tables: Iterable[Mapping[str, float]]) -> list[str]:
    """Everything that stands at some site, the backbone's own first."""
    return list(dict.fromkeys([ORIGINAL, *(key for row in tables for key in row)]))
