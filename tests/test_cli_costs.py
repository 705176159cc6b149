"""`pfstudy recount`, as it is typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pfstudy import files, ledger, store
from run_directories import old_run, write_run

Call = Callable[..., tuple[int | str | None, str, str]]


def test_older_runs_are_counted_again_once(call_here: Call) -> None:
    run, _ = (old_run(Path("runs"), seed=seed) for seed in (0, 1))
    other = old_run(Path("runs"), "block.spatial=maxpool", params=7)
    columns = ("--columns", "activations")
    _, before, _ = call_here("table", *columns)
    assert "pfstudy recount counts them again" in " ".join(before.split())
    code, out, err = call_here("recount")
    assert (code, out) == (
        *(1, "1 variant counted again; 0 had been counted as this version counts\n"),
    )
    assert f"pfstudy: 1 variant not counted again: {other}: the network has" in err
    assert (run.parent / store.COST).exists()
    _, after, _ = call_here("table", *columns)
    assert before.count("-‡") == after.count("-‡") + 1
    code, out, _ = call_here("recount", str(run), "--json")
    assert code == 0
    assert json.loads(out) == {"recounted": [], "num_counted_before": 1, "failed": {}}


def test_damaged_files_do_not_keep_others_from_being_counted(call_here: Call) -> None:
    run, damaged = (old_run(Path("runs"), seed=seed) for seed in (0, 1))
    record = files.read_json(damaged / ledger.RECORD)
    files.write_json(damaged / ledger.RECORD, record | {"seed": True})
    counted = run.parent / store.COST
    for content in ('{"counting": 2, "params', '{"counting": 2, "activations": -5}'):
        counted.write_text(content)
        _, out, _ = call_here("table", "--columns", "activations")
        assert "-‡" in out
    code, out, err = call_here("recount")
    assert (code, out.partition(";")[0]) == (1, "1 variant counted again")
    assert "damaged: seed is true" in err
    assert files.read_json(counted)["activations"] > 0


@pytest.mark.parametrize("is_there", [True, False])
def test_a_directory_without_finished_runs_is_refused(call_here: Call, is_there: bool) -> None:
    if is_there:
        write_run(Path("runs"))
    code, out, err = call_here("recount")
    assert (code, out) == (2, "")
    assert err == (
        "pfstudy: runs has no finished run; give the directory that runs were made in.\n"
        if is_there
        else "pfstudy: there is no directory runs; give the one that runs were made in, or that "
        "of a run.\n"
    )
