from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from configs import variant_of
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Speed
from pfstudy.speed import measure
from pfstudy.speed.measure import last_cache_bytes, measure_in_process, set_up, time_rounds
from pfstudy.speed.step import Step
from pfstudy.speed.summary import Timings

CPU = torch.device("cpu")
MAXPOOL = "block.spatial=maxpool"
NO_MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B")
VARIANTS = (variant_of(), variant_of(MAXPOOL), variant_of("block.spatial=avgpool"))


def speed(**changes: Any) -> Speed:
    return replace(variant_of().config.speed, **{"num_rounds": 4, "num_warmup": 1, **changes})


def ignore(kind: str, details: Mapping[str, Any]) -> None:
    pass


def timings_of(settings: Speed, thorough: bool = False, seconds: float = math.inf) -> Timings:
    return measure_in_process(VARIANTS, settings, False, [0], thorough, seconds, ignore)


@pytest.fixture(autouse=True)
def _no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on most hosts; where there is one, it takes a second for every network."""
    monkeypatch.setattr(measure, "find_meter", lambda device: None)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="usual"),
        pytest.param({"passes": "forward_backward", "layout": "channels_last"}, id="backward"),
        pytest.param({"cache": "cold", "dtype": "bfloat16", "batch_size": 3}, id="cold"),
    ],
)
def test_a_row_for_every_network_and_a_column_for_every_round(changes: dict[str, Any]) -> None:
    found = timings_of(speed(**changes))
    assert [len(row) for row in found.latencies_ms] == [4, 4, 4]
    assert all(milliseconds > 0 for row in found.latencies_ms for milliseconds in row)
    assert (found.peak_memory_bytes, found.energy_j) == ([None] * 3, [None] * 3)
    assert found.fell_back == []


def test_rounds_end_with_the_time_but_not_before_the_third() -> None:
    assert [len(row) for row in timings_of(speed(), seconds=0).latencies_ms] == [3, 3, 3]
    runs, settings = [lambda: None], speed()
    assert [len(time_rounds(runs, n, settings, CPU, ends=0)[0]) for n in (2, 3, 9)] == [2, 3, 3]


@pytest.fixture
def _as_before() -> Iterator[None]:
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    yield
    torch.set_float32_matmul_precision(matmul)
    torch.backends.cudnn.allow_tf32 = cudnn


@pytest.mark.usefixtures("_as_before")
@pytest.mark.parametrize("dtype", ["tf32", "float32", "float16"])
def test_matrices_and_convolutions_use_tf32_both_or_neither(dtype: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_up(speed(dtype=dtype), False)
    allowed = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert allowed == (dtype == "tf32", dtype == "tf32")


def test_peak_memory_is_the_weights_and_what_a_pass_holds() -> None:
    found = timings_of(speed(batch_size=64), thorough=True).peak_memory_bytes
    half = timings_of(speed(batch_size=64, dtype="bfloat16"), thorough=True).peak_memory_bytes
    images = 64 * 16 * 8 * 8 * 4  # a map of the first stage
    for variant, peak, smaller in zip(VARIANTS, found, half, strict=True):
        network = measure.build_for_speed(variant, CPU)
        weights = sum(t.nbytes for t in [*network.parameters(), *network.buffers()])
        assert peak is not None
        assert smaller is not None
        assert weights + 2 * images < peak < weights + 20 * images
        assert smaller < 0.75 * peak


def test_peak_memory_of_forward_and_backward_has_the_gradients() -> None:
    settings = speed(batch_size=1, passes="forward_backward")  # maps are small beside the weights
    forward = timings_of(speed(batch_size=1), thorough=True).peak_memory_bytes
    backward = timings_of(settings, thorough=True).peak_memory_bytes
    for variant, less, peak in zip(VARIANTS, forward, backward, strict=True):
        network = measure.build_for_speed(variant, CPU)
        gradients = sum(parameter.nbytes for parameter in network.parameters())
        assert less is not None
        assert peak is not None
        assert less < 2 * gradients < peak


def test_energy_is_measured_where_there_is_a_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "find_meter", lambda device: lambda: 1.0)
    monkeypatch.setattr(measure, "energy_j", lambda step, meter, synchronize: meter())
    assert timings_of(speed(), thorough=True).energy_j == [1.0] * 3
    assert timings_of(speed()).energy_j == [None] * 3


def test_networks_that_fall_back_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(network: nn.Module, images: object, settings: object, label: str) -> Step:
        return Step(lambda: None, fell_back=label != "original")

    monkeypatch.setattr(measure, "make_step", pretend)
    assert timings_of(speed(backend="compile", fallback=True)).fell_back == [1, 2]


def test_every_round_begins_with_another_network() -> None:
    called: list[int] = []
    runs = [lambda number=number: called.append(number) for number in range(3)]
    rows = time_rounds(runs, 4, speed(), CPU)
    assert called == [0, 1, 2, 1, 2, 0, 2, 0, 1, 0, 1, 2]
    assert [len(row) for row in rows] == [4, 4, 4]


@pytest.mark.parametrize(
    ("cache", "expected"),
    [pytest.param("warm", "abba", id="warm"), pytest.param("cold", "-a-b-b-a", id="cold")],
)
def test_a_cold_cache_is_emptied_before_every_pass(
    monkeypatch: pytest.MonkeyPatch, cache: str, expected: str
) -> None:
    called: list[str] = []
    monkeypatch.setattr(measure, "_make_chill", lambda device: lambda: called.append("-"))
    runs = [lambda: called.append("a"), lambda: called.append("b")]
    time_rounds(runs, 2, speed(cache=cache), CPU)
    assert "".join(called) == expected


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param({"index0": "32K\n", "index3": "16M\n"}, 16 * 2**20, id="last"),
        pytest.param({"index0": "48K\n", "index2": "512K\n"}, 512 * 2**10, id="kibibytes"),
        pytest.param({}, 32 * 2**20, id="not told"),
    ],
)
def test_the_last_cache_is_the_largest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(measure, "_CACHES", tmp_path)
    for name, size in sizes.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "size").write_text(size)
    assert last_cache_bytes() == expected


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Pretend that batches up to a size fit; tells which were tried.

    A pass takes 10 MiB, and 1 MiB for every image.
    """

    def pretend(largest: int, error: Exception = NO_MEMORY, available_mebi: float = 0) -> list[int]:
        tried: list[int] = []

        def make_step(
            network: nn.Module, images: torch.Tensor, settings: Speed, label: str
        ) -> Step:
            assert settings.batch_size == len(images)
            tried.append(len(images))
            if len(images) > largest:
                raise error
            num_bytes = (10 + len(images)) * 2**20
            return Step(lambda: torch.empty(num_bytes, dtype=torch.uint8))

        monkeypatch.setattr(measure, "make_step", make_step)
        monkeypatch.setattr(measure, "available_bytes", lambda device: available_mebi * 2**20)
        return tried

    return pretend


@pytest.mark.parametrize(
    ("asked", "largest", "available_mebi", "cure"),
    [
        pytest.param(256, 100, 110.5 / 0.9, "about 100 would", id="by what two images take"),
        pytest.param(50, 20, 110.5 / 0.9, "about 49 would", id="less than what did not"),
        pytest.param(256, 100, 5, "about 1 would", id="hardly any"),
        pytest.param(2, 1, 5, "about 1 would", id="one and not two"),
        pytest.param(7, 0, 5, "not even one image would", id="none"),
        pytest.param(1, 0, 5, "not even one image would", id="not the one that was asked for"),
    ],
)
def test_a_batch_that_does_not_fit_names_about_the_largest_that_does(
    fits: Any, asked: int, largest: int, available_mebi: float, cure: str
) -> None:
    tried = fits(largest, available_mebi=available_mebi)
    with pytest.raises(PfstudyError) as caught:
        timings_of(speed(batch_size=asked))
    assert str(caught.value) == (
        f"original: speed.batch_size={asked} does not fit into memory; {cure}."
    )
    assert tried == [asked, 1, 2][: 2 if largest == 0 else 3]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(MemoryError(), id="python"),
        pytest.param(RuntimeError("CUDA out of memory. Tried to allocate 20 MiB"), id="gpu"),
    ],
)
def test_memory_runs_out_in_several_words(fits: Any, error: Exception) -> None:
    fits(4, error, available_mebi=100)
    with pytest.raises(PfstudyError, match=r"speed\.batch_size=8 does not fit .* about 7 would"):
        timings_of(speed(batch_size=8))


def test_another_error_is_not_about_memory(fits: Any) -> None:
    tried = fits(4, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1 and mat2") as caught:
        timings_of(speed(batch_size=8))
    assert not isinstance(caught.value, PfstudyError)
    assert tried == [8]


def test_a_network_that_cannot_be_built_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: object, seed: int) -> nn.Module:
        raise PfstudyError("stage1.block1: too small.")

    monkeypatch.setattr(measure, "build_network", refuse)
    with pytest.raises(PfstudyError, match=r"^original: stage1\.block1: too small\.$"):
        timings_of(speed())
