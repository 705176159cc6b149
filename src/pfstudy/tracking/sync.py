"""What was logged offline, or lost, goes to W&B afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pfstudy import ledger, searches
from pfstudy.tracking.anew import log_anew
from pfstudy.tracking.commands import call_wandb
from pfstudy.tracking.failures import be_patient, reason_of, require_login
from pfstudy.tracking.runs import LOST, stop_service

_CUT_OFF = "ends with an incomplete record"
_TOGETHER = 20


@dataclass(frozen=True)
class Pending:
    """What W&B does not know of a run.

    Attributes:
        directory: The run directory.
        offline: Directories of attempts that were logged offline, and not uploaded yet.
        is_lost: Whether tracking was lost, though the run is done.
    """

    directory: Path
    offline: tuple[Path, ...] = ()
    is_lost: bool = False


@dataclass
class Synced:
    """What became of it.

    Attributes:
        uploaded: Attempts that were uploaded.
        logged: Runs that were logged anew from their files; their attempts are uploaded, too.
        failed: Why not, by directory.
    """

    uploaded: list[Path] = field(default_factory=list)
    logged: list[Path] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)


def find_pending(directories: Iterable[Path]) -> list[Pending]:
    """Find the runs of which W&B does not know everything; those that are running come later."""
    found = []
    for directory in directories:
        logs = sorted((directory / "wandb").glob("offline-run-*/run-*.wandb"))
        offline = tuple(log.parent for log in logs if _is_pending(log))
        is_lost = (directory / LOST).exists() and (directory / ledger.RECORD).exists()
        is_lost = is_lost and directory.parent.name != searches.SEARCHES  # logs no run of its own
        if (offline or is_lost) and ledger.state_of(directory) != "running":
            found.append(Pending(directory, offline, is_lost))
    return found


def sync(pending: Sequence[Pending], say: Callable[[str], None] = lambda text: None) -> Synced:
    """Upload what was logged offline, and log anew what was lost.

    What cannot be uploaded stays as it was, for the next time.

    Args:
        pending: As `find_pending` gives it.
        say: Told what takes long.

    Raises:
        PfstudyError: Nobody is logged in.
    """
    be_patient()
    require_login("nothing is uploaded")
    done = Synced()
    paths: list[Path] = []
    for run in pending:
        paths += run.offline
        if run.is_lost:
            said: list[str] = []
            run_id = log_anew(run.directory, say=said.append)
            if said:
                done.failed[run.directory] = said[0]
                continue
            paths += (run.directory / "wandb").glob(f"offline-run-*-{run_id}")
            (run.directory / LOST).unlink()  # from here on it is an attempt like others
            done.logged.append(run.directory)
    stop_service()
    for start in range(0, len(paths), _TOGETHER):
        batch = paths[start : start + _TOGETHER]
        say(f"uploading {start + 1} to {start + len(batch)} of {len(paths)}")
        failed = _upload(batch)
        done.failed |= failed
        done.uploaded += [path for path in batch if path not in failed]
        if len(failed) == len(batch):  # nor would the others be taken
            reason = next(iter(failed.values()))
            done.failed |= dict.fromkeys(paths[start + len(batch) :], reason)
            break
    return done


def _upload(paths: Sequence[Path]) -> dict[Path, str]:
    """Upload attempts by W&B's own command; why not, for those that did not get there.

    What was killed is uploaded as far as it was logged.
    """
    ended = call_wandb("sync", "--yes", *map(str, paths))
    said = [line.removeprefix("wandb: ") for line in (ended.stdout + ended.stderr).splitlines()]
    errors = [line.removeprefix("ERROR ") for line in said if line.startswith("ERROR ")]
    failed = {}
    for path in paths:
        (log,) = path.glob("run-*.wandb")
        named = (f"/{log.stem.removeprefix('run-')}]", path.name)
        own = [line for line in errors if any(name in line for name in named)]
        if own and all(_CUT_OFF in line for line in own):
            _marker(log).touch()  # nobody will write the rest
        elif own or not _marker(log).exists():
            # it marks as uploaded also what the server refused in the middle
            _marker(log).unlink(missing_ok=True)
            log.with_suffix(".wandb.syncstate").unlink(missing_ok=True)
            text = "\n".join(own or errors or said[-1:]) or "wandb sync says nothing"
            failed[path] = reason_of(RuntimeError(text))
    return failed


def _is_pending(log: Path) -> bool:
    """Whether something was logged, where an attempt was not killed before, and not uploaded."""
    return log.stat().st_size > 0 and not _marker(log).exists()


def _marker(log: Path) -> Path:
    """What W&B puts beside the log of a run that it has uploaded."""
    return log.with_suffix(".wandb.synced")
