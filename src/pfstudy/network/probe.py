"""One forward pass of a network on the meta device, to see what goes into its layers."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils._pytree import tree_leaves

from pfstudy.errors import PfstudyError

BATCH = 2
"""Images of a probe: a layer that sees another number of items sees windows of the images."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What went through a layer.

    Attributes:
        x: What came in, on the meta device.
        out: What went out.
        extra: Names of further arguments that hold tensors, such as a mask; ``args`` for
            positional ones.
        around: What came into the layer's parent, if that was called with a tensor.
    """

    x: torch.Tensor
    out: torch.Tensor
    extra: tuple[str, ...]
    around: torch.Tensor | None = None


def forward_on_meta(
    network: nn.Module, shape: tuple[int, ...], watch: AbstractContextManager[Any] | None = None
) -> None:
    """Run a network in evaluation mode without computing anything; it is left as it was found.

    Args:
        network: On any device.
        shape: ``(N, C, H, W)``.
        watch: Entered for the forward pass alone, when weights and images are in place.

    Raises:
        PfstudyError: Lazy layers have no weights yet.
    """
    lazy = next((name for name, p in network.named_parameters() if is_lazy(p)), None)
    if lazy is not None:
        raise PfstudyError(
            f"the network's {lazy} has no shape yet; run the network once on an image."
        )
    dtype = next((p.dtype for p in network.parameters()), torch.float32)
    undisturbed = torch.random.fork_rng(devices=[])
    with _on_meta(network), undisturbed, torch.no_grad(), torch.device("meta"):
        images = torch.empty(shape, dtype=dtype)
        with watch or nullcontext():
            network(images)


@contextmanager
def _on_meta(network: nn.Module) -> Iterator[None]:
    """Put a network on the meta device and in evaluation mode; afterwards all is as before.

    Every module gets back its very tensors and attributes, and its containers their content, so
    that shared modules, tied weights and modules that keep something of a pass are unharmed.
    `torch.func.functional_call` does not do that: with ``tie_weights=True`` a module at several
    paths keeps the substitutes, and with ``tie_weights=False`` tied weights are not substituted.
    """
    modules = list(network.modules())
    before = [(module, vars(module).copy()) for module in modules]
    contents = [
        (value, value.copy())
        for _, attributes in before
        for value in attributes.values()
        if type(value) in _CONTAINERS
    ]
    training = [module.training for module in modules]
    originals: list[tuple[dict[str, Any], str, torch.Tensor]] = []
    substitutes: dict[int, torch.Tensor] = {}
    try:
        for module in modules:
            module.training = False  # `eval` may be the user's, and merge weights
            stores: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for tensors in stores:
                for name, tensor in list(tensors.items()):
                    if tensor is not None:
                        originals.append((tensors, name, tensor))
                        tensors[name] = substitutes.setdefault(id(tensor), tensor.to("meta"))
        yield
    finally:
        for tensors, name, tensor in originals:  # those of scripted modules are in no attribute
            tensors[name] = tensor
        for module, was_training in zip(modules, training, strict=True):
            module.training = was_training
        for module, attributes in before:
            for name in vars(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
        for container, content in contents:
            if not _are_same(container, content):
                container.clear()
                fill = container.extend if isinstance(container, list) else container.update
                fill(content)


def _are_same(container: Any, content: Any) -> bool:
    """Whether a container holds the very objects of another one, in the same order."""
    if isinstance(container, set):
        return bool(container == content)
    if isinstance(container, list):
        return [*map(id, container)] == [*map(id, content)]
    now, then = ([(key, id(value)) for key, value in each.items()] for each in (container, content))
    return now == then


_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)


def probe(network: nn.Module, shape: tuple[int, int, int], paths: Iterable[str]) -> dict[str, Seen]:
    """See what goes through some layers of a network.

    Args:
        network: On any device; left as it was found.
        shape: ``(C, H, W)`` of an image.
        paths: The layers.

    Returns:
        What was seen by path; nothing for a layer that is never called.
    """
    paths = list(paths)
    seen: dict[str, Seen] = {}
    around: dict[str, torch.Tensor] = {}

    def hook(path: str) -> Any:
        def remember(_: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            further = [name for name, value in kwargs.items() if _holds_something(value)]
            extra = (*further, *("args" for value in args[1:] if _holds_something(value)))
            seen[path] = Seen(args[0], out, extra, around.get(_parent(path)))

        return remember

    def hook_before(path: str) -> Any:
        def remember(_: nn.Module, args: Any) -> None:
            if args and isinstance(args[0], torch.Tensor):
                around[path] = args[0]

        return remember

    handles = [
        network.get_submodule(path).register_forward_hook(hook(path), with_kwargs=True)
        for path in paths
    ] + [
        network.get_submodule(parent).register_forward_pre_hook(hook_before(parent))
        for parent in {_parent(path) for path in paths}
    ]
    try:
        forward_on_meta(network, (BATCH, *shape))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _holds_something(argument: Any) -> bool:
    """Whether an argument says something of the images, such as a mask, and not of their size."""
    return any(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(argument))


def _parent(path: str) -> str:
    return path.rpartition(".")[0]
