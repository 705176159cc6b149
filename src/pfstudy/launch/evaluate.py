"""Evaluates networks in a fresh process, as runs are trained; the parent needs no torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from pfstudy import inventory, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.evaluation.cases import Case
from pfstudy.evaluation.results import PACKAGE, find_missing
from pfstudy.files import read_json
from pfstudy.launch.display import Display
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.schema.config import Config
from pfstudy.variant import make_variant
from pfstudy.words import counted

_MOST_NETWORKS = 16  # that are on the device at once


def evaluate_in_child(config: Config) -> dict[str, Any]:
    """Evaluate the network of a config with the weights that it starts from.

    Returns:
        The figures of `pfstudy.evaluation.given.evaluate`, and what they are of.

    Raises:
        PfstudyError: The network cannot be built, or weights or images cannot be read.
    """
    if config.init_from is None and not config.pretrained:
        raise PfstudyError("eval needs weights: give init_from=FILE, or pretrained=true.")
    label = make_variant(config, content="").label
    with Display() as display, Pool(PRELOAD) as pool:
        display.phase("eval", f"{config.model.name} ({label}) on {config.data.name}")
        display.bar("importing")
        figures: dict[str, Any] = pool.call(
            "pfstudy.evaluation.given:evaluate",
            config,
            on_report=display.follow("batches", "batch_index", "num_batches"),
        )
    return {
        "model": config.model.name,
        "variant": label,
        "data": config.data.name,
        "weights": config.init_from or "timm",
        **figures,
    }


def choose_runs(paths: Sequence[Path]) -> list[Path]:
    """Choose finished runs.

    Args:
        paths: Run directories, which must be finished, or directories of a variant or of all runs,
            of which the finished ones are taken.

    Raises:
        PfstudyError: A path is no such directory, a run is not finished, or none is.
    """
    chosen: list[Path] = []
    for path in paths:
        found = inventory.find_runs(path)
        if not found:
            raise PfstudyError(
                f"{path} has no runs; give a run directory such as runs/SLUG-HASH/seed0, that of a "
                "variant, or the one that runs were made in."
            )
        done = [run for run in found if ledger.state_of(run) == "done"]
        if not done:
            what = "is not finished" if found == [path] else "has no finished run"
            raise PfstudyError(
                f"{path} {what}; pfstudy resume goes on with what is not, pfstudy status shows it."
            )
        chosen += done
    return list(dict.fromkeys(chosen))


@dataclass(frozen=True)
class Evaluation:
    """What became of runs that were to be evaluated.

    Attributes:
        done: The run directories that have all figures now.
        failed: Why others could not be evaluated.
    """

    done: list[Path]
    failed: Mapping[Path, str]


def evaluate_runs(
    paths: Sequence[Path], cases: Sequence[Case], *, again: bool = False
) -> Evaluation:
    """Evaluate finished runs on what they have no figures of, and add the figures to them.

    A run that was not named itself, and has kept no weights, is left out.

    Args:
        paths: As for `choose_runs`.
        cases: What to evaluate them on.
        again: Whether to evaluate also where there are figures.

    Raises:
        PfstudyError: A run that was named has kept no weights, a package is missing, the figures
            of a run were made with other settings, or no run can be evaluated.
    """
    missing = {
        run: tuple(cases if again else find_missing(run, cases)) for run in choose_runs(paths)
    }
    without = [run for run, some in missing.items() if some and store.find_weights(run) is None]
    for run in without:
        if run in paths or len(without) == len(missing):
            raise PfstudyError(
                f"{run} has kept no weights; to evaluate it, forget the run (pfstudy forget) and "
                "train it again with trainer.keep=[last]."
            )
    wanted = {run: some for run, some in missing.items() if some and run not in without}
    if any(case.kind == "corruptions" for some in wanted.values() for case in some):
        _check_package()
    with Display() as display:
        for run in without:
            display.note(f"{run} has kept no weights, and is left out")
        failed = _evaluate(wanted, display) if wanted else {}
    done = [run for run in missing if run not in without and run not in failed]
    if failed and not done:
        raise PfstudyError(next(iter(failed.values())))
    return Evaluation(done, failed)


def _evaluate(wanted: Mapping[Path, tuple[Case, ...]], display: Display) -> dict[Path, str]:
    """Evaluate runs; returns why some could not be."""
    failed: dict[Path, str] = {}
    with Pool(PRELOAD) as pool:
        for runs in _alike(wanted):
            data = read_json(runs[0] / store.CONFIG)["config"]["data"]["name"]
            display.phase("eval", f"{counted(len(runs), 'run')} on {data}")
            display.bar("importing")
            arguments = tuple((run, wanted[run]) for run in runs)
            try:
                failed |= pool.call(
                    "pfstudy.evaluation.runs:evaluate_runs", arguments, on_report=_follow(display)
                )
            except PfstudyError as error:
                failed |= dict.fromkeys(runs, str(error))
    return failed


def _alike(runs: Iterable[Path]) -> Iterator[list[Path]]:
    """Runs that see the same images, so many at a time as may lie on a device."""
    by_data: dict[str, list[Path]] = {}
    for run in runs:
        data = read_json(run / store.CONFIG)["config"]["data"]
        by_data.setdefault(json.dumps(data, sort_keys=True), []).append(run)
    for alike in by_data.values():
        left = iter(alike)
        while some := list(islice(left, _MOST_NETWORKS)):
            yield some


def _check_package() -> None:
    if find_spec("imagecorruptions") is None:
        raise PfstudyError(f"{PACKAGE} is not installed: pip install 'pfstudy[corruptions]'.")


def _follow(display: Display) -> Callable[[str, Mapping[str, Any]], None]:
    """What a child's reports are given to: one bar, of what is being done now."""
    shown = "importing"

    def follow(kind: str, details: Mapping[str, Any]) -> None:
        nonlocal shown
        if kind == "note":
            display.note(details["text"])
            return
        if details["what"] != shown:
            display.drop_bar(shown)
            shown = details["what"]
        display.bar(shown, details["done"], details["total"])

    return follow
