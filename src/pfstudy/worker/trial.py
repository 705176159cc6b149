"""A few steps of training, to see what a run would take; nothing is written."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from statistics import mean, median
from typing import Any

import lightning as L  # noqa: N812
import torch

from pfstudy import lease
from pfstudy.complexity import variant_cost
from pfstudy.data import count_readers
from pfstudy.data.order import Share
from pfstudy.errors import PfstudyError
from pfstudy.network.inspection import check_backbone
from pfstudy.network.substitutions import check_substitutions
from pfstudy.network.surgery import backbone_key, build_network
from pfstudy.schema.designs import parse_constraints
from pfstudy.schema.imports import import_modules
from pfstudy.speed.measure import measure_in_process
from pfstudy.speed.memory import peak_bytes, start_counting
from pfstudy.variant import Variant
from pfstudy.worker.checkpoints import Conditions
from pfstudy.worker.findings import Findings, Trial, Wanted
from pfstudy.worker.progress import Report
from pfstudy.worker.ranks import Ranks
from pfstudy.worker.run import kind_of
from pfstudy.worker.trainer import (
    choose_device,
    derive_seeds,
    make_module,
    make_trainer,
    open_loaders,
)

_NUM_EPOCHS = 100_000
_MOST_WARMUP = 10
_VALIDATION_BATCHES = 2
_REPORT_EVERY_S = 1.0


def examine(variant: Variant, wanted: Wanted, report: Report) -> Findings:
    """Find out what a variant costs and what its training takes, as far as it can be trained.

    Args:
        variant: The variant.
        wanted: What to find out.
        report: Told of ``params`` and ``macs`` (``"cost"``), now and then that training goes on
            (``"step"``), of the ``kind`` of a failure (``"failed"``), and of what a person should
            read (``"note"``).

    Raises:
        PfstudyError: It cannot be trained.
    """

    def note() -> None:
        report("note", {"text": "waiting for a measurement of speed to end"})

    try:
        counted = variant_cost(variant)
        report("cost", {"params": counted.params, "macs": counted.macs})
        with lease.training_on(wanted.devices, note, lambda: report("waiting", {})):
            trial = _train(variant, wanted, report)
            return Findings(trial, _latency_ms(variant, wanted, report))
    except Exception as error:
        report("failed", {"kind": kind_of(error)})
        raise


def try_training(variant: Variant, seconds: float, report: Report) -> Trial:
    """Train for a while as a run would, on one device.

    Args:
        variant: What to train.
        seconds: How long, but at least for two steps.
        report: Told now and then that training goes on (``"step"``).

    Raises:
        PfstudyError: It cannot be trained.
    """
    return _train(variant, Wanted(seconds, num_parts=variant.config.trainer.accumulation), report)


def find_misfits(variants: Sequence[Variant], report: Report) -> dict[str, str]:
    """Find the variants whose networks cannot be built, although their backbones can.

    Args:
        variants: The variants.
        report: Not told anything.

    Returns:
        Why not, by the identity of the variant.
    """
    del report
    import_modules(name for variant in variants for name in variant.config.imports)
    backbones: dict[str, Any] = {}
    misfits = {}
    constraints = parse_constraints(variants[0].config.study.constraints)
    limits = [constraint for constraint in constraints if constraint.metric == "sites"]
    for variant in variants:
        number = {"sites": len(variant.substitutions)}
        if not all(limit.holds(number, {"sites": 0}) for limit in limits):
            continue  # is dropped before it is looked at
        key = backbone_key(variant.config)
        if key not in backbones:
            try:
                backbones[key] = check_backbone(variant.config)
            except PfstudyError:
                backbones[key] = None
        if backbones[key] is None:
            continue
        try:
            check_substitutions(backbones[key], variant.substitutions)
            if variant.config.init_from:
                build_network(variant.config, seed=0)
        except PfstudyError as error:
            misfits[variant.hash] = str(error)
    return misfits


def _train(variant: Variant, wanted: Wanted, report: Report) -> Trial:
    started = time.perf_counter()
    config = variant.config
    config = replace(config, recipe=replace(config.recipe, epochs=_NUM_EPOCHS))
    conditions = Conditions(config.trainer.num_threads, num_parts=wanted.num_parts)
    torch.set_num_threads(conditions.num_threads)
    device = choose_device(config)
    before = start_counting(device)
    share = Share(num_ranks=wanted.num_ranks, num_parts=wanted.num_parts)
    loaders = open_loaders(config, config.seed, share, device)
    num_steps = len(loaders.train) // wanted.num_parts
    seed = derive_seeds(config.seed)["init"]
    module = make_module(config, seed, num_steps, wanted.num_parts, device)
    wave = max(1, count_readers(config.data))
    clock = _Clock(wanted.seconds, wave, started, device, report)
    trainer = make_trainer(
        config,
        device,
        Ranks(),
        conditions,
        [clock],
        limit_val_batches=max(_VALIDATION_BATCHES, wave),
    )
    with loaders:
        trainer.fit(module, loaders.train, loaders.validation)
        number = len(loaders.train), len(loaders.validation), len(loaders.test)
    num_images = config.recipe.batch_size / (wanted.num_ranks * wanted.num_parts)
    return Trial(
        seconds_per_step=clock.train_seconds / clock.num_timed,
        images_per_s=clock.num_timed * num_images / clock.elapsed_s,
        seconds_per_evaluation_batch=_typical(clock.evaluation_seconds),
        seconds_between_epochs=max(0.0, _typical(clock.between_seconds)),
        seconds_to_start=clock.seconds_to_start,
        num_steps=number[0],
        num_validation_batches=number[1],
        num_test_batches=number[2],
        peak_memory_bytes=max(0, peak_bytes(device) - before),
    )


class _Clock(L.Callback):
    """Times steps, validations and what is between them, and ends training after a while.

    Steps are timed many at once, with whatever waits for data in between. Where processes read the
    data, the batches of the first wave, one of each process, arrive all at once and late, so that
    wave is not timed.

    Args:
        seconds: How long to time steps, but at least one.
        num_warmup: Number of steps in front of them, unless they take very long.
        started: When the process began.
        device: Where training runs.
        report: Told now and then that training goes on.
    """

    def __init__(
        self,
        seconds: float,
        num_warmup: int,
        started: float,
        device: torch.device,
        report: Report,
    ) -> None:
        self.seconds = seconds
        self.num_warmup = num_warmup
        self.device = device
        self.report = report
        self.train_seconds = self.elapsed_s = self.seconds_to_start = 0.0
        self.num_timed = 0
        self.evaluation_seconds: list[float] = []
        self.between_seconds: list[float] = []
        self._started = started
        self._num_steps = self._num_since = self._num_evaluated = 0
        self._first = self._began = self._since = self._validated = self._reported = 0.0
        self._changed: float | None = None  # when the epoch's last step had ended

    def on_train_start(self, *_: Any) -> None:
        self.seconds_to_start = self._now() - self._started

    def on_train_epoch_start(self, *_: Any) -> None:
        self._since, self._num_since = self._now(), 0
        if self._changed is not None:
            whole = self._since - self._changed
            self.between_seconds.append(whole - (self._validated - self._changed))
            self._changed = None

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._num_steps += 1
        self._say()
        if self._num_steps <= self.num_warmup:
            self._warm_up()
            return
        self._num_since += 1
        if time.perf_counter() - self._began >= self.seconds:
            trainer.should_stop = True

    def on_validation_start(self, *_: Any) -> None:
        now = self._now()
        if self._num_since:
            self.train_seconds += now - self._since
            self.num_timed += self._num_since
            self._num_since = 0
            self.elapsed_s = now - self._began
        self._changed, self._num_evaluated = now, 0

    def on_validation_batch_end(self, *_: Any) -> None:
        self._say()
        self._num_evaluated += 1
        self._validated = self._now()

    def on_validation_end(self, *_: Any) -> None:
        assert self._changed is not None
        whole = self._validated - self._changed
        self.evaluation_seconds.append(whole / self._num_evaluated)

    def _warm_up(self) -> None:
        now = self._now()
        self._first = self._first or now
        if now - self._first > _MOST_WARMUP * self.seconds:
            self.num_warmup = self._num_steps
        self._began = self._since = now

    def _say(self) -> None:
        now = time.perf_counter()
        if now - self._reported > _REPORT_EVERY_S:
            self._reported = now
            self.report("step", {})

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _typical(seconds: Iterable[float]) -> float:
    """Mean without the first one, which warms up, if there are others; 0 of nothing."""
    first, *others = [*seconds] or [0.0]
    return mean(others or [first])


def _latency_ms(variant: Variant, wanted: Wanted, report: Report) -> float | None:
    """Median time of a few forward passes; a sweep would train a network that cannot be timed."""
    if wanted.latency_on is None:
        return None
    gc.collect()  # what has been trained: the Trainer is part of a circle
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    settings = variant.config.speed
    if settings.num_threads > len(os.sched_getaffinity(0)):
        os.sched_setaffinity(0, wanted.cores)

    def measure(num_warmup: int, num_rounds: int) -> float:
        few = replace(settings, num_warmup=num_warmup, num_rounds=num_rounds)
        on_gpu = wanted.latency_on == "gpu"
        timings = measure_in_process([variant], few, on_gpu, (), False, wanted.seconds, report)
        return median(timings.latencies_ms[0])

    with suppress(Exception):
        first = measure(1, 1)
        num_rounds = min(settings.num_rounds, int(1e3 * wanted.seconds / first))
        return measure(min(settings.num_warmup, num_rounds), num_rounds) if num_rounds else first
    return None
