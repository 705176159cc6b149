"""What is timed: one pass of a network in the layout, dtype and backend of a setting."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from pfstudy.errors import PfstudyError, first_line, is_out_of_memory
from pfstudy.schema.config import Speed
from pfstudy.speed.setting import compiles

_MOST_COMPILED = 64
_GRAPH_WARMUP = 3


@dataclass(frozen=True)
class Step:
    """A pass over images that are kept.

    Attributes:
        run: Computes it; on a GPU it may still be under way on return.
        allocating: The same, with torch allocating all that it needs anew, so that it can be
            counted; ``None`` where there is no such pass.
        fell_back: Whether it is computed eagerly, because it cannot be compiled.
    """

    run: Callable[[], object]
    allocating: Callable[[], object] | None = None
    fell_back: bool = False


def tensor_dtype(settings: Speed) -> torch.dtype:
    """The dtype of images and weights: TF32 is a way to multiply those of float32."""
    dtype: torch.dtype = getattr(torch, "float32" if settings.dtype == "tf32" else settings.dtype)
    return dtype


def make_step(network: nn.Module, images: torch.Tensor, settings: Speed, label: str) -> Step:
    """Make a pass, and run it once.

    Args:
        network: On the device; becomes part of the pass.
        images: ``(N, C, H, W)``, on the device, in float32.
        settings: How to compute it.
        label: Name of the network, for errors.

    Raises:
        PfstudyError: The backend cannot compile it, or does not know an operator of it.
    """
    dtype = tensor_dtype(settings)
    layout = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    memory_format = layout[settings.layout]
    network = network.to(dtype=dtype, memory_format=memory_format)  # type: ignore[call-overload]
    images = images.to(dtype=dtype, memory_format=memory_format)
    network.train(settings.passes == "forward_backward")
    if settings.backend == "onnxruntime":
        return Step(_onnx_step(network, images, settings, label))
    plain = _plain_step(network, images, settings)
    if compiles(settings):
        logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
        # every network is a recompilation of the same code to dynamo
        torch._dynamo.config.recompile_limit = _MOST_COMPILED
        mode = "max-autotune" if settings.backend == "compile_max_autotune" else "default"
        compiled = torch.compile(network, mode=mode, fullgraph=True, dynamic=False)
        step = _plain_step(compiled, images, settings)
        try:
            step()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            if not settings.fallback:
                raise PfstudyError(
                    f"{label} cannot be compiled: {_reason(error)}; speed.fallback=true measures "
                    "it eagerly instead, and says so."
                ) from None
            plain()
            return Step(plain, plain, fell_back=True)
        replays = settings.backend == "compile_max_autotune" and images.is_cuda  # CUDA graphs
        return Step(step, None if replays else step)
    plain()
    return Step(_graph_step(plain) if settings.cuda_graph else plain, plain)


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {first_line(error)}".rstrip(".")


def _plain_step(
    network: Callable[[torch.Tensor], torch.Tensor], images: torch.Tensor, settings: Speed
) -> Callable[[], object]:
    if settings.passes == "forward":

        def forward() -> None:
            with torch.inference_mode():
                network(images)

        return forward
    targets = torch.zeros(len(images), dtype=torch.long, device=images.device)
    assert isinstance(network, nn.Module)

    def forward_backward() -> None:
        F.cross_entropy(network(images).float(), targets).backward()
        network.zero_grad(set_to_none=True)  # at the end: every pass allocates its gradients

    return forward_backward


def _graph_step(plain: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_GRAPH_WARMUP):
            plain()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plain()

    def replay() -> None:
        graph.replay()

    replay.captured = plain  # type: ignore[attr-defined]  # keeps the weights and images
    return replay


def _onnx_step(
    network: nn.Module, images: torch.Tensor, settings: Speed, label: str
) -> Callable[[], object]:
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    on_gpu = images.is_cuda
    provider = "CUDAExecutionProvider" if on_gpu else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        raise PfstudyError(
            f"speed.backend=onnxruntime: this onnxruntime has no {provider}: pip install "
            "onnxruntime-gpu."
        )
    provider_options = {"use_tf32": int(settings.dtype == "tf32")} if on_gpu else {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.num_threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "network.onnx"
        try:
            program = torch.onnx.export(network, (images,), dynamo=True, verbose=False)
            assert program is not None
            program.save(path)
            session = onnxruntime.InferenceSession(path, options, [(provider, provider_options)])
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise PfstudyError(f"{label} cannot be exported to ONNX: {_reason(error)}.") from None
    if session.get_providers()[0] != provider:  # it falls back to the CPU, and says nothing
        raise PfstudyError(
            f"speed.backend=onnxruntime: {provider} does not start here; install an "
            f"onnxruntime-gpu that is built for CUDA {torch.version.cuda}, as torch is."
        )
    binding = session.io_binding()
    name, output = session.get_inputs()[0].name, session.get_outputs()[0].name
    place = "cuda" if on_gpu else "cpu"
    element = str(images.dtype).removeprefix("torch.")
    binding.bind_input(name, place, 0, element, tuple(images.shape), images.data_ptr())
    binding.bind_output(output, place, 0)

    def run() -> None:
        session.run_with_iobinding(binding)

    run.images = images  # type: ignore[attr-defined]  # keeps the memory that is bound
    run()
    return run
