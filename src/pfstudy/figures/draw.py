"""Which pictures a study has, and their files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pfstudy.errors import PfstudyError
from pfstudy.figures import charts
from pfstudy.figures.curves import read_curves
from pfstudy.figures.differences import difference_intervals
from pfstudy.figures.style import save
from pfstudy.tables.effects import fit_all
from pfstudy.tables.rows import Rows

Records = Sequence[Mapping[str, Any]]


def draw(
    rows: Rows, records: Records, directory: Path, kinds: Sequence[str], formats: Sequence[str]
) -> tuple[list[Path], list[str]]:
    """Draw the pictures of a study.

    Args:
        rows: Its variants.
        records: Its runs.
        directory: Where to.
        kinds: Of `KINDS`; none for all that can be drawn.
        formats: Endings of the files.

    Returns:
        The files, and why some pictures that were asked for cannot be drawn.

    Raises:
        PfstudyError: They cannot be written, or the runs are of several datasets.
    """
    if rows.frame["test_set"].nunique() > 1:
        names = ", ".join(dict.fromkeys(rows.frame["data"]))
        raise PfstudyError(
            f"runs on different test images ({names}) do not fit into one picture; choose some: "
            "--study NAME."
        )
    written: list[Path] = []
    missing: list[str] = []
    for kind in kinds or KINDS:
        try:
            chart = KINDS[kind](rows, records)
        except PfstudyError as error:
            if kinds:
                missing.append(f"{kind}: {error}")
            continue
        for ending in formats:
            path = directory / f"{kind}.{ending}"
            save(chart, path)
            written.append(path)
    return written, missing


def _against(cost: str, rows: Rows, records: Records) -> Any:
    del records
    return charts.accuracy_against(rows, cost)


def _differences(rows: Rows, records: Records) -> Any:
    del records
    return difference_intervals(rows)


def _effects(rows: Rows, records: Records) -> Any:
    del records
    return charts.effect_map(fit_all(rows)[0])  # of the finest level


def _replaced(rows: Rows, records: Records) -> Any:
    del records
    return charts.replaced_blocks(rows)


def _curves(rows: Rows, records: Records) -> Any:
    curves = read_curves(records)
    if curves.empty:
        raise PfstudyError("the runs have no metrics.csv here.")
    return charts.learning_curves(rows, curves)


KINDS: dict[str, Callable[[Rows, Records], Any]] = {
    "latency": partial(_against, "latency_ms"),
    "macs": partial(_against, "macs"),
    "params": partial(_against, "params"),
    "differences": _differences,
    "effects": _effects,
    "replaced": _replaced,
    "curves": _curves,
}
"""The pictures by name."""
