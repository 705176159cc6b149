"""Checkpoints: what an interrupted run goes on from, as if nothing had happened."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import lightning as L  # noqa: N812
import numpy as np
import torch

from pfstudy.errors import PfstudyError
from pfstudy.files import cannot_write, draft_of
from pfstudy.ledger import Claim
from pfstudy.module import Classifier, diverged, find_divergence
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.stopping import Stopped, StopRequest

_LOOK_EVERY_S = 1.0
_KEY = "pfstudy"


@dataclass(frozen=True)
class Conditions:
    """What must stay the same for a run to end as if it had not been interrupted.

    Attributes:
        num_threads: CPU threads of a process.
        num_ranks: Number of processes.
        num_parts: Number of steps by which the gradient of a batch is accumulated.
    """

    num_threads: int
    num_ranks: int = 1
    num_parts: int = 1


class Checkpoints(L.Callback):
    """Writes a checkpoint now and then, and when training is asked to stop.

    All processes decide together, at the same step: between two looks, whose number of steps the
    first one sets, none waits for another.

    Args:
        path: The file.
        every_s: How often it is written.
        conditions: Kept in it.
        ranks: The processes of the run.
        request: Whether to stop.
        claim: Of the first process, which alone may write as long as it holds.
    """

    def __init__(
        self,
        path: Path,
        every_s: float,
        conditions: Conditions,
        ranks: Ranks,
        request: StopRequest,
        claim: Claim | None = None,
    ) -> None:
        self.path = path
        self.every_s = every_s
        self.conditions = conditions
        self.ranks = ranks
        self.request = request
        self.claim = claim
        self._random: list[dict[str, Any]] | None = None
        self._written = self._looked = time.monotonic()
        self._steps_until_look = 1
        self._steps_between = 1

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.request.listen()
        if self._random is not None:
            _set_random_state(self._random[self.ranks.rank])

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        num_done = batch_idx + 1
        if num_done % self.conditions.num_parts or num_done == trainer.num_training_batches:
            return  # in the middle of a step, or about to validate
        self._steps_until_look -= 1
        if self._steps_until_look > 0:
            return
        now = time.monotonic()
        rate = self._steps_between / max(1e-9, now - self._looked)
        self._looked = now
        stop, due, steps = self.ranks.largest(
            [bool(self.request), now - self._written > self.every_s, rate * _LOOK_EVERY_S]
        )
        if self.ranks.num_ranks > 1:
            self._steps_between = max(1, min(int(steps), 10 * self._steps_between))
        self._steps_until_look = self._steps_between
        self._save(trainer, pl_module, stop=bool(stop), due=bool(due))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        is_last = trainer.current_epoch + 1 == trainer.max_epochs
        stop, due = self.ranks.largest(
            [bool(self.request), time.monotonic() - self._written > self.every_s]
        )
        self._save(trainer, pl_module, stop=bool(stop) and not is_last, due=bool(due))

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.request.listen()

    def state_dict(self) -> dict[str, Any]:
        return {_KEY: vars(self.conditions), "random": self.ranks.gather(_random_state())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._random = state_dict["random"]

    def _save(
        self, trainer: L.Trainer, module: L.LightningModule, *, stop: bool, due: bool
    ) -> None:
        if stop or due:
            assert isinstance(module, Classifier)
            losses = self.ranks.gather(module.train_losses.tolist())
            step = find_divergence(losses, module.num_parts)
            if step is not None:  # nothing could go on from it
                raise diverged(trainer.current_epoch + 1, step)
            if self.claim is not None:
                self.claim.check()
            write_checkpoint(trainer, self.path)
            self._written = time.monotonic()
        if stop:
            raise Stopped


def write_checkpoint(trainer: L.Trainer, path: Path) -> None:
    """Write a checkpoint so that the file is always a whole one; every process must call it.

    The one that is there is kept beside it, as a disk may spoil what was written.

    Raises:
        DiskError: It cannot be written.
    """
    draft = draft_of(path)
    try:
        path.parent.mkdir(exist_ok=True)
        trainer.save_checkpoint(draft, weights_only=False)
        if trainer.is_global_zero:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
            if path.exists():
                path.replace(_before(path))
            draft.replace(path)
    except (OSError, RuntimeError) as error:  # torch says it of a full disk
        draft.unlink(missing_ok=True)
        reason = error if isinstance(error, OSError) else OSError(28, "No space left on device")
        raise cannot_write(path, reason) from None


def find_checkpoint(path: Path, note: Callable[[str], None]) -> Conditions | None:
    """Find the last checkpoint that is sound: that of a path, or the one before it.

    Args:
        path: Where checkpoints are written; one before it takes the place of a damaged one.
        note: Told of those that are damaged, and what is done.

    Returns:
        The conditions under which it was written; ``None`` if there is none.
    """
    found = [file for file in (path, _before(path)) if file.exists()]
    for number, file in enumerate(found, 1):
        try:
            conditions = read_conditions(file)
        except PfstudyError as error:
            how = "begins anew" if number == len(found) else "goes on from the one before"
            note(f"{error}; training {how}")
            continue
        if file != path:
            file.replace(path)
        return conditions
    return None


def read_conditions(path: Path) -> Conditions:
    """Read under which conditions a checkpoint was written, and check that all of it is as written.

    Raises:
        PfstudyError: It is damaged.
    """
    try:
        with ZipFile(path) as archive:
            damaged = archive.testzip()  # reads all; torch.load looks at no checksum
        if damaged is not None:
            raise PfstudyError(f"the checksum of {damaged} is another")
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        return Conditions(**_own(content["callbacks"])[_KEY])
    except Exception as error:  # pickle raises whatever it likes
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PfstudyError(f"{path} is damaged: {reason}") from None


def _before(path: Path) -> Path:
    return path.with_suffix(f".before{path.suffix}")


def _own(callbacks: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any]:
    return next(state for state in callbacks.values() if _KEY in state)


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": [str(name), torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
