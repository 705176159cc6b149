"""Errors that a user can cause and mend: one sentence each, printed without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_ABOUT_MEMORY = (
    "out of memory",  # torch on a GPU, CUDA
    "can't allocate memory",  # torch on the CPU
    "failed to allocate memory",  # ONNX Runtime
    "bad_alloc",  # C++
    "alloc_failed",  # cuBLAS, cuDNN
    "allocation_failed",  # cuDNN, too
    "memoryerror",  # the kind of Python's own, which says nothing
)


class PfstudyError(ValueError):
    """A user's mistake: says what was expected, what came and what to do. Exit code 2."""


class DiskError(PfstudyError):
    """A file cannot be written: the disk is full, say, or read-only. Exit code 2."""


class DivergedError(PfstudyError):
    """The loss of a run is no number any more; trying again would not help."""


class ChildFailedError(PfstudyError):
    """A process of a sweep that trains no run failed or was killed. Exit code 2."""


class RunsFailedError(PfstudyError):
    """Some runs of a sweep failed; the others are done and recorded. Exit code 1."""


def is_about_memory(text: str) -> bool:
    """Whether an error that libraries word in their own ways says that memory ran out."""
    lowered = text.lower()
    return any(words in lowered for words in _ABOUT_MEMORY)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left; Python's own may say nothing."""
    return isinstance(error, MemoryError) or is_about_memory(str(error))


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def unknown_name(kind: str, name: str, choices: Iterable[str]) -> PfstudyError:
    """Build the error for a name that does not exist: it lists the choices, nearest first named.

    Args:
        kind: What was asked for, e.g. ``"operation"``.
        name: The name that was given.
        choices: The names that exist.

    Returns:
        The error, to be raised by the caller.
    """
    known = list(choices)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(known) if known else "none"
    return PfstudyError(f"{kind} {name!r} does not exist; choose from: {listed}.{hint}")
