"""Where a cluster has started this process: its rank, in the variables that torchrun would set."""

from __future__ import annotations

import os
import zlib


def adopt_cluster() -> None:
    """Set RANK and so on from what SLURM or submitit say, unless torchrun has set them."""
    if "WORLD_SIZE" in os.environ:
        return
    if "SUBMITIT_EXECUTOR" in os.environ:
        _adopt_submitit()
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:
        _adopt_slurm()


def num_ranks() -> int:
    """Number of processes that train a run together, as far as the environment says."""
    return int(os.environ.get("WORLD_SIZE", 1))


def rank() -> int:
    """Which of them this one is."""
    return int(os.environ.get("RANK", 0))


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
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    get = os.environ.get
    nodes = get("SLURM_STEP_NODELIST") or get("SLURM_NODELIST") or "127.0.0.1"
    _set(
        int(os.environ["SLURM_NTASKS"]),
        int(get("SLURM_STEP_NUM_NODES") or get("SLURM_NNODES") or 1),
        int(os.environ["SLURM_PROCID"]),
        int(os.environ["SLURM_LOCALID"]),
        SLURMEnvironment.resolve_root_node_address(nodes),
        get("SLURM_JOB_ID", "0"),
    )


def _set(
    num_tasks: int, num_nodes: int, rank: int, local_rank: int, first_host: str, job: str
) -> None:
    os.environ |= {
        "WORLD_SIZE": str(num_tasks),
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "LOCAL_WORLD_SIZE": str(num_tasks // num_nodes),
        "MASTER_ADDR": first_host,
        # the same on all hosts, another one for another job
        "MASTER_PORT": os.environ.get("MASTER_PORT", str(20000 + zlib.crc32(job.encode()) % 20000)),
    }
