"""The processes that train one run together, a device each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from pfstudy import cluster

_TIMEOUT = timedelta(hours=2)  # the first rank may measure speed while the others wait for it


@dataclass(frozen=True)
class Ranks:
    """This process among those that train a run; alone unless told otherwise.

    Attributes:
        rank: Which of them it is; the first one claims, reports and records.
        num_ranks: How many there are.
        local_rank: Which of those on this machine it is.
        num_local: How many there are on this machine.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_local: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this process claims, reports and records."""
        return self.rank == 0

    @property
    def num_nodes(self) -> int:
        """Number of machines."""
        return self.num_ranks // self.num_local

    def from_first(self, value: Any) -> Any:
        """What the first process has; every one must call it."""
        if self.num_ranks == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """What every process has, in their order; every one must call it."""
        if self.num_ranks == 1:
            return [value]
        values: list[Any] = [None] * self.num_ranks
        distributed.all_gather_object(values, value)
        return values

    def largest(self, values: Sequence[float]) -> list[float]:
        """The largest of every process's first value, second, ...; every one must call it."""
        if self.num_ranks == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return [float(value) for value in tensor]

    def share_buffers(self, module: torch.nn.Module) -> None:
        """Give every process the first one's buffers, such as the statistics of a norm."""
        if self.num_ranks > 1:
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)


def ranks_of_environment() -> Ranks:
    """Read from the environment which of the processes this one is.

    Set by the sweep that started it, by torchrun, or by a cluster.
    """
    cluster.adopt_cluster()
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return Ranks()
    num_ranks = int(os.environ["WORLD_SIZE"])
    return Ranks(
        rank=int(os.environ["RANK"]),
        num_ranks=num_ranks,
        local_rank=int(os.environ["LOCAL_RANK"]),
        num_local=int(os.environ.get("LOCAL_WORLD_SIZE", num_ranks)),
    )


@contextmanager
def joined(ranks: Ranks) -> Iterator[None]:
    """Have the processes of a run find each other; what the ranks do needs it.

    Objects and figures of the host go over gloo, gradients on GPUs over NCCL.
    """
    if ranks.num_ranks == 1:
        yield
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
    distributed.init_process_group(
        backend, rank=ranks.rank, world_size=ranks.num_ranks, timeout=_TIMEOUT
    )
    yield
    distributed.destroy_process_group()  # after an error the others may never come to it
