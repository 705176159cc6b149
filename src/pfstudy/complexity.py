"""What a network costs, counted and not timed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pfstudy.errors import PfstudyError
from pfstudy.network.probe import forward_on_meta
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.variant import Variant

MACS_CONVENTION = "multiply-accumulates of convolutions, linear layers and matrix products"


@dataclass(frozen=True)
class Cost:
    """The cost of one image through a network.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates, by `MACS_CONVENTION`; pooling and norms count as zero.
        activations: Elements put out by convolutions, linear layers and matrix products
            (Radosavovic et al. 2020).
        memory_traffic_bytes: Bytes that the operators read and write when each of them takes its
            inputs from memory and puts its outputs there, in the dtype of the weights.
    """

    params: int
    macs: int
    activations: int
    memory_traffic_bytes: int


def cost(network: nn.Module, input_size: int | Sequence[int]) -> Cost:
    """Count the cost of a network for one image, on the meta device: nothing is computed.

    Args:
        network: In evaluation or training mode, on any device; left as it was found.
        input_size: ``(C, H, W)`` of an image, or the side of a square one with three channels.

    Raises:
        PfstudyError: ``input_size`` is no such thing.
    """
    shape = _image_shape(input_size)
    counter = _Counter()
    forward_on_meta(network, (1, *shape), counter)
    return Cost(
        params=sum(p.numel() for p in network.parameters()),
        macs=counter.flops // 2,
        activations=counter.activations,
        memory_traffic_bytes=counter.num_bytes,
    )


def variant_cost(variant: Variant) -> Cost:
    """Count the cost of a variant without allocating or computing anything."""
    data = variant.config.data
    with torch.device("meta"):
        network = build_network(variant.without_weights().config)
    return cost(network, image_shape(data))


def count_segments(
    network: nn.Module, image_shape: Sequence[int], ends: Sequence[str]
) -> list[Cost]:
    """Count the cost of one image up to the end of some modules, and of the whole network.

    Args:
        network: Left as it was found.
        image_shape: ``(C, H, W)``.
        ends: Paths of the modules, in the order in which they are called.

    Returns:
        What has been spent at the end of each, parameters left at 0, and at the very end.
    """
    counter, reached = _Counter(), []

    def note(*_: object) -> None:
        reached.append(Cost(0, counter.flops // 2, counter.activations, counter.num_bytes))

    hooks = [network.get_submodule(path).register_forward_hook(note) for path in ends]
    try:
        forward_on_meta(network, (1, *image_shape), counter)
    finally:
        for hook in hooks:
            hook.remove()
    note()
    return reached


def _image_shape(input_size: int | Sequence[int]) -> tuple[int, int, int]:
    sizes = (3, input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if len(sizes) != 3 or any(size < 1 for size in sizes):
        raise PfstudyError(f"input_size must be (C, H, W) or a number, but got {input_size!r}.")
    return sizes[0], sizes[1], sizes[2]


class _Counter(TorchDispatchMode):
    """Adds up what every operator that is no view computes, puts out and moves.

    FLOPs are those of torch's own registry, which knows convolutions and matrix products.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.activations = 0
        self.num_bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not _is_view(func):
            written = list(_tensors(out))
            self.num_bytes += sum(t.nbytes for t in [*_tensors((args, kwargs)), *written])
            if func.overloadpacket in flop_registry:
                self.flops += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
                self.activations += sum(t.numel() for t in written)
        return out


def _is_view(func: Any) -> bool:
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
