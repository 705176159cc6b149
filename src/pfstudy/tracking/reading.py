"""Weights & Biases: records in, from a project or from what was logged offline."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from pfstudy.errors import PfstudyError, first_line
from pfstudy.searches import SEARCHES
from pfstudy.tracking.commands import call_wandb
from pfstudy.tracking.failures import be_patient, explain_failure, require_login
from pfstudy.tuning import JOB_TYPE, TUNING

RECORD_KEY = "record_json"
"""Key of the summary that has the whole record, as text."""

IDENTITY_KEY = "identity"
"""Key of the config that says which run of ours it is."""

_PAGE = 200
_TIMEOUT_S = 120
_SILENCE_S = 5.0


DAMAGED = "damaged"
"""State of a run whose record cannot be read."""


@dataclass(frozen=True)
class Logged:
    """A run as W&B knows it.

    Attributes:
        name: For people.
        state: ``finished``, ``running``, ``crashed``, ``failed``, ``killed``.
        record: The record, with measurements of speed; ``None`` without.
        key: Identity and seed; ``None`` where pfstudy did not log it.
    """

    name: str
    state: str
    record: Mapping[str, Any] | None
    key: tuple[str, int] | None


def read_project(
    project: str, study: str | None = None, say: Callable[[str], None] = lambda text: None
) -> list[Logged]:
    """Read the runs of a project, page by page.

    Args:
        project: ``ENTITY/PROJECT``, or ``PROJECT`` of one's own.
        study: Whose runs; ``None`` for all but the trials of tuning.
        say: Told when the server takes its time.

    Raises:
        PfstudyError: Nobody is logged in, there is no such project, or no network.
    """
    if not all(project.split("/")) or project.count("/") > 1:
        raise PfstudyError(f"a project of W&B is wandb:ENTITY/PROJECT, but got wandb:{project}.")
    be_patient()
    import wandb

    what = f"wandb:{project} cannot be read"
    require_login(what)
    waiting = Timer(_SILENCE_S, say, ["W&B does not answer yet; it has about a minute"])
    waiting.daemon = True
    waiting.start()
    try:
        api = wandb.Api(timeout=_TIMEOUT_S)
        filters: dict[str, Any] = {"group": study} if study else {"jobType": {"$ne": JOB_TYPE}}
        runs = api.runs(project, filters=filters, per_page=_PAGE, lazy=False)
        return [
            _make(str(run.name), str(run.state), run.summary_metrics or {}, run.config or {})
            for run in runs
        ]
    except PfstudyError:
        raise
    except Exception as error:  # wandb raises whatever its layers raise
        raise explain_failure(what, error) from None
    finally:
        waiting.cancel()


def _make(name: str, state: str, summary: Mapping[str, Any], config: Mapping[str, Any]) -> Logged:
    text, identity = summary.get(RECORD_KEY), config.get(IDENTITY_KEY)
    record = None
    if isinstance(text, str):
        try:
            record = json.loads(text)
        except ValueError:
            state = DAMAGED
    key = None
    if isinstance(identity, Mapping) and {"hash", "seed"} <= set(identity):
        key = (str(identity["hash"]), int(identity["seed"]))
    return Logged(name, state, record, key)


def find_offline(directory: Path) -> list[Path]:
    """Find what was logged offline in a directory, the W&B runs of one attempt each."""
    logs = directory.rglob("*run-*/run-*.wandb")
    apart = {SEARCHES, TUNING}
    return sorted(log for log in logs if not apart & set(log.relative_to(directory).parts))


def read_offline(paths: Sequence[Path]) -> list[Logged]:
    """Read runs that were logged offline, by W&B's own ``wandb leet inspect``.

    Raises:
        PfstudyError: It cannot read them.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # a process for each, which mostly imports
        return list(pool.map(_read_log, paths))


def _read_log(path: Path) -> Logged:
    done = call_wandb("leet", "inspect", "--summary", "--json", str(path))
    try:
        content = json.loads(done.stdout)
    except ValueError:
        reason = first_line(ValueError(done.stderr.strip() or "it says nothing"))
        raise PfstudyError(f"{path} cannot be read by `wandb leet inspect`: {reason}.") from None
    name, state = content.get("name") or path.stem, content.get("state") or "crashed"
    return _make(name, state, content.get("summary") or {}, content.get("config") or {})
