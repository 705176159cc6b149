"""What a run says of itself while it trains: rows of metrics, its state, reports."""

from __future__ import annotations

import csv
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import lightning as L  # noqa: N812

from pfstudy import store
from pfstudy.data.loading import Loaders
from pfstudy.files import cannot_write
from pfstudy.ledger import Claim
from pfstudy.module import Classifier, diverged, find_divergence
from pfstudy.tracking import Tracker
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.results import save_weights

Report = Callable[[str, Mapping[str, Any]], None]

_REPORT_EVERY_S = 1.0


class Progress(L.Callback):
    """After every epoch: a row of metrics.csv and of W&B, the state, a report.

    Between epochs a report now and then, so that a run that hangs is told from one that is slow.
    What it keeps goes into checkpoints, so that a run that was interrupted loses nothing of it.

    Args:
        directory: The run directory.
        num_epochs: Number of epochs.
        keep_best: Whether the weights of the best epoch by validation are kept.
        ranks: The processes of the run; the first one writes.
        claim: The first one's, which says how far the run is.
        tracker: Where rows are logged.
        report: Told of every epoch, of progress between them, and of images that are skipped.
        loaders: Know which those are.

    Attributes:
        rows: A row for every epoch that has ended.
        train_seconds: Time spent on training steps, over all attempts.
        seconds: Time spent on training and validation, over all attempts.
        skipped: Why each image that could not be read was skipped, by any process.
    """

    def __init__(
        self,
        directory: Path,
        num_epochs: int,
        *,
        keep_best: bool,
        ranks: Ranks,
        claim: Claim | None,
        tracker: Tracker,
        report: Report,
        loaders: Loaders,
    ) -> None:
        self.loaders = loaders
        self.directory = directory
        self.num_epochs = num_epochs
        self.keep_best = keep_best
        self.ranks = ranks
        self.claim = claim
        self.tracker = tracker
        self.report = report
        self.rows: list[dict[str, float]] = []
        self.train_seconds = 0.0
        self.seconds = 0.0
        self._best = -1.0
        self._reported = 0.0
        self.skipped: dict[str, str] = {}
        self._epoch_started = self._since = time.perf_counter()
        self._is_validating = False

    @property
    def validated(self) -> dict[str, float]:
        """Figures of the last validation, which may have been an earlier attempt's."""
        return {key: figure for key, figure in self.rows[-1].items() if key.startswith("val_")}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_started = self._since = time.perf_counter()
        if not (self.ranks.is_first and self.rows):
            return
        self._write_rows(self.rows, "w")
        for row in self.rows:  # this attempt's run of W&B has all the curves
            self.tracker.log(row, step=int(row["epoch"]))

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._epoch_started = self._since = time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._say(trainer, (batch_idx + 1) / trainer.num_training_batches)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pass_time(is_training=True)
        self._is_validating = True
        assert isinstance(pl_module, Classifier)
        self.ranks.share_buffers(pl_module.evaluated_network)

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any
    ) -> None:
        self._say(trainer, 1.0)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._pass_time(is_training=False)
        self._is_validating = False

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch = trainer.current_epoch + 1
        losses = self.ranks.gather(pl_module.train_losses.tolist())
        row = {
            "epoch": epoch,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": fmean(itertools.chain(*losses)),
            **pl_module.evaluated,
            "seconds": round(time.perf_counter() - self._epoch_started, 4),
        }
        self.rows.append(row)
        if self.ranks.is_first:
            self._write_rows([row], "w" if epoch == 1 else "a")
        self._gather_skipped()
        step = find_divergence(losses, pl_module.num_parts)
        if step is not None:
            raise diverged(epoch, step)
        if not self.ranks.is_first:
            return
        self.tracker.log(row, step=epoch)
        if self.claim is not None:
            top1 = row["val_top1_percent"]
            self.claim.write(epoch=epoch, num_epochs=self.num_epochs, val_top1_percent=top1)
        if self.keep_best and row["val_top1_percent"] > self._best:
            self._best = row["val_top1_percent"]
            save_weights(pl_module.evaluated_network, self.directory / store.BEST_WEIGHTS)
        self.report("epoch", {**row, "num_epochs": self.num_epochs})

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        self.ranks.share_buffers(pl_module.evaluated_network)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._gather_skipped()

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        self._say(trainer, 1.0)

    def state_dict(self) -> dict[str, Any]:
        if not self._is_validating:
            self._pass_time(is_training=True)
        return {
            "rows": self.rows,
            "train_seconds": self.train_seconds,
            "seconds": self.seconds,
            "best": self._best,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self.train_seconds = state_dict["train_seconds"]
        self.seconds = state_dict["seconds"]
        self._best = state_dict["best"]
        self.skipped = state_dict["skipped"]

    def on_save_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, Classifier)
        checkpoint["train_losses"] = self.ranks.gather(pl_module.train_losses.cpu())

    def on_load_checkpoint(
        self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert isinstance(pl_module, Classifier)
        pl_module.train_losses.copy_(checkpoint["train_losses"][self.ranks.rank])

    def _pass_time(self, *, is_training: bool) -> None:
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        self.seconds += passed
        self.train_seconds += passed if is_training else 0.0

    def _say(self, trainer: L.Trainer, share: float) -> None:
        """Report how far the epoch is, but not often."""
        now = time.monotonic()
        if now - self._reported < _REPORT_EVERY_S:
            return
        self._reported = now
        done = min(self.num_epochs, trainer.current_epoch + share)
        self.report("step", {"epochs_done": done, "num_epochs": self.num_epochs})

    def _gather_skipped(self) -> None:
        """Name the images that could not be read, each once, whichever process has met it."""
        of_ranks: list[dict[str, str]] = self.ranks.gather(self.loaders.skipped)
        for path, reason in itertools.chain(*(found.items() for found in of_ranks)):
            if path not in self.skipped:
                self.skipped[path] = reason
                self.report("note", {"text": f"skipped: {reason}"})

    def _write_rows(self, rows: Sequence[Mapping[str, float]], mode: Literal["w", "a"]) -> None:
        path = self.directory / store.METRICS
        try:
            with path.open(mode, newline="") as file:
                writer = csv.DictWriter(file, rows[0])
                if mode == "w":
                    writer.writeheader()
                writer.writerows(rows)
        except OSError as error:
            raise cannot_write(path, error) from None


def print_report(kind: str, details: Mapping[str, Any]) -> None:
    """Print what a run reports where no sweep listens: a line for an epoch, notes as they are."""
    if kind == "note":
        print(details["text"], flush=True)
    elif kind == "epoch":
        where = f"epoch {details['epoch']}/{details['num_epochs']}"
        top1, seconds = details["val_top1_percent"], details["seconds"]
        print(f"{where}: {top1:.2f} % validation top-1, {seconds:.1f} s", flush=True)
