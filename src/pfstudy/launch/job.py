"""One job of a launcher that is not ours: SLURM's, Ray's, joblib's or Hydra's own."""

from __future__ import annotations

import itertools
import os
import platform
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig

from pfstudy import cluster, ledger, store, tracking
from pfstudy.data import glance, identify
from pfstudy.environment import describe_environment
from pfstudy.errors import DivergedError, PfstudyError, first_line
from pfstudy.launch.display import Display
from pfstudy.launch.sweep import (
    Prepared,
    SweepResult,
    default_study_name,
    identify_variants,
    list_runs,
    name_runs,
    run_sweep,
    summarize,
)
from pfstudy.launch.tuning import list_trials
from pfstudy.schema.config import Config
from pfstudy.speed import archive
from pfstudy.tasks import Task
from pfstudy.variant import make_variant
from pfstudy.words import counted

_LOOK_ELSEWHERE_S = 3.0
_ENDED_WITHIN_S = 600.0


def open_study(configs: Sequence[Config], launcher: str) -> Prepared:
    """Make the study and the run directories of a sweep's jobs, so that their state can be seen.

    Where constraints may drop variants, only the jobs themselves find out which.

    Args:
        configs: One for each job.
        launcher: The name of what they will be given to.

    Returns:
        The sweep, with its study's name.

    Raises:
        PfstudyError: A dataset cannot be read, the run directories cannot be written to, or the
            study was looked at with other looks declared.
    """
    variants, notes = identify_variants(configs)
    name = configs[0].study.name or default_study_name(variants)
    root = Path(configs[0].runs_dir)
    runs = list_runs(variants)
    looks = configs[0].study.looks
    store.check_writable(root)
    store.check_looks(root, name, looks)
    for run in runs:
        store.check_directory(run)
    for run in runs:
        if ledger.state_of(run.directory) != "done" and not configs[0].study.constraints:
            store.prepare(run)
    store.add_to_study(root, name, runs, looks)
    display = Display()
    display.phase("study", summarize(name, runs))
    for note in notes:
        display.note(note)
    where = "" if root == Path("runs") else f" {root}"
    display.phase(
        "launch",
        f"{counted(len(configs), 'job')} to {launcher}; pfstudy status{where} --watch shows how "
        "far they are",
    )
    return Prepared(root, name, tuple(variants), tuple(runs), tuple(notes))


def close_study(sweep: Prepared) -> None:
    """Record a look at the study of a sweep, if all of its jobs' runs are done or failed.

    Args:
        sweep: As `open_study` returned it.
    """
    members = [
        str(run.directory.relative_to(sweep.root))
        for run in sweep.runs
        # constraints may have dropped a variant, whose runs then have no directory
        if not run.variant.config.study.constraints or run.directory.exists()
    ]
    store.add_look(sweep.root, sweep.study, members)


def run_job(config: Config) -> SweepResult | None:
    """Train a variant with its seeds, as a sweep would.

    Where the cluster has started one task per device, each of them calls this, and is a rank.

    Returns:
        How it ended; ``None`` on all ranks but the first.

    Raises:
        PfstudyError: The runs cannot be trained.
        KeyboardInterrupt: It was asked to stop, and checkpoints are written.
    """
    _go_where_it_was_submitted()
    cluster.adopt_cluster()
    try:
        with _stopping_first():
            if cluster.num_ranks() == 1:
                return run_sweep([config], patient=False, is_whole=False)
            return _run_as_rank(config)
    except KeyboardInterrupt:
        if cluster.rank() == 0:
            raise
        return None  # one that fails might end the first before that has asked to begin again


def _go_where_it_was_submitted() -> None:
    """Enter the directory of the command, in which its paths are meant; Ray's is that of Ray.

    Raises:
        PfstudyError: This machine has no such directory.
    """
    if not HydraConfig.initialized():
        return
    directory = HydraConfig.get().runtime.cwd
    try:
        os.chdir(directory)
    except OSError as error:
        raise PfstudyError(
            f"{directory} cannot be entered on {platform.node()} ({error.strerror}); give the "
            "command in a directory that all machines share."
        ) from None


def _run_as_rank(config: Config) -> SweepResult | None:
    """Train the runs of a variant as one of the processes that the cluster has started."""
    from torch import distributed  # every rank computes by itself

    from pfstudy.worker.progress import print_report
    from pfstudy.worker.ranks import joined, ranks_of_environment
    from pfstudy.worker.run import train_run

    ranks = ranks_of_environment()
    ports = itertools.count(int(os.environ["MASTER_PORT"]) + 1)
    mode: tracking.Mode = "disabled"
    problem: Exception | None = None
    try:
        # the first one reads all images to identify them, the others look whether they are there
        content = identify(config.data) if ranks.is_first else glance(config.data)
        variant = store.adopt(make_variant(config, content))
        if ranks.is_first:
            if list_trials(variant):
                raise PfstudyError(
                    "the processes of one job train one run after the other, and tune none; give "
                    "the job one process, or tune first: where tuned.json is there, this job "
                    "takes it."
                )
            run_sweep([config], train=False, patient=False)
            mode = tracking.choose_mode(config.logger)
    except Exception as error:  # the others wait to be told
        problem = error
    with joined(ranks):
        said = ranks.gather(None if problem is None else first_line(problem))
        if not any(said):
            variant = ranks.from_first(variant)
    if problem is not None:
        raise problem
    if any(said):
        raise PfstudyError("; ".join(f"rank {n}: {text}" for n, text in enumerate(said) if text))

    runs = list_runs([variant])
    names, failed = name_runs(runs), {}
    study = config.study.name or default_study_name([variant])
    for run in runs:
        if ranks.is_first:
            print(names[run.directory], flush=True)
        task = Task(
            run.directory.absolute(),
            study=study,
            mode=mode,
            speed=archive.find_measured(variant, {"host": platform.node()}) or {},
            environment=describe_environment(),
            accumulation=ledger.last_accumulation(run.directory, config.trainer.accumulation),
        )
        how = "elsewhere"
        try:
            while how == "elsewhere":
                if ranks.is_first:
                    _wait_while_elsewhere(run.directory)
                # where they met last, the first one may still be
                os.environ["MASTER_PORT"] = str(next(ports))
                how = train_run(task, print_report)
        except DivergedError as error:  # all of them know
            failed[names[run.directory]] = _say(error)
            distributed.destroy_process_group()
        except Exception as error:  # the others end, too, but nobody knows where
            failed[names[run.directory]] = _say(error)
            break
    members = tuple(str(run.directory.relative_to(config.runs_dir)) for run in runs)
    return SweepResult(Path(config.runs_dir), study, members, failed) if ranks.is_first else None


def _wait_while_elsewhere(directory: Path) -> None:
    """Wait until nobody else trains a run; one whose machine is gone seems to go on for a while."""
    has_said = False
    while (status := ledger.read_status(directory)).state == "running":
        if not has_said:
            where = f"process {status.written.get('pid')} on {status.written.get('host')}"
            print(f"{directory}: is being trained by {where}", file=sys.stderr, flush=True)
            has_said = True
        time.sleep(_LOOK_ELSEWHERE_S)


def _say(error: Exception) -> str:
    """Print why a run failed to the output of the job, and return it."""
    if not isinstance(error, PfstudyError):
        traceback.print_exc()
        return f"{type(error).__name__}: {first_line(error)}"
    print(f"pfstudy: {error}", file=sys.stderr)
    return str(error)


@contextmanager
def _stopping_first() -> Iterator[None]:
    """Have signals do what they do when runs have written their checkpoints, and not before.

    SLURM announces that a job is preempted by SIGTERM, a signal of the user's choice, or the one
    after the other. A plugin then asks SLURM to begin the job again, upon which SLURM sends
    SIGTERM once more.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: dict[int, FrameType | None] = {}

    def note(number: int, frame: FrameType | None) -> None:
        is_first = not received
        received[number] = frame
        if is_first:
            raise KeyboardInterrupt

    handlers: dict[int, Any] = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
        if number == signal.SIGTERM or callable(signal.getsignal(number))
    }
    for number in handlers:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for sent, frame in received.items():
            _heed(handlers[sent], sent, frame)
        if received and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            # the signal to begin again may still come, and SLURM ends the job in any case
            time.sleep(_ENDED_WITHIN_S)


def _heed(handler: Any, number: int, frame: FrameType | None) -> None:
    """Call the handler of a signal, if there is one.

    Raises:
        PfstudyError: It has refused to begin the job again.
    """
    if not callable(handler):
        return
    try:
        handler(number, frame)
    except Exception as error:
        raise PfstudyError(f"{first_line(error)} The same command goes on.") from None
