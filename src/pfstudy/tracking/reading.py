"""Weights & Biases: records in, from a project or from what was logged offline."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pfstudy.errors import PfstudyError, first_line

RECORD_KEY = "record_json"
"""Key of the summary that has the whole record, as text."""

_RUN_ID = re.compile(r"([0-9a-f]{10})-(\d+)-\d+")  # identity, seed, attempt
_PAGE = 200
_TIMEOUT_S = 30
_WAITS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
_BUSY = ("429", "rate limit", "500", "502", "503", "504", "timed out", "timeout")


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
        study: Whose runs; ``None`` for all.
        say: Told when the server asks for patience.

    Raises:
        PfstudyError: Nobody is logged in, there is no such project, or no network.
    """
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    require_login(project)
    filters = {"group": study} if study else {}
    found: list[Logged] = []
    for wait in (*_WAITS_S, None):
        try:
            api = wandb.Api(timeout=_TIMEOUT_S)
            runs = api.runs(project, filters=filters, per_page=_PAGE, lazy=False)
            return [_logged(run) for run in runs]
        except Exception as error:  # wandb raises whatever its layers raise
            text = str(error).lower()
            if wait is None or not any(sign in text for sign in _BUSY):
                raise explain_failure(project, error) from None
            say(f"W&B asks for patience; trying again in {wait:g} s")
            time.sleep(wait)
    return found


def require_login(project: str) -> None:
    """Refuse to go on where nobody is logged in; wandb itself would ask for a key.

    Raises:
        PfstudyError: Nobody is, or the key is malformed.
    """
    import wandb

    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except (wandb.errors.AuthenticationError, ValueError) as error:
        raise explain_failure(project, error) from None
    if not logged_in:
        raise PfstudyError(
            f"wandb:{project} is not to be reached: nobody is logged in to W&B; run `wandb login`."
        )


def _logged(run: Any) -> Logged:
    return _make(str(run.name), str(run.state), dict(run.summary_metrics or {}), str(run.id))


def _make(name: str, state: str, summary: Mapping[str, Any], run_id: str) -> Logged:
    text = summary.get(RECORD_KEY)
    record = None
    if isinstance(text, str):
        try:
            record = json.loads(text)
        except ValueError:
            raise PfstudyError(f"the record of the W&B run {name} is damaged.") from None
    found = _RUN_ID.match(run_id)
    return Logged(name, state, record, (found[1], int(found[2])) if found else None)


def explain_failure(project: str, error: Exception) -> PfstudyError:
    """Say why W&B could not be asked, in a sentence with the cure."""
    text = first_line(error).rstrip(".")
    lowered = str(error).lower()
    if "api_key" in lowered or "api key" in lowered or "401" in lowered or "login" in lowered:
        return PfstudyError(
            f"wandb:{project} cannot be read: nobody is logged in ({text}); run `wandb login`."
        )
    if "not find" in lowered or "404" in lowered or "permission" in lowered:
        return PfstudyError(
            f"wandb:{project} cannot be read ({text}); give wandb:ENTITY/PROJECT as in its address."
        )
    return PfstudyError(f"wandb:{project} cannot be read: {text}; is there a network?")


def find_offline(directory: Path) -> list[Path]:
    """Find what was logged offline in a directory, the W&B runs of one attempt each."""
    return sorted(directory.rglob("*run-*/run-*.wandb"))


def read_offline(paths: list[Path]) -> Iterator[Logged]:
    """Read runs that were logged offline, by W&B's own ``wandb leet inspect``.

    Raises:
        PfstudyError: It cannot read them.
    """
    for path in paths:
        command = [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json"]
        done = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        try:
            content = json.loads(done.stdout)
        except ValueError:
            reason = first_line(done.stderr.strip() or "it says nothing")
            raise PfstudyError(f"{path} cannot be read by `wandb leet inspect`: {reason}") from None
        name = content.get("display_name") or content.get("name") or path.stem
        exit_code = content.get("exit_code")
        state = content.get("state") or ("finished" if exit_code == 0 else "crashed")
        yield _make(str(name), str(state), content.get("summary", {}), content.get("run_id", ""))
