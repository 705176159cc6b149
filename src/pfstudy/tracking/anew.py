"""A finished run is logged from its files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

from pfstudy import ledger, store
from pfstudy.files import read_json
from pfstudy.record import without_test
from pfstudy.schema.config import Logger, parse_config
from pfstudy.speed.setting import complete_setting, setting_of
from pfstudy.tracking.agents import agent_waits
from pfstudy.tracking.runs import (
    Mode,
    Tracker,
    choose_mode,
    config_to_log,
    record_to_log,
    speed_to_log,
    stop_service,
)
from pfstudy.tuning import JOB_TYPE, is_trial


def log_anew(
    directory: Path, mode: Mode = "offline", say: Callable[[str], None] = lambda text: None
) -> str:
    """Log a finished run: curves, summary, record, and its speed as far as it is known.

    Args:
        directory: The run directory.
        mode: As `pfstudy.tracking.choose_mode` says.
        say: Told what goes wrong.

    Returns:
        The id of the new run of W&B.
    """
    written, record = read_json(directory / store.CONFIG), read_json(directory / ledger.RECORD)
    if is_trial(directory):  # older ones were tested
        record = without_test(record)
    config, identity, variant = written["config"], written["identity"], record["variant"]
    slug = directory.parent.name.removesuffix(f"-{identity['hash']}")
    run_id = f"{identity['hash']}-{identity['seed']}-0-{uuid4().hex[:6]}"
    tracker = Tracker(Logger(**config["logger"]), mode, directory, say)
    tracker.start(
        run_id,
        f"{slug}-{directory.name}",
        store.studies_of(directory.parent.parent).get(directory, directory.parent.name),
        config_to_log(config, identity, variant["label"], variant["operations"]),
        JOB_TYPE if is_trial(directory) else "train",
    )
    for row in _rows(directory / store.METRICS):
        tracker.log(row, step=int(row["epoch"]))
    wanted = setting_of(parse_config(config).speed)
    known = store.read_speeds(directory.parent)
    measured = [m for m in known if wanted.items() <= complete_setting(m).items()][:1]
    for figures in measured:
        tracker.summarise(speed_to_log(figures))
    tracker.summarise(record_to_log(record, measured))
    tracker.finish(0)
    return run_id


def answer_agent(directory: Path, say: Callable[[str], None]) -> None:
    """Tell an agent of a W&B sweep the figures of a run that was done before it asked.

    Args:
        directory: The run directory.
        say: Told what goes wrong.
    """
    if not agent_waits() or not (directory / ledger.RECORD).exists():
        return
    logger = Logger(**read_json(directory / store.CONFIG)["config"]["logger"])
    log_anew(directory, choose_mode(logger), say)
    stop_service()


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row.get("epoch"):
                yield {key: float(value) for key, value in row.items() if value}
