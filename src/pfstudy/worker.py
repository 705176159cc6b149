"""One run, from its directory: trains it unless it is done, and leaves its record."""

from __future__ import annotations

import csv
import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from filelock import FileLock, Timeout
from lightning.pytorch.plugins.environments import (  # type: ignore[attr-defined]
    LightningEnvironment,
)
from safetensors.torch import save_file

from pfstudy import files, lease, ledger, store
from pfstudy.complexity import MACS_CONVENTION, cost
from pfstudy.data import fingerprint
from pfstudy.data.loading import make_loaders
from pfstudy.environment import describe_environment
from pfstudy.errors import PfstudyError
from pfstudy.module import Classifier, check_finite
from pfstudy.network.surgery import build_network, image_shape
from pfstudy.ops import Projected
from pfstudy.schema.config import Config, config_tree, parse_config
from pfstudy.tasks import Task
from pfstudy.tracking import Tracker, choose_mode
from pfstudy.variant import SCHEMA_VERSION, Variant, make_variant

_MOST_LOGITS = 10_000_000
_NUM_TOP = 5
_SPEED_FIGURES = ("latency_ms", "relative_latency", "throughput_images_per_s")

Report = Callable[[str, Mapping[str, Any]], None]


def train_run(task: Task, report: Report) -> str:
    """Train the run of a directory; the same call again does nothing.

    Args:
        task: What to train.
        report: Told of every epoch (``"epoch"``), and of what a person should read (``"note"``).

    Returns:
        ``done``, or ``elsewhere`` if another process trains it just now.

    Raises:
        PfstudyError: The run cannot be trained; its state says why.
    """
    directory = task.directory
    try:
        with FileLock(directory / ".lock", timeout=0):
            if ledger.state_of(directory) == "done":
                return "done"
            _train_and_record(task, report)
            return "done"
    except Timeout:
        return "elsewhere"


def derive_seeds(seed: int) -> dict[str, int]:
    """Derive the seeds of initial weights, data order and augmentation from that of the run."""

    def derive(purpose: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:6], "big")

    return {purpose: derive(purpose) for purpose in ("init", "order", "augmentation")}


def _train_and_record(task: Task, report: Report) -> None:
    directory = task.directory
    attempt = store.read_state(directory).get("attempt", 0) + 1
    store.write_state(directory, "running", attempt=attempt)
    try:
        variant, seed = read_run(directory)
        _train_tracked(task, variant, seed, attempt, report)
        store.write_state(directory, "done")
    except BaseException as error:
        if ledger.state_of(directory) == "done":  # only what comes after the record went wrong
            raise
        if isinstance(error, KeyboardInterrupt | SystemExit):
            store.write_state(directory, "interrupted", reason="asked to stop")
        else:
            reason = str(error).strip() or type(error).__name__
            store.write_state(directory, "failed", reason=reason)
        raise


def _train_tracked(task: Task, variant: Variant, seed: int, attempt: int, report: Report) -> None:
    """Train under a run of W&B, which ends as the attempt does, and write the record."""

    def note(text: str) -> None:
        report("note", {"text": text})

    config = variant.config
    tracker = Tracker(config.logger, task.mode, task.directory, note, lambda: report("offline", {}))
    exit_code = 1
    try:
        tracker.start(
            run_id=f"{variant.hash}-{seed}-{attempt}",
            name=f"{variant.slug}-seed{seed}",
            group=task.study,
            config={**config_tree(config), "seed": seed, "label": variant.label},
        )
        tracker.summarise({k: task.speed[k] for k in _SPEED_FIGURES if k in task.speed})
        waiting = "waiting for a measurement of speed to end"
        with lease.training(task.device, on_wait=lambda: note(waiting)):
            record = _fit(task, variant, seed, tracker, report)
        counted = {key: record["cost"][key] for key in ("params", "macs")}
        tracker.summarise({**record["metrics"], **counted})
        files.write_json(task.directory / store.RECORD, record, durable=True)
        exit_code = 0
    finally:
        tracker.finish(exit_code)


def read_run(directory: Path) -> tuple[Variant, int]:
    """Read back the variant and the seed that a run directory is for.

    Raises:
        PfstudyError: The directory holds no config, or its dataset or checkpoint has changed.
    """
    written = files.read_json(directory / store.CONFIG)
    config = parse_config(written["config"])
    variant = make_variant(config, fingerprint(config.data))
    if variant.hash != written["identity"]["hash"]:
        raise PfstudyError(
            f"{directory}: the dataset, the checkpoint or the source of an operation has changed "
            "since its config was written; "
            "give the command again."
        )
    return variant, written["identity"]["seed"]


def _fit(
    task: Task, variant: Variant, seed: int, tracker: Tracker, report: Report
) -> dict[str, Any]:
    config, seeds = variant.config, derive_seeds(seed)
    torch.set_num_threads(config.trainer.num_threads)
    device = choose_device(config)
    batch_size, evaluation = config.recipe.batch_size, max(256, config.recipe.batch_size)
    loaders = make_loaders(
        config.data, batch_size, evaluation, seeds["order"], seeds["augmentation"], device
    )
    network = build_network(config, seeds["init"])
    module = Classifier(network, config.recipe, config.data.num_classes, len(loaders.train))
    epochs = _Epochs(task.directory / "metrics.csv", config.recipe.epochs, tracker, report)
    trainer = L.Trainer(
        accelerator=device.type if device.type == "cpu" else "gpu",
        devices=1,
        precision=config.trainer.precision,
        max_epochs=config.recipe.epochs,
        callbacks=[epochs],
        plugins=[LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=task.directory,
    )
    torch.manual_seed(seeds["augmentation"])
    with loaders:
        started = time.perf_counter()
        trainer.fit(module, loaders.train, loaders.validation)
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        trainer.test(module, loaders.test, verbose=False)
        test_seconds = time.perf_counter() - started
    _save(task.directory, module)
    num_projected = sum(isinstance(part, Projected) for part in network.modules())
    counted = {
        **asdict(cost(network, image_shape(config.data))),
        "num_projected_sites": num_projected,
    }
    num_images = config.recipe.epochs * len(loaders.train) * batch_size
    training = {
        "seconds": seconds,
        "images_per_second": num_images / epochs.train_seconds,
        "test_seconds": test_seconds,
    }
    return _record(task, variant, seed, seeds, module.evaluated, counted, training, device)


class _Epochs(L.Callback):
    """After every epoch: a row of metrics.csv, a row of W&B, a heartbeat, a report."""

    def __init__(self, path: Path, num_epochs: int, tracker: Tracker, report: Report) -> None:
        self.path = path
        self.num_epochs = num_epochs
        self.tracker = tracker
        self.report = report
        self.started = 0.0
        self.train_seconds = 0.0

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.train_seconds += time.perf_counter() - self.started

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch = trainer.current_epoch + 1
        row = {
            "epoch": epoch,
            "lr": trainer.optimizers[0].param_groups[0]["lr"],
            "train_loss": pl_module.take_train_loss(),
            **pl_module.evaluated,
            "seconds": round(time.perf_counter() - self.started, 4),
        }
        with self.path.open("w" if epoch == 1 else "a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if epoch == 1:
                writer.writeheader()
            writer.writerow(row)
        check_finite(row["train_loss"], epoch)
        self.tracker.log(row, step=epoch)
        store.write_state(self.path.parent, "running")
        self.report("epoch", {**row, "num_epochs": self.num_epochs})


def _save(directory: Path, module: Classifier) -> None:
    """Keep the test predictions of every image, in the order of the split, and the weights."""
    logits = torch.cat(module.logits).cpu()
    labels = torch.cat(module.labels).cpu().numpy()
    if logits.numel() <= _MOST_LOGITS:
        np.savez(directory / "predictions.npz", labels=labels, logits=logits.numpy())
    else:
        top = logits.topk(min(_NUM_TOP, logits.shape[1])).indices.numpy().astype(np.int32)
        np.savez(directory / "predictions.npz", labels=labels, top5=top)
    (directory / store.WEIGHTS).parent.mkdir(exist_ok=True)
    state = {name: tensor.contiguous() for name, tensor in module.network.state_dict().items()}
    save_file(state, directory / store.WEIGHTS)


def _record(
    task: Task,
    variant: Variant,
    seed: int,
    seeds: Mapping[str, int],
    metrics: Mapping[str, float],
    counted: Mapping[str, int],
    training: Mapping[str, float],
    device: torch.device,
) -> dict[str, Any]:
    config = variant.config
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "schema_version": SCHEMA_VERSION,
        "identity": {
            "hash": variant.hash,
            "baseline": variant.baseline_hash,
            "canonical": variant.canonical,
        },
        "variant": {
            "model": config.model.name,
            "label": variant.label,
            "is_baseline": variant.is_baseline,
            "original": "/".join(dict.fromkeys(p.original for p in config.model.sites)),
            "operations": variant.operations,
        },
        "seed": seed,
        "seeds": dict(seeds),
        "data": config.data.name,
        "recipe": config.recipe.name,
        "metrics": dict(metrics),
        "cost": {**counted, "macs_convention": MACS_CONVENTION},
        "training": {
            **training,
            "epochs": config.recipe.epochs,
            "effective_batch_size": config.recipe.batch_size,
            "world_size": 1,
            "num_threads": config.trainer.num_threads,
            "precision": config.trainer.precision,
        },
        "environment": {**task.environment, "device": name},
    }


def choose_device(config: Config) -> torch.device:
    """The device that a config asks for, among those that this process sees.

    Raises:
        PfstudyError: There is none.
    """
    wanted = config.trainer.accelerator
    if wanted == "gpu" and not torch.cuda.is_available():
        raise PfstudyError("trainer.accelerator=gpu, but there is no GPU here; use auto or cpu.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def main() -> None:
    """Train the run of the directory that is given: ``python -m pfstudy.worker RUN_DIR``."""
    try:
        if len(sys.argv) != 2:
            raise PfstudyError("give one run directory: python -m pfstudy.worker RUN_DIR.")
        _train_directory(Path(sys.argv[1]))
    except PfstudyError as error:
        print(f"pfstudy: {error}", file=sys.stderr)
        sys.exit(2)


def _train_directory(directory: Path) -> None:
    config = parse_config(files.read_json(directory / store.CONFIG)["config"])
    task = Task(
        directory,
        study=config.study.name or directory.parent.name,
        mode=choose_mode(config.logger),
        environment=describe_environment(),
    )

    def say(kind: str, details: Mapping[str, Any]) -> None:
        print(kind, dict(details), flush=True)

    train_run(task, say)


if __name__ == "__main__":
    main()
