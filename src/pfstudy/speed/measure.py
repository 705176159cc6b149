"""Timing networks side by side in one process."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pfstudy.errors import PfstudyError, is_out_of_memory
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.schema.config import Speed
from pfstudy.speed.energy import energy_j, find_meter
from pfstudy.speed.load import GpuLoad, Load
from pfstudy.speed.memory import available_bytes, limited_host_memory, peak_of
from pfstudy.speed.step import Step, make_step, tensor_dtype
from pfstudy.speed.summary import Timings
from pfstudy.variant import Variant

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_USUAL_CACHE_BYTES = 32 * 2**20
_TIMES_CACHE = 2
_MARGIN = 0.9  # of memory, for what the libraries hold besides
_LEAST_ROUNDS = 3

Report = Callable[[str, Mapping[str, Any]], None]
Run = Callable[[], object]


def measure_in_process(
    variants: Sequence[Variant],
    settings: Speed,
    on_gpu: bool,
    cores: Iterable[int],
    thorough: bool,
    seconds: float,
    report: Report,
) -> Timings:
    """Time one pass of each network, in interleaved rounds.

    Every round times every network once, beginning with another one than the round before, on
    the same random images. The caller holds the device alone meanwhile.

    Args:
        variants: The baseline first.
        settings: How to measure.
        on_gpu: Whether to time on the GPU that this process sees.
        cores: The cores whose use by others is counted.
        thorough: Whether to find out memory and energy, too, which takes longer.
        seconds: Time, warm-up included, after which no further round begins, but for the first
            three.
        report: Not used.

    Raises:
        PfstudyError: A network cannot be built or compiled, or the batch does not fit.
    """
    del report
    device = set_up(settings, on_gpu)
    steps, held = [], []
    with memory_that_ends(device):
        for variant in variants:
            network = build_for_speed(variant, device)
            held.append(_num_bytes(network))
            with fitting(variant, settings, device):
                images = draw_images(variant, settings.batch_size, device)
                steps.append(make_step(network, images, settings, variant.label))
        runs = [step.run for step in steps]
        load: GpuLoad | Load = GpuLoad() if on_gpu else Load(cores)
        ends = time.monotonic() + seconds
        time_rounds(runs, settings.num_warmup, settings, device, ends)
        latencies_ms = time_rounds(runs, settings.num_rounds, settings, device, ends)
        others = load.of_others()
        memory: list[int | None] = [None] * len(runs)
        energy: list[float | None] = [None] * len(runs)
        if thorough:
            memory = _find_memory(steps, held, settings, device)
            energy = _find_energy(runs, device)
    fell_back = [index for index, step in enumerate(steps) if step.fell_back]
    return Timings(latencies_ms, others, memory, energy, fell_back)


def set_up(settings: Speed, on_gpu: bool) -> torch.device:
    """Prepare a fresh process for measuring.

    Products of matrices and convolutions use TF32 both or neither, unlike by default.

    Returns:
        The device.
    """
    os.environ["KINETO_LOG_LEVEL"] = "99"  # or the profiler says that there is no GPU
    torch.set_num_threads(settings.num_threads)
    allowed = settings.dtype == "tf32"
    with warnings.catch_warnings():  # torch has newer switches, but its compiler reads these
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
    return torch.device("cuda" if on_gpu else "cpu")


def memory_that_ends(device: torch.device) -> AbstractContextManager[None]:
    """A context in which too large a batch is an error, and nobody is killed."""
    return nullcontext() if device.type == "cuda" else limited_host_memory()


def build_for_speed(variant: Variant, device: torch.device) -> nn.Module:
    """Build the network of a variant; what its weights are does not matter."""
    try:
        return build_network(variant.without_weights().config, seed=0).to(device)
    except PfstudyError as error:
        raise PfstudyError(f"{variant.label}: {error}") from None


def draw_images(variant: Variant, batch_size: int, device: torch.device) -> torch.Tensor:
    """Draw random images of a variant's data: zeros would make some operators faster."""
    shape = (batch_size, *image_shape(variant.config.data))
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


@contextmanager
def fitting(variant: Variant, settings: Speed, device: torch.device) -> Iterator[None]:
    """Turn an error about memory into a sentence with about the largest batch that fits.

    Raises:
        PfstudyError: The batch does not fit.
    """
    try:
        yield
        return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    # here, where the error no longer holds what did not fit
    largest = _largest_batch(variant, settings, device)
    place = "the GPU" if device.type == "cuda" else "memory"
    cure = f"about {largest} would" if largest else "not even one image would"
    raise PfstudyError(
        f"{variant.label}: speed.batch_size={settings.batch_size} does not fit into {place}; "
        f"{cure}."
    )


def _largest_batch(variant: Variant, settings: Speed, device: torch.device) -> int:
    """About the largest batch that fits, by what one and two images take; 0 if there is none."""
    taken = []
    for size in (1, 2):
        try:
            taken.append(_bytes_of_batch(variant, settings, device, size))
        except Exception as error:
            if is_out_of_memory(error):
                return min(settings.batch_size - 1, size - 1)
            raise
    one, two = taken
    left = _MARGIN * available_bytes(device) - (2 * one - two)
    return min(settings.batch_size - 1, max(1, int(left / max(1, two - one))))


def _bytes_of_batch(variant: Variant, settings: Speed, device: torch.device, size: int) -> int:
    """As eager mode takes them: of others torch's allocator does not know all."""
    network = build_for_speed(variant, device)
    images = draw_images(variant, size, device)
    eager = replace(settings, batch_size=size, backend="eager", cuda_graph=False)
    step = make_step(network, images, eager, variant.label)
    return images.nbytes + peak_of(step.run, device)


def time_rounds(
    runs: Sequence[Run],
    number: int,
    settings: Speed,
    device: torch.device,
    ends: float = math.inf,
) -> list[list[float]]:
    """Time several steps in turn.

    Args:
        runs: The steps.
        number: The most rounds.
        settings: How to measure.
        device: Where they are computed.
        ends: When `time.monotonic` has come so far no further round begins, but for the first few.

    Returns:
        Milliseconds: a row for every step, a column for every round.
    """
    chill = _make_chill(device) if settings.cache == "cold" else None
    clock = _gpu_ms if device.type == "cuda" else _cpu_ms
    latencies: list[list[float]] = [[] for _ in runs]
    for first in range(number):
        if first >= _LEAST_ROUNDS and time.monotonic() > ends:
            break
        for offset in range(len(runs)):
            chosen = (first + offset) % len(runs)
            if chill is not None:
                chill()
            latencies[chosen].append(clock(runs[chosen]))
    return latencies


def _cpu_ms(run: Run) -> float:
    started = time.perf_counter()
    run()
    return 1e3 * (time.perf_counter() - started)


def _gpu_ms(run: Run) -> float:
    """By events on the device, from before the first kernel is launched until the last ends."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _make_chill(device: torch.device) -> Run:
    """Make what fills the device's last cache with something else."""
    if device.type == "cuda":
        num_bytes = torch.cuda.get_device_properties(device).L2_cache_size
    else:
        num_bytes = last_cache_bytes()
    return torch.empty(_TIMES_CACHE * num_bytes, dtype=torch.uint8, device=device).zero_


def last_cache_bytes() -> int:
    """Size of the processor's last cache."""
    sizes = []
    for path in _CACHES.glob("index*/size"):
        text = path.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=_USUAL_CACHE_BYTES)


def _num_bytes(network: nn.Module) -> int:
    return sum(t.nbytes for t in [*network.parameters(), *network.buffers()])


def _find_memory(
    steps: Sequence[Step], held: Sequence[int], settings: Speed, device: torch.device
) -> list[int | None]:
    """Weights, and the most that a pass holds besides, where it can be counted."""
    width = tensor_dtype(settings).itemsize / torch.float32.itemsize
    return [
        None if step.allocating is None else round(n * width) + peak_of(step.allocating, device)
        for step, n in zip(steps, held, strict=True)
    ]


def _find_energy(runs: Sequence[Run], device: torch.device) -> list[float | None]:
    meter = find_meter(device)
    if meter is None:
        return [None] * len(runs)

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    return [energy_j(run, meter, synchronize) for run in runs]
