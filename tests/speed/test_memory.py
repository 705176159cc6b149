from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from pfstudy.errors import is_about_memory
from pfstudy.speed import memory
from pfstudy.speed.memory import available_bytes, limited_host_memory, peak_of

CPU = torch.device("cpu")
MEBI = 2**20


def allocate(mebibytes: int) -> torch.Tensor:
    return torch.empty(mebibytes * MEBI, dtype=torch.uint8)


def test_a_temporary_tensor_is_counted() -> None:
    assert peak_of(lambda: allocate(64).fill_(1), CPU) == pytest.approx(64 * MEBI, rel=0.01)


def test_the_peak_is_of_what_is_there_at_a_time() -> None:
    def step() -> None:
        allocate(16)
        one, _other = allocate(16), allocate(8)
        del one
        allocate(8)

    assert peak_of(step, CPU) == pytest.approx(24 * MEBI, rel=0.01)


@pytest.mark.parametrize(
    "before",
    [pytest.param(0, id="nothing"), pytest.param(128, id="more"), pytest.param(16, id="less")],
)
def test_what_was_freed_before_does_not_matter(before: int) -> None:
    allocate(before).fill_(1)
    assert peak_of(lambda: allocate(64), CPU) == pytest.approx(64 * MEBI, rel=0.01)


def test_what_the_step_was_given_is_not_counted() -> None:
    given = allocate(64)
    assert peak_of(lambda: given.add_(1), CPU) < MEBI


def test_too_large_an_allocation_is_an_error_about_memory() -> None:
    """Three times more than half of what is free: the kernel promises each of them."""
    large = int(0.6 * available_bytes(CPU))
    with pytest.raises(RuntimeError) as caught, limited_host_memory():
        [torch.empty(large, dtype=torch.uint8) for _ in range(3)]
    assert is_about_memory(str(caught.value))


def test_what_there_is_memory_for_can_be_had() -> None:
    with limited_host_memory():
        assert allocate(64).fill_(1).nbytes == 64 * MEBI


@pytest.mark.parametrize("fails", [False, True], ids=["fits", "does not fit"])
def test_the_limit_is_as_it_was(fails: bool) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        with limited_host_memory():
            assert resource.getrlimit(resource.RLIMIT_DATA) != before
            allocate(2**24 if fails else 1)
    except RuntimeError:
        assert fails
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        pytest.param("3000", 1000, id="cgroup has less"),
        pytest.param(str(2**62), "host", id="cgroup has more"),
        pytest.param("max", "host", id="cgroup has no end"),
        pytest.param(None, "host", id="no cgroup"),
    ],
)
def test_a_container_may_have_less_than_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: str | None, expected: int | str
) -> None:
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    if most is not None:
        (tmp_path / "memory.max").write_text(f"{most}\n")
        (tmp_path / "memory.current").write_text("2000\n")
    found = available_bytes(CPU)
    assert found == expected if expected != "host" else MEBI < found < 2**60
