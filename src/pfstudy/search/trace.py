"""What a search says of itself while it trains: a row for every epoch, progress between them."""

from __future__ import annotations

import csv
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import lightning as L  # noqa: N812

from pfstudy import files, store
from pfstudy.ledger import Claim
from pfstudy.module import Classifier, diverged, find_divergence
from pfstudy.search.ending import CHOSEN, PROBABILITY, reason_to_end
from pfstudy.space import Space
from pfstudy.supernet.differentiable import DifferentiableSearch
from pfstudy.tracking import Tracker
from pfstudy.worker.progress import Report

_REPORT_EVERY_S = 1.0


class Trace(L.Callback):
    """After every epoch: a row of metrics.csv and of W&B, the state, a report; ends the search.

    What it keeps goes into checkpoints, so that a search that was interrupted loses nothing of it.

    Args:
        directory: That of the search.
        space: What is searched.
        num_epochs: Number of epochs.
        claim: Says how far the search is.
        tracker: Where rows are logged.
        report: Told of every epoch, and of progress between them.

    Attributes:
        rows: A row for every epoch that has ended.
        seconds: Time spent, over all attempts.
    """

    def __init__(
        self,
        directory: Path,
        space: Space,
        num_epochs: int,
        claim: Claim,
        tracker: Tracker,
        report: Report,
    ) -> None:
        self.directory = directory
        self.space = space
        self.num_epochs = num_epochs
        self.claim = claim
        self.tracker = tracker
        self.report = report
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._since = time.perf_counter()
        self._reported = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._since = time.perf_counter()
        for row in self.rows:  # this attempt's run of W&B has all the curves
            self._log(row)
        self._end_if_due(trainer, pl_module)  # it may have been stopped in its last epoch

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        now = time.monotonic()
        if now - self._reported > _REPORT_EVERY_S:
            self._reported = now
            done = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            self.report("step", {"completed": done, "total": self.num_epochs})

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch = trainer.current_epoch + 1
        losses = pl_module.train_losses.tolist()
        row: dict[str, Any] = {
            "epoch": epoch,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": fmean(losses),
            **pl_module.evaluated,
        }
        if isinstance(pl_module, DifferentiableSearch):
            pl_module.check_architecture(epoch)
            row |= _describe(pl_module, self.space)
        self._pass_time()
        self.rows.append({**row, "seconds": round(self.seconds, 3)})
        self._write()
        self._log(self.rows[-1])
        step = find_divergence([losses], pl_module.num_parts)
        if step is not None:
            raise diverged(epoch, step)
        self.claim.write(epoch=epoch, num_epochs=self.num_epochs)
        self.report("step", {"completed": epoch, "total": self.num_epochs})
        self._end_if_due(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        self._pass_time()
        return {"rows": self.rows, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.seconds = state_dict["seconds"]

    def _end_if_due(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if isinstance(module, DifferentiableSearch) and reason_to_end(self.rows, module.search):
            trainer.should_stop = True

    def _pass_time(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def _write(self) -> None:
        """Write all rows anew: they are few, and an attempt before may have written more."""
        path = self.directory / store.METRICS
        with files.replacing(path) as draft, draft.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.rows[0])
            writer.writeheader()
            writer.writerows(self.rows)

    def _log(self, row: Mapping[str, Any]) -> None:
        operations = self.space.operations  # W&B draws numbers
        figures = {
            key: operations.index(value) if isinstance(value, str) else value
            for key, value in row.items()
        }
        self.tracker.log(figures, step=int(row["epoch"]))


def _describe(module: DifferentiableSearch, space: Space) -> dict[str, Any]:
    """Temperature, entropy, expected time, and what is chosen how clearly at every site."""
    log_p_GK = module.architecture.log_probabilities(module.temperature).detach()
    row: dict[str, Any] = {
        "temperature": module.temperature,
        "entropy": float(module.architecture.entropy(log_p_GK)),
    }
    time = module.architecture.expected_time(log_p_GK)
    if time is not None:
        row["relative_latency"] = float(time)
    p_GK = log_p_GK.exp().tolist()
    by_site = {site: p_GK[group] for site, group in zip(space.sites, space.group_of, strict=True)}
    for site, p_K in by_site.items():
        row[CHOSEN + site] = space.operations[p_K.index(max(p_K))]
    for site, p_K in by_site.items():
        for name, p in zip(space.operations, p_K, strict=True):
            row[f"{PROBABILITY}{site}.{name}"] = p
    return row
