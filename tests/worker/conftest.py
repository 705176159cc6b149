"""What the tests of the worker share."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from nursery import Nursery


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A run sets the number of threads of its process, and Lightning ignores Ctrl-C after one."""
    threads, interrupt = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture(scope="session")
def nursery(environment: Mapping[str, str]) -> Iterator[Nursery]:
    """Starts workers as processes of their own."""
    made = Nursery(environment)
    yield made
    made.close()


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Image files: each class has a colour of its own, with some noise."""
    import numpy as np
    from PIL import Image

    root = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for part, number in (("train", 16), ("val", 6), ("test", 5)):
        for label, name in enumerate(("ape", "bee", "cat")):
            (root / part / name).mkdir(parents=True)
            for index in range(number):
                noise = generator.integers(0, 60, (10, 12, 3), dtype=np.uint8)
                pixels = noise + np.array([90 * label, 50, 50], dtype=np.uint8)
                ending = "jpg" if index % 2 else "png"
                Image.fromarray(pixels).save(root / part / name / f"{index}.{ending}")
    return root
