"""Digests of the images of a dataset: computed once, then kept by the state of their files.

They lie in the user's cache, a file for every dataset, never in the dataset itself. An image is
digested again when its file has another size, modification time or change time.
"""

from __future__ import annotations

import hashlib
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from pfstudy.errors import PfstudyError
from pfstudy.files import replacing

WHOLE_BYTES = 10_000_000_000
"""The largest dataset of which every byte is read."""

BLOCK_BYTES = 4096
_NUM_BLOCKS = 3
_DIGEST_BYTES = 32
_NUM_THREADS = 8
_CHUNK = 64
_SAID_BYTES = 2_000_000_000
"""Without a terminal, reading more than this is announced in a line."""
_SETTLED_NS = 2_000_000_000
"""A file that was changed more recently may change once more and keep its time."""

Read = Callable[[int, int, int], bytes]
"""Reads of an image, by its index, so many bytes from an offset on."""


@dataclass(frozen=True)
class Stored:
    """Images as they are stored.

    Attributes:
        root: Where they are.
        names: Name of each, from the root on.
        sizes_N: Size of each in bytes, int64.
        states_N2: Modification and change time of each one's file in ns, int64.
        read: Reads a part of one.
        unreadable_ok: Whether an image that cannot be read has a digest, too.
    """

    root: Path
    names: Sequence[bytes]
    sizes_N: np.ndarray
    states_N2: np.ndarray
    read: Read
    unreadable_ok: bool = False

    @property
    def is_sampled(self) -> bool:
        """Whether of each image only the size and three blocks are read."""
        return int(self.sizes_N.sum()) > WHOLE_BYTES


def digest_images(stored: Stored) -> np.ndarray:
    """Digest every image, those whose file is unchanged from the cache.

    Returns:
        The SHA-256 of each image's bytes, or of its size and first, middle and last block, as
        uint8 ``(N, 32)``; zeros for one that cannot be read.

    Raises:
        PfstudyError: An image cannot be read.
    """
    started_ns = time.time_ns()
    path = _cache_path(stored)
    digests_ND, is_known_N = _from_cache(path, stored)
    todo = np.flatnonzero(~is_known_N)
    if not len(todo):
        return digests_ND
    try:
        for index, digest in _compute(stored, todo):
            if digest is not None:
                digests_ND[index] = np.frombuffer(digest, np.uint8)
                is_known_N[index] = True
    finally:  # what was read before an interruption need not be read again
        is_settled_N = stored.states_N2.max(axis=1) < started_ns - _SETTLED_NS
        _to_cache(path, stored, digests_ND, is_known_N & is_settled_N)
    return digests_ND


def _compute(stored: Stored, indices: np.ndarray) -> Iterator[tuple[int, bytes | None]]:
    """Digest some images in threads, which wait for the disk together."""

    def digest(chunk: np.ndarray) -> list[tuple[int, bytes | None]]:
        return [(index, _digest(stored, index)) for index in chunk.tolist()]

    chunks = [indices[start : start + _CHUNK] for start in range(0, len(indices), _CHUNK)]
    pool = ThreadPoolExecutor(_NUM_THREADS)
    try:
        with _progress(stored, indices) as advance:
            for chunk, found in zip(chunks, pool.map(digest, chunks), strict=True):
                yield from found
                advance(_bytes_read(stored, chunk))
    finally:
        pool.shutdown(cancel_futures=True)


def _digest(stored: Stored, index: int) -> bytes | None:
    size = int(stored.sizes_N[index])
    try:
        if not stored.is_sampled or size <= _NUM_BLOCKS * BLOCK_BYTES:
            content = stored.read(index, 0, size)
        else:
            starts = (0, (size - BLOCK_BYTES) // 2, size - BLOCK_BYTES)
            content = b"".join(stored.read(index, start, BLOCK_BYTES) for start in starts)
    except PfstudyError:
        if stored.unreadable_ok:
            return None
        raise
    if stored.is_sampled:
        content = b"%d\0%s" % (size, content)
    return hashlib.sha256(content).digest()


def _bytes_read(stored: Stored, indices: np.ndarray) -> int:
    sizes_N = stored.sizes_N[indices]
    if stored.is_sampled:
        sizes_N = np.minimum(sizes_N, _NUM_BLOCKS * BLOCK_BYTES)
    return int(sizes_N.sum())


@contextmanager
def _progress(stored: Stored, indices: np.ndarray) -> Iterator[Callable[[int], None]]:
    """Show how far it is, on a terminal; elsewhere say it once, if it takes long."""
    console, total = Console(stderr=True, soft_wrap=True), _bytes_read(stored, indices)
    what = f"reading {len(indices):,} images of {stored.root} once, to identify them"
    if not console.is_terminal:
        if total > _SAID_BYTES:
            console.print(f"{what}: {total / 1e9:.1f} GB", markup=False, highlight=False)
        yield lambda number: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)


def _cache_path(stored: Stored) -> Path:
    place = hashlib.sha256(os.fsencode(stored.root.absolute())).hexdigest()[:16]
    how = "sampled" if stored.is_sampled else "whole"
    return platformdirs.user_cache_path("pfstudy") / "digests" / f"{place}-{how}.npz"


def _from_cache(path: Path, stored: Stored) -> tuple[np.ndarray, np.ndarray]:
    """Digests of the images whose files are as they were, and which these are."""
    digests_ND = np.zeros((len(stored.names), _DIGEST_BYTES), np.uint8)
    is_known_N = np.zeros(len(stored.names), bool)
    try:
        with np.load(path, allow_pickle=False) as cached:
            names = cached["names"].tobytes().split(b"\0")
            sizes_M, states_M2 = cached["sizes"], cached["states"]
            cached_MD = cached["digests"]
        if not len(names) == len(sizes_M) == len(states_M2) == len(cached_MD):
            raise ValueError(path)
    except (OSError, ValueError, LookupError, EOFError, zipfile.BadZipFile):
        return digests_ND, is_known_N
    positions = {name: position for position, name in enumerate(names)}
    found_N = np.array([positions.get(name, -1) for name in stored.names], np.int64)
    is_there_N = found_N >= 0
    is_known_N[is_there_N] = (sizes_M[found_N] == stored.sizes_N)[is_there_N] & (
        states_M2[found_N] == stored.states_N2
    ).all(axis=1)[is_there_N]
    digests_ND[is_known_N] = cached_MD[found_N[is_known_N]]
    return digests_ND, is_known_N


def _to_cache(path: Path, stored: Stored, digests_ND: np.ndarray, keep_N: np.ndarray) -> None:
    """Keep digests, if the cache can be written; without it, they are computed every time."""
    if not keep_N.any():
        return
    names = b"\0".join(name for name, keep in zip(stored.names, keep_N, strict=True) if keep)
    with suppress(PfstudyError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as draft, draft.open("wb") as file:
            np.savez(
                file,
                names=np.frombuffer(names, np.uint8),
                sizes=stored.sizes_N[keep_N],
                states=stored.states_N2[keep_N],
                digests=digests_ND[keep_N],
            )
