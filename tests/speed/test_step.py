from __future__ import annotations

import gc
import inspect
import weakref
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from torch import nn

from configs import variant_of
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Speed
from pfstudy.speed.measure import build_for_speed, draw_images
from pfstudy.speed.step import Step, make_step

CPU = torch.device("cpu")
MAXPOOL = "block.spatial=maxpool"

needs_onnxruntime = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnxruntime is not installed",
)


def speed(**changes: Any) -> Speed:
    return replace(variant_of().config.speed, **changes)


@pytest.fixture
def network() -> nn.Module:
    """The small residual network with max-pool."""
    return build_for_speed(variant_of(MAXPOOL), CPU)


@pytest.fixture
def images() -> torch.Tensor:
    return draw_images(variant_of(), 2, CPU)


def seen_by(module: nn.Module) -> list[torch.Tensor]:
    """What a module is given from now on."""
    seen: list[torch.Tensor] = []
    module.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    return seen


def given_by(module: nn.Module) -> list[torch.Tensor]:
    """What a module gives from now on."""
    given: list[torch.Tensor] = []
    module.register_forward_hook(lambda _, __, out: given.append(out))
    return given


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("float32", torch.float32),
        ("tf32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
    ],
)
def test_images_and_weights_have_the_dtype(
    network: nn.Module, images: torch.Tensor, dtype: str, expected: torch.dtype
) -> None:
    seen = seen_by(network.layer2)
    make_step(network, images, speed(dtype=dtype), "maxpool")
    assert seen[0].dtype == expected
    assert {p.dtype for p in network.parameters()} == {expected}


@pytest.mark.parametrize(
    ("layout", "memory_format"),
    [("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)],
)
def test_maps_and_weights_lie_in_memory_as_asked(
    network: nn.Module, images: torch.Tensor, layout: str, memory_format: torch.memory_format
) -> None:
    seen = seen_by(network.layer2)
    make_step(network, images, speed(layout=layout), "maxpool")
    other = {torch.contiguous_format, torch.channels_last} - {memory_format}
    assert seen[0].is_contiguous(memory_format=memory_format)
    assert not seen[0].is_contiguous(memory_format=other.pop())
    weight = network.layer2[0].downsample[0].weight
    assert weight.is_contiguous(memory_format=memory_format)


def test_a_forward_pass_is_in_evaluation_mode_without_gradients(
    network: nn.Module, images: torch.Tensor
) -> None:
    given = given_by(network)
    step = make_step(network.train(), images, speed(), "maxpool")
    step.run()
    assert not network.training
    assert [out.is_inference() for out in given] == [True, True]
    assert torch.equal(*given)
    assert not step.fell_back


def test_forward_and_backward_compute_the_gradients_of_one_pass_and_leave_none(
    network: nn.Module, images: torch.Tensor
) -> None:
    computed: list[dict[int, torch.Tensor]] = []
    for parameter in network.parameters():

        def copy(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            computed[-1][id(parameter)] = parameter.grad.clone()

        parameter.register_post_accumulate_grad_hook(copy)
    computed.append({})
    step = make_step(network, images, speed(passes="forward_backward"), "maxpool")
    assert network.training
    computed.append({})
    step.run()
    first, second = computed
    assert first.keys() == {id(parameter) for parameter in network.parameters()}
    assert any(gradient.abs().max() > 0 for gradient in first.values())
    torch.testing.assert_close(second, first)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_graph_keeps_what_it_reads(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("Stream", "stream", "current_stream", "CUDAGraph", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    network = nn.Flatten()
    run = make_step(network, images, speed(cuda_graph=True), "flat").run
    kept = weakref.ref(network)
    del network
    gc.collect()
    assert kept() is not None
    run()


class Compiled:
    """Stands for ``torch.compile``, which takes half a minute.

    Args:
        error: What it raises when it is called; ``None`` computes eagerly.
    """

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.asked: dict[str, Any] = {}
        self.called = 0

    def __call__(self, network: nn.Module, **asked: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        self.asked = asked

        def run(images: torch.Tensor) -> torch.Tensor:
            self.called += 1
            if self.error is not None:
                raise self.error
            out: torch.Tensor = network(images)
            return out

        return run


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Compiled]:
    def pretend(error: Exception | None = None) -> Compiled:
        fake = Compiled(error)
        monkeypatch.setattr(torch, "compile", fake)
        return fake

    return pretend


@pytest.mark.parametrize(
    ("backend", "mode"), [("compile", "default"), ("compile_max_autotune", "max-autotune")]
)
def test_the_backend_compiles_the_whole_network(
    network: nn.Module, images: torch.Tensor, compiled: Any, backend: str, mode: str
) -> None:
    fake = compiled()
    step = make_step(network, images, speed(backend=backend), "maxpool")
    assert fake.asked == {"mode": mode, "fullgraph": True, "dynamic": False}
    assert fake.called == 1
    step.run()
    assert fake.called == 2
    assert not step.fell_back


def test_a_network_that_does_not_compile_names_the_way_out(
    network: nn.Module, images: torch.Tensor, compiled: Any
) -> None:
    compiled(RuntimeError("no such operator.\nFrom user code: ..."))
    with pytest.raises(PfstudyError) as caught:
        make_step(network, images, speed(backend="compile"), "maxpool")
    assert str(caught.value) == (
        "maxpool cannot be compiled: RuntimeError: no such operator; speed.fallback=true measures "
        "it eagerly instead, and says so."
    )


def test_a_network_that_does_not_compile_is_computed_eagerly_if_allowed(
    network: nn.Module, images: torch.Tensor, compiled: Any
) -> None:
    fake, given = compiled(RuntimeError("no such operator")), given_by(network)
    step = make_step(network, images, speed(backend="compile", fallback=True), "maxpool")
    assert step.fell_back
    step.run()
    assert fake.called == 1
    assert [tuple(out.shape) for out in given] == [(2, 10)] * 2


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB."), id="gpu"),
        pytest.param(MemoryError(), id="python"),
    ],
)
def test_a_compiler_without_memory_is_not_one_that_cannot(
    network: nn.Module, images: torch.Tensor, compiled: Any, error: Exception
) -> None:
    compiled(error)
    with pytest.raises(type(error)) as caught:
        make_step(network, images, speed(backend="compile", fallback=True), "maxpool")
    assert caught.value is error


@needs_onnxruntime
def test_onnxruntime_computes_the_same_logits_of_the_images_that_are_bound(
    network: nn.Module, images: torch.Tensor
) -> None:
    images = images.clone()
    step = make_step(network, images, speed(backend="onnxruntime"), "maxpool")
    for _ in range(2):
        with torch.inference_mode():
            expected = network(images)
        torch.testing.assert_close(bound_output(step), expected, rtol=1e-4, atol=1e-5)
        images.mul_(2)
        step.run()


@needs_onnxruntime
def test_a_provider_that_does_not_start_is_no_measurement_of_another(
    network: nn.Module, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    session = MagicMock(**{"get_providers.return_value": ["AzureExecutionProvider"]})
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_: session)
    monkeypatch.setattr(torch.onnx, "export", MagicMock())
    with pytest.raises(PfstudyError, match=r": CPUExecutionProvider does not start here; install"):
        make_step(network, images, speed(backend="onnxruntime"), "maxpool")
    session.run_with_iobinding.assert_not_called()


@needs_onnxruntime
def test_a_network_that_cannot_be_exported_is_named(images: torch.Tensor) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise TypeError("no tensors today.\nNor tomorrow.")

    with pytest.raises(PfstudyError, match=r"^odd cannot be exported to ONNX: .*[^.]\.$"):
        make_step(Odd(), images, speed(backend="onnxruntime"), "odd")


def bound_output(step: Step) -> torch.Tensor:
    (output,) = inspect.getclosurevars(step.run).nonlocals["binding"].copy_outputs_to_cpu()
    return torch.from_numpy(output)
