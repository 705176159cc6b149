"""Time within a pass: a network is cut where each block that has a site ends.

A segment goes from the end of one block to that of the next, so the segments add up to the pass:
the first holds the stem as well, and what follows the last block is the rest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.network.surgery import replace_layer
from pfstudy.schema.sites import list_sites
from pfstudy.variant import Variant

_STAMPS: list[Any] = []
"""What the marks of the pass under way have noted: seconds, or events of CUDA."""


@torch.library.custom_op("pfstudy::mark", mutates_args=("x",), tags=(torch.Tag.flexible_layout,))
def mark(x: torch.Tensor) -> None:
    """Note the time in a compiled network.

    It pretends to change its input: so no compiler moves it, or leaves it out, and a tensor of
    any layout will do.
    """
    _note(x)


@mark.register_fake
def _(x: torch.Tensor) -> None:
    del x


def _note(x: torch.Tensor) -> None:
    if x.is_cuda:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        _STAMPS.append(event)
    else:
        _STAMPS.append(time.perf_counter())


class Marked(nn.Module):
    """A block, with a mark where it ends."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the block gives."""
        out = self.block(*args, **kwargs)
        x = out[0] if isinstance(out, tuple) else out
        if torch.compiler.is_compiling():
            mark(x)
        else:  # an operator of ours would take as long as a small one of theirs
            _note(x)
        return out


def segment_paths(variant: Variant) -> dict[str, str]:
    """The module at whose end each segment ends, by the address of its site."""
    sites = list_sites(variant.config.model)
    return {site.address: site.layer.rpartition(".")[0] for site in sites}


def mark_segments(network: nn.Module, variant: Variant) -> None:
    """Put a mark at the end of every block of a network that has a site, in place.

    Raises:
        PfstudyError: A site has no block of its own.
    """
    paths = segment_paths(variant)
    if "" in paths.values() or len(set(paths.values())) < len(paths):
        raise PfstudyError(
            f"model {variant.config.model.name}: its sites have no blocks of their own, so the "
            "time of each cannot be seen."
        )
    for path in paths.values():
        replace_layer(network, path, Marked(network.get_submodule(path)))


class Stopwatch:
    """Times the segments of a marked pass.

    Args:
        run: The pass, which has run before.
        device: Where it computes.
    """

    def __init__(self, run: Any, device: torch.device) -> None:
        self._run, self._device = run, device

    def __call__(self) -> list[float]:
        """Milliseconds of every segment, and of what follows the last."""
        _STAMPS.clear()
        if self._device.type == "cpu":
            start = time.perf_counter()
            self._run()
            end = time.perf_counter()
            moments: Sequence[float] = [start, *_STAMPS, end]
            return [1e3 * (b - a) for a, b in pairwise(moments)]
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        self._run()
        last.record()
        last.synchronize()
        events = [first, *_STAMPS, last]
        return [a.elapsed_time(b) for a, b in pairwise(events)]
