"""Where a cluster has started this process: its rank, in the variables that torchrun would set."""

from __future__ import annotations

import os
import re
import zlib

from pfstudy.errors import PfstudyError

_PORTS = range(20000, 32000)  # below those that the system gives to whoever asks for any


def adopt_cluster() -> None:
    """Set RANK and so on from what SLURM or submitit say, unless torchrun has set them.

    Raises:
        PfstudyError: The machines have not as many processes each.
    """
    if "WORLD_SIZE" in os.environ:
        return
    if "SUBMITIT_EXECUTOR" in os.environ:
        _adopt_submitit()
    elif int(os.environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        _adopt_slurm()


def num_ranks() -> int:
    """Number of processes that train a run together, as far as the environment says."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this one is."""
    return int(os.environ.get("RANK", 0))


def first_host(nodes: str) -> str:
    """The first machine of a list as SLURM writes it: ``gpu03`` of ``gpu[03-05,9],cpu1``."""
    first = re.match(r"(?:\[[^]]*\]|[^,\s[])*", nodes)
    assert first is not None  # it matches nothing at all, too
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first.group())


def _adopt_submitit() -> None:
    import submitit

    job = submitit.JobEnvironment()
    if job.num_tasks > 1:
        _set(
            job.num_tasks,
            job.num_nodes,
            job.global_rank,
            job.local_rank,
            job.hostnames[0],
            job.job_id,
        )


def _adopt_slurm() -> None:
    """Take what srun says of its step; what SLURM says of the job is true of the script, too."""
    get = os.environ
    _set(
        int(get["SLURM_STEP_NUM_TASKS"]),
        int(get["SLURM_STEP_NUM_NODES"]),
        int(get["SLURM_PROCID"]),
        int(get["SLURM_LOCALID"]),
        first_host(get["SLURM_STEP_NODELIST"]),
        f"{get['SLURM_JOB_ID']}.{get['SLURM_STEP_ID']}",
    )


def _set(
    num_tasks: int, num_nodes: int, rank: int, local_rank: int, first_host: str, job: str
) -> None:
    if num_tasks % num_nodes:
        raise PfstudyError(
            f"{num_tasks} processes on {num_nodes} machines: each of them needs as many; give "
            "--ntasks-per-node."
        )
    port = _PORTS[zlib.crc32(job.encode()) % len(_PORTS)]
    os.environ |= {
        "WORLD_SIZE": str(num_tasks),
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(num_tasks // num_nodes),
        "MASTER_ADDR": first_host if num_nodes > 1 else "127.0.0.1",
        # the same on all hosts, another one for another job
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(port)),
    }
