"""Bounds of `benchmarks/statistics.py`, from fewer families."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NUM_FAMILIES = 2000
NUM_ERRORS = 2.0  # by which so few families may miss a bound

PARTS = (
    *(("seeds", "seeds", number) for number in (2, 3, 5, 10)),
    *(("missing", "seeds", number) for number in (3, 5)),
    *(("rounded", "seeds", number) for number in (3, 5, 10)),
    *(("looks", "variants", number) for number in (1, 4, 10, 40)),
    *(("both", "variants", number) for number in (1, 4, 10)),
    *(("changes", "variants", number) for number in (1, 10)),
    *(("power", "seeds", number) for number in (3, 5)),
    ("agreement", None, None),
)


@pytest.fixture(scope="module")
def rows() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(BENCHMARKS)])
        return importlib.import_module("_simulation.rows")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "column", "value"),
    [pytest.param(*each, id="-".join(str(word) for word in each if word)) for each in PARTS],
)
def test_bounds_are_kept(
    rows: ModuleType, part: str, column: str | None, value: int | None
) -> None:
    chosen = [
        row
        for row in rows.make_rows()
        if row.part == part and (column is None or row.columns[column] == value)
    ]
    assert chosen
    missed = [
        (row.columns, name, figure.value, figure.limit)
        for row in chosen
        for name, figure in row.run(NUM_FAMILIES).items()
        if figure.is_missed(NUM_ERRORS)
    ]
    assert not missed


def test_parts_have_all_rows_with_bounds(rows: ModuleType) -> None:
    for row in rows.make_rows():
        if row.part not in ("effects", "front"):
            assert any(
                row.part == part and (column is None or row.columns[column] == value)
                for part, column, value in PARTS
            )


def test_a_row_can_be_repeated(rows: ModuleType) -> None:
    row = next(row for row in rows.make_rows() if row.part == "seeds")
    assert row.run(50) == row.run(50)


@pytest.mark.parametrize("name", ["statistics", "_measuring"])
def test_scripts_get_the_module_of_the_standard_library(name: str) -> None:
    code = f"import {name}, sys; print(sys.modules['statistics'].median([1, 2, 9]))"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=BENCHMARKS, check=True, capture_output=True, text=True
    )
    assert found.stdout == "2\n"
