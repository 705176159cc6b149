"""Reading images in a random order: files in folders, and packed by WebDataset and by litdata.

    python benchmarks/reading.py [NUM_IMAGES]      with litdata if that is installed

JPEGs of 400x300 are read by one and by two processes, whole and as training batches of 224x224.
Rounds of the formats alternate. Cold are files that the kernel has been told to forget, as those
of a dataset are that is larger than the memory. litdata's chunks have 8 MB, so that there are some;
it reads one item at a time, the way in which its random access is the fastest.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from _measuring import machine, show
from pfstudy.data.imagefolder import list_splits
from pfstudy.data.images import ImageBatches
from pfstudy.data.order import BatchIndices, EpochOrder
from pfstudy.data.packing import pack
from pfstudy.schema.config import Data

NUM_ROUNDS = 3
NUM_BATCHES = 12
NUM_CLASSES = 10
PROCESSES = (1, 2)

Read = Callable[[int], Any]
readers: dict[str, Read] = {}
"""What the processes, which are forked, read with."""


def write_images(folder: Path, number: int) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = []
    for index in range(number):
        path = folder / f"class{index % NUM_CLASSES}" / f"{index:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((400, 300), Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return sorted(paths)


def write_litdata(folder: Path, paths: Sequence[Path]) -> None:
    from litdata.streaming.writer import BinaryWriter

    folder.mkdir()
    writer = BinaryWriter(str(folder), chunk_bytes=8_000_000)
    for index, path in enumerate(paths):
        writer[index] = path.read_bytes()
    writer.done()
    writer.merge()


def describe(folder: Path, num_workers: int = 0) -> Data:
    return Data("imagefolder", 224, 3, NUM_CLASSES, 0, 10, 10, path=str(folder),
                crop_fraction=0.875, interpolation="bicubic", mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225), num_workers=num_workers)  # fmt: skip


def forget(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def read_all(name: str, indices: Sequence[int]) -> float:
    """Seconds that one process takes."""
    read = readers[name]
    started = time.perf_counter()
    for index in indices:
        read(index)
    return time.perf_counter() - started


def microseconds(name: str, order: Sequence[int], num_processes: int) -> float:
    """Time for an image, by processes that are forked for this and have nothing open."""
    shares = [order[first::num_processes] for first in range(num_processes)]
    with ProcessPoolExecutor(num_processes, get_context("fork")) as pool:
        slowest = max(pool.map(read_all, [name] * num_processes, shares))
    return 1e6 * slowest / len(order)


def batch_microseconds(folder: Path, num_workers: int) -> float:
    data = describe(folder, num_workers)
    images = list_splits(data)["train"]
    indices = BatchIndices(len(images), 32, EpochOrder(len(images), 0))
    batches = ImageBatches(images, data, indices, torch.device("cpu"), persistent=True)
    batch = iter(batches)
    next(batch)  # when the processes have started
    started = time.perf_counter()
    count = sum(len(labels) for _, labels in islice(batch, NUM_BATCHES))
    seconds = time.perf_counter() - started
    batches.close()
    return 1e6 * seconds / count


def in_litdata(folder: Path) -> Read:
    from litdata import StreamingDataset

    dataset = StreamingDataset(str(folder), batch_decode=0)
    return lambda index: bytes(dataset[index])


def main() -> None:
    print(machine())
    torch.set_num_threads(1)
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    root = Path(tempfile.mkdtemp(dir="."))
    try:
        paths = write_images(root / "files", number)
        packed = pack(root / "files", root / "packed")
        part, shards = packed.parts[""], packed.shards("")
        readers["files"] = lambda index: paths[index].read_bytes()
        readers["packed"] = lambda index: shards.read(part.places_N3[index])
        if find_spec("litdata") is None:
            print("litdata is left out: it is not installed")
        else:
            write_litdata(root / "litdata", paths)
            readers["litdata"] = in_litdata(root / "litdata")
        order = np.random.default_rng(1).permutation(number).tolist()
        assert all(readers[name](7) == paths[7].read_bytes() for name in readers)
        found: dict[str, list[float]] = {}
        for number_of_round in range(NUM_ROUNDS):
            names = list(readers) if number_of_round % 2 else list(reversed(readers))
            for processes in PROCESSES:
                for name in names:
                    times = {"warm": 0.0, "cold": 0.0}
                    microseconds(name, order, processes)
                    times["warm"] = microseconds(name, order, processes)
                    forget(root / name)
                    times["cold"] = microseconds(name, order, processes)
                    for state, value in times.items():
                        key = f"{name}, {state}, bytes, {processes} processes"
                        found.setdefault(key, []).append(value)
                    if name != "litdata":
                        value = batch_microseconds(root / name, processes)
                        key = f"{name}, warm, batches, {processes} processes"
                        found.setdefault(key, []).append(value)
        for key in sorted(found, key=lambda key: key.split(", ")[::-1]):
            show(key, found[key], "us")
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
