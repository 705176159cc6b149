"""Counts the cost of finished runs again in a fresh process; the parent needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pfstudy import inventory, store
from pfstudy.errors import PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Pool
from pfstudy.words import counted


@dataclass(frozen=True)
class Recounted:
    """What became of variants whose cost was to be counted again.

    Attributes:
        recounted: The directories of those that were.
        num_counted_before: Number of variants that had been counted as this version counts.
        failed: Why others could not be counted, by run directory; of damaged records, too.
    """

    recounted: tuple[Path, ...]
    num_counted_before: int
    failed: Mapping[Path, str] = field(default_factory=dict)


def recount_runs(directory: Path) -> Recounted:
    """Count the cost of variants again that another version counted in another way.

    Args:
        directory: Of the run directories, of a variant, or of a run.

    Raises:
        PfstudyError: There is no such directory, or no finished run in it.
    """
    failed: dict[Path, str] = {}

    def refuse(run: str, reason: str) -> None:
        failed.setdefault(Path(run), reason)

    records = list(store.read_records(inventory.find_runs(directory), refuse))
    if not records and not failed:
        raise PfstudyError(
            f"{directory} has no finished run; give the directory that runs were made in."
        )
    by_variant: dict[Path, list[bool]] = {}
    for record in records:
        variant = Path(record["directory"]).parent
        by_variant.setdefault(variant, []).append(store.is_counted_so(record["cost"]))
    runs = {Path(record["directory"]).parent: Path(record["directory"]) for record in records}
    wanted = [runs[variant] for variant, is_new in by_variant.items() if not all(is_new)]
    if wanted:
        with Display() as display, Pool(()) as pool:  # one process alone: nothing to import ahead
            display.phase("recount", counted(len(wanted), "variant"))
            display.bar("importing")
            failed |= pool.call(
                "pfstudy.complexity:recount",
                tuple(wanted),
                on_report=display.follow("variants", "done", "total"),
            )
    recounted = tuple(run.parent for run in wanted if run not in failed)
    return Recounted(recounted, len(by_variant) - len(wanted), failed)
