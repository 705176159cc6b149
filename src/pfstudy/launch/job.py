"""One job of a launcher that is not ours: SLURM's, Ray's, joblib's or Hydra's own."""

from __future__ import annotations

import platform
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from pfstudy import cluster, store, tracking
from pfstudy.data import fingerprint
from pfstudy.environment import describe_environment
from pfstudy.launch.sweep import SweepResult, default_study_name, list_runs, run_sweep
from pfstudy.schema.config import Config
from pfstudy.speed import phase
from pfstudy.tasks import Task
from pfstudy.variant import make_variant

_REQUEUE_S = 60.0


def open_study(configs: Sequence[Config]) -> str:
    """Make the study that all jobs of a sweep belong to, so that its state can be seen meanwhile.

    Returns:
        Its name.

    Raises:
        PfstudyError: The directory of the run directories cannot be written to.
    """
    variants = [make_variant(config, fingerprint(config.data)) for config in configs]
    name = configs[0].study.name or default_study_name(variants)
    root = Path(configs[0].runs_dir)
    store.check_writable(root)
    store.add_to_study(root, name, list_runs(variants))
    return name


def run_job(config: Config) -> SweepResult | None:
    """Train a variant with its seeds, as a sweep would.

    Where the cluster has started one task per device, each of them calls this, and is a rank.

    Returns:
        How it ended; ``None`` on all ranks but the first, and where the job itself is a rank.

    Raises:
        PfstudyError: The run cannot be trained.
    """
    cluster.adopt_cluster()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)  # runs write a checkpoint before this ends
    if cluster.num_ranks() == 1:
        return run_sweep([config])
    variant = make_variant(config, fingerprint(config.data))
    mode: tracking.Mode = "disabled"
    if cluster.rank() == 0:
        run_sweep([config], train=False)
        mode = tracking.choose_mode(config.logger)
    from pfstudy.worker.progress import print_report  # every rank computes by itself
    from pfstudy.worker.run import train_run

    for run in list_runs([variant]):
        task = Task(
            run.directory.absolute(),
            study=config.study.name or default_study_name([variant]),
            mode=mode,
            speed=phase.find_measured(variant, {"host": platform.node()}) or {},
            environment=describe_environment(),
        )
        try:
            train_run(task, print_report)
        except KeyboardInterrupt:
            if cluster.rank() > 0:  # a task that ends might end the first one before it is requeued
                time.sleep(_REQUEUE_S)
            raise
    return None


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
