"""What the tests of searches share."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pfstudy import searches
from pfstudy.data import fingerprint
from pfstudy.schema.config import Config
from pfstudy.searches import Asked, Times
from pfstudy.space import make_space
from pfstudy.tasks import Task
from pfstudy.variant import make_variant

SMALL = (
    "data=synthetic",
    "data.num_train=100",
    "data.num_validation=40",
    "data.num_test=8",
    "model.args.channels=[4,4]",
    "recipe.batch_size=16",
    "recipe.lr=0.05",
    "logger=none",
    "trainer.accelerator=cpu",
    "search.operations=[conv,maxpool,identity]",
)
"""Three pairs of batches an epoch, six batches where all training images are used."""

MakeSearch = Callable[..., Task]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """A search sets the number of threads of its process, and Lightning ignores Ctrl-C after it."""
    threads, interrupt = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    yield
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, interrupt)


@pytest.fixture
def make_search(make_config: Callable[..., Config], tmp_path: Path) -> MakeSearch:
    """Make the directory of a small search."""

    def make(name: str, *overrides: str, times: bool = False, **changes: Any) -> Task:
        preset = [override for override in overrides if override.startswith("search=")]
        rest = [override for override in overrides if override not in preset]
        config = make_config(*(preset or ["search=darts"]), *SMALL, *rest)
        space = make_space(config)
        row = (0.2, 0.1, 0.05)
        known = Times((row,) * len(space.sites), 0.2, {"device": "Some CPU"}) if times else None
        variant = make_variant(config, fingerprint(config.data))
        identity = searches.identify(space, variant.canonical, known)
        directory = searches.search_directory(tmp_path / "runs", name)
        searches.write_asked(directory, Asked(space, known, identity))
        return Task(directory, study=name, mode="disabled", **changes)

    return make
