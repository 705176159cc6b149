"""What a network costs, counted and not timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pfstudy import ledger, store
from pfstudy.counting import COUNTING
from pfstudy.errors import PfstudyError
from pfstudy.files import read_json, write_json
from pfstudy.network.probe import forward_on_meta
from pfstudy.network.restore import read_network_config
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.variant import Variant


@dataclass(frozen=True)
class Cost:
    """The cost of one image through a network.

    Attributes:
        params: Number of parameters.
        macs: Multiply-accumulates, by `pfstudy.counting.MACS_CONVENTION`; pooling and norms count
            as zero.
        activations: Elements put out by convolutions, linear layers, matrix products and fused
            attention (Radosavovic et al. 2020).
        memory_traffic_bytes: Bytes that the operators of inference read and write when each of
            them takes its inputs from memory and puts its output there, in the dtype of the
            weights. Views move nothing; what is kept for training alone, such as the indices of a
            max-pool, does not count.
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
        PfstudyError: ``input_size`` is no such thing, or lazy layers have no weights yet.
    """
    shape = _image_shape(input_size)
    counter = Counter()
    forward_on_meta(network, (1, *shape), counting(counter))
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


def recount(
    runs: Sequence[Path], report: Callable[[str, Mapping[str, Any]], None]
) -> dict[Path, str]:
    """Count the cost of finished runs again, and write it to ``cost.json`` of their variants.

    Args:
        runs: A run directory of every variant.
        report: Told how many variants are done (``"progress"``).

    Returns:
        Why others could not be counted, by run.
    """
    failed = {}
    for number, run in enumerate(runs, 1):
        try:
            config = read_network_config(run)
            with torch.device("meta"):
                network = build_network(config)
            counted = asdict(cost(network, image_shape(config.data)))
            recorded = read_json(run / ledger.RECORD)["cost"]
            for key in ("params", "macs"):
                if counted[key] != recorded[key]:
                    raise PfstudyError(
                        f"{run}: the network has {counted[key]} {key} now, but the run's had "
                        f"{recorded[key]}; another version of timm may build it differently."
                    )
            write_json(run.parent / store.COST, {"counting": COUNTING, **counted})
        except PfstudyError as error:
            failed[run] = str(error)
        report("progress", {"done": number, "total": len(runs)})
    return failed


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
    counter, reached = Counter(), []

    def note(*_: object) -> None:
        reached.append(Cost(0, counter.flops // 2, counter.activations, counter.num_bytes))

    hooks = [network.get_submodule(path).register_forward_hook(note) for path in ends]
    try:
        forward_on_meta(network, (1, *image_shape), counting(counter))
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


class Counter(TorchDispatchMode):
    """Adds up what every operator that is no view computes, puts out and moves.

    FLOPs are those of torch's own registry, which knows convolutions and matrix products. Fused
    attention is taken to pieces on the meta device: the FLOPs of the pieces count, but they move
    nothing, as the fused kernel reads queries, keys and values and writes its output.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.activations = 0
        self.num_bytes = 0
        self.is_in_fused_attention = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        operator = func.overloadpacket
        if _is_view(func):
            return out
        if operator in flop_registry:
            self.flops += flop_registry[operator](*args, **kwargs, out_val=out)
        if not self.is_in_fused_attention:
            written = list(_tensors(_result(operator, out)))
            self.move(_inputs(operator, args, kwargs), written)
            if operator in flop_registry:
                self.activations += sum(t.numel() for t in written)
        return out

    def move(self, read: Iterable[torch.Tensor], written: Iterable[torch.Tensor]) -> None:
        """Count that tensors are read and others written."""
        self.num_bytes += sum(map(_stored_bytes, (*read, *written)))


class _FusedAttention(TorchFunctionMode):
    """Lets a counter see `scaled_dot_product_attention` as one operator."""

    def __init__(self, counter: Counter) -> None:
        super().__init__()
        self._counter = counter

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:  # no mode sees what it calls
            vars(functional)[_FUSED.__name__] = self._attend
            try:
                return func(*args, **kwargs)
            finally:
                vars(functional)[_FUSED.__name__] = _FUSED
        return (self._attend if func is _FUSED else func)(*args, **kwargs)

    def _attend(self, *args: Any, **kwargs: Any) -> Any:
        counter = self._counter
        counter.is_in_fused_attention = True
        try:
            out = _FUSED(*args, **kwargs)
            query = args[0] if args else kwargs["query"]
            if out.is_meta and out.shape == query.shape:  # fused kernels keep the query's layout
                out = torch.empty_like(query, dtype=out.dtype)
        finally:
            counter.is_in_fused_attention = False
        counter.move(_tensors((args, kwargs)), [out])
        counter.activations += out.numel()
        return out


_FUSED = functional.scaled_dot_product_attention


@contextmanager
def counting(counter: Counter) -> Iterator[None]:
    """Count the operators of a forward pass."""
    with counter, _FusedAttention(counter):
        yield


_aten = torch.ops.aten
_WRITES_NOTHING = {_aten.empty, _aten.empty_like, _aten.empty_strided, _aten.new_empty}
_OVERWRITES = {_aten.copy_, _aten.fill_, _aten.zero_}
_FILLS = {
    *(_aten.zeros_like, _aten.ones_like, _aten.full_like, _aten.rand_like, _aten.randn_like),
    *(_aten.new_zeros, _aten.new_ones, _aten.new_full),
    *_WRITES_NOTHING,
}
_KEEPS_FOR_BACKWARD = {
    *(_aten.native_batch_norm, _aten.native_layer_norm, _aten.native_group_norm),
    *(_aten.max_pool2d_with_indices, _aten.max_pool3d_with_indices),
    *(_aten.adaptive_max_pool2d, _aten.adaptive_max_pool3d, _aten.fractional_max_pool2d),
}
"""Their outputs after the first, statistics and indices, are of use in training alone."""


def _inputs(operator: Any, args: Any, kwargs: Any) -> Iterator[torch.Tensor]:
    """The tensors whose content an operator reads."""
    if operator in _FILLS:
        return iter(())
    return _tensors((args[1:] if operator in _OVERWRITES else args, kwargs))


def _result(operator: Any, out: Any) -> Any:
    """What an operator writes that inference needs."""
    if operator in _WRITES_NOTHING:
        return ()
    return out[0] if operator in _KEEPS_FOR_BACKWARD else out


def _stored_bytes(tensor: torch.Tensor) -> int:
    """Bytes in memory: of dimensions that were expanded there is but one copy."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(size for size, stride in sizes if stride or not size) * tensor.itemsize


def _is_view(func: Any) -> bool:
    if func.overloadpacket is _aten._unsafe_view:  # says that it makes a new tensor
        return True
    aliases = [returned.alias_info for returned in func._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))
