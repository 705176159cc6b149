from __future__ import annotations

import pytest

from pfstudy.errors import is_about_memory, is_out_of_memory


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB.",
        "CUDA error: out of memory",
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes",
        "bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 51380224",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "std::bad_alloc",
        "MemoryError",
    ],
)
def test_memory_runs_out_in_several_words(text: str) -> None:
    assert is_about_memory(text)
    assert is_out_of_memory(RuntimeError(text))


def test_an_error_about_memory_may_say_nothing() -> None:
    assert is_out_of_memory(MemoryError())


@pytest.mark.parametrize(
    "text",
    ["CUDA error: an illegal memory access was encountered", "pin memory thread exited", ""],
)
def test_other_errors_are_not_about_memory(text: str) -> None:
    assert not is_about_memory(text)
    assert not is_out_of_memory(RuntimeError(text))
