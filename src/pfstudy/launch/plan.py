"""What a sweep would do and take: every variant is tried for a moment, and nothing is written."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pfstudy import store
from pfstudy.errors import PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.planned import (
    MODEL,
    Duplicate,
    Plan,
    PlannedRun,
    PlannedVariant,
    estimate,
    read_run,
    reconcile_latencies,
    recorded_cost,
    runs_per_device,
    schedule_s,
)
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.launch.sweep import (
    Prepared,
    list_variants,
    prepare_sweep,
    scaled_rates,
    why_unchanged,
)
from pfstudy.launch.training import choose_slots
from pfstudy.launch.trials import NOWHERE, Candidate, Trials, Tried
from pfstudy.launch.tuning import list_trials
from pfstudy.schema.config import Config
from pfstudy.speed import archive
from pfstudy.speed.blocktable import Prediction, TableFinder
from pfstudy.speed.setting import expected_place, setting_of
from pfstudy.tasks import Checked, Device, Slot, place_of
from pfstudy.variant import Variant, flatten, label_of, varying_settings
from pfstudy.words import counted
from pfstudy.worker.findings import Trial

_NO_MATTER_FOR_TIME = (
    *("epochs", "lr", "lr_batch_size", "momentum", "weight_decay", "label_smoothing"),
    *("schedule", "warmup_epochs", "warmup_lr", "min_lr", "step_epochs", "step_factor"),
)
_NORM_ACT = {"auto": "", "keep": "+norm", "drop": "-norm"}


def make_plan(configs: Sequence[Config], seconds: float = 1.0) -> Plan:
    """Find out what a sweep would do, without training.

    Args:
        configs: The variants as asked for.
        seconds: How long each network is trained to see what that takes.

    Raises:
        PfstudyError: The sweep would be refused, and not for variants alone whose networks cannot
            be built; these are part of the plan.
    """
    prepared = prepare_sweep(configs)
    with Display() as display:
        return _Planner(display, prepared, seconds).make()


class _Planner:
    """Makes the plan of one sweep."""

    def __init__(self, display: Display, prepared: Prepared, seconds: float) -> None:
        self.display = display
        self.prepared = prepared
        self.seconds = seconds
        self.config = prepared.runs[0].variant.config
        self.place = expected_place(self.config)
        self.variants = list_variants(prepared.runs)
        self.planned = {run.directory: read_run(run) for run in prepared.runs}
        self.problems: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.tried: dict[str, Tried] = {}
        self.tables = TableFinder(prepared.root)
        self.slots: Sequence[Slot] = ()

    def make(self) -> Plan:
        """Try what is not done, and put everything together."""
        self._announce()
        if self._to_train():
            with Pool(PRELOAD) as pool:
                devices, speed_device = self._check(pool)
                if self._to_train():
                    self._try(pool, devices, speed_device)
        self._settle_device()
        return self._assemble()

    def _to_train(self) -> list[Variant]:
        """The variant of every run that a sweep would train, as far as is known."""
        return [
            run.variant
            for run in self.prepared.runs
            if self.planned[run.directory].is_left
            and run.variant.hash not in self.dropped
            and run.variant.hash not in self.problems
        ]

    def _announce(self) -> None:
        states = Counter(run.state for run in self.planned.values())
        counts = [counted(len(self.variants), "variant"), counted(len(self.planned), "run")]
        counts.append(f"{states['done']} done before")
        self.display.phase("plan", f"{self.prepared.study}: {', '.join(counts)}")
        asked = self.prepared.asked
        for note in [*self.prepared.notes, *why_unchanged(asked), *scaled_rates(asked)]:
            self.display.note(note)

    def _check(self, pool: Pool) -> tuple[Sequence[Device], Device]:
        """Check as a sweep does; what does not fit, or is dropped, is remembered."""
        started = time.monotonic()
        self.display.phase("check", "importing torch, building every variant")
        self.display.bar("importing")
        checked = self._check_fitting(pool)
        self.display.drop_bar("importing")
        self.dropped.update(checked.dropped)
        for constraint, number in Counter(checked.dropped.values()).items():
            self.display.note(f"{constraint} drops {counted(number, 'variant')}")
        if len(self.dropped) == len(self.variants):
            raise PfstudyError("study.constraints leave no variant to train; loosen them.")
        for label, number in checked.projected.items():
            sites = counted(number, "site")
            self.display.note(f"{label}: a 1x1 convolution follows it at {sites}")
        for note in checked.notes:
            self.display.note(note)
        self.display.note(f"done in {time.monotonic() - started:.1f} s")
        device = checked.speed_device
        self.place = place_of(device)
        return checked.devices, device

    def _check_fitting(self, pool: Pool) -> Checked:
        check: Callable[[Sequence[Variant]], Checked] = partial(
            pool.call, "pfstudy.launch.check:check_variants", log=NOWHERE
        )
        try:
            return check(self.variants)
        except PfstudyError:
            find_misfits = partial(pool.call, "pfstudy.worker.trial:find_misfits", log=NOWHERE)
            self.problems.update(find_misfits(self.variants))
            if not self.problems:
                raise
        fitting = [v for v in self.variants if v.hash not in self.problems]
        # where none fits, a backbone shows what is wrong besides
        return check(fitting or [self.variants[0].without_weights().baseline()])

    def _try(self, pool: Pool, devices: Sequence[Device], speed_device: Device) -> None:
        """Try one variant of each that train alike."""
        left = self._to_train()
        self.slots = choose_slots(pool, self.display, left[0], devices, len(left))
        alike: dict[str, dict[str, Variant]] = {}
        for variant in left:
            alike.setdefault(_training_key(variant), {})[variant.hash] = variant
        groups = [list(same.values()) for same in alike.values()]
        candidates = [Candidate(same[0], any(map(self._lacks_speed, same))) for same in groups]
        threads = counted(self.config.trainer.num_threads, "thread")
        self.display.phase(
            "try",
            f"{counted(len(candidates), 'network')} for {self.seconds:g} s, "
            f"{counted(len(self.slots), 'process')} at a time, {threads} each",
        )
        started = time.monotonic()
        launcher = self.config.launcher
        trials = Trials(pool, self.display, self.slots, speed_device, self.seconds, launcher)
        for same, tried in zip(groups, trials.run(candidates), strict=True):
            self.tried.update({variant.hash: tried for variant in same})
            if tried.problem is not None:
                self.problems.update({variant.hash: tried.problem for variant in same})
        self.display.note(f"done in {time.monotonic() - started:.1f} s")

    def _lacks_speed(self, variant: Variant) -> bool:
        known = archive.find_measured(variant, self.place) or self._predict(variant)
        return self.config.speed.enabled and known is None

    def _predict(self, variant: Variant) -> Prediction | None:
        """What the block table of the variant's backbone says, if there is one."""
        table = self.tables.find(variant, self.place)
        return None if table is None else table.predict(variant)

    def _settle_device(self) -> None:
        """Where no check has named the device: the one of which most latencies are known."""
        if "device" in self.place:
            return
        known = Counter(device for variant in self.variants for device in self._devices(variant))
        if not known:
            tables = (self.tables.find(variant, self.place) for variant in self.variants)
            known = Counter(table.setting["device"] for table in tables if table)
        if known:
            self.place = {**self.place, "device": known.most_common(1)[0][0]}

    def _devices(self, variant: Variant) -> list[str]:
        """The devices on which a variant was measured in its setting."""
        speeds = store.read_speeds(store.variant_directory(variant))
        devices = dict.fromkeys(str(measured["device"]) for measured in speeds)
        return [d for d in devices if archive.find_measured(variant, {**self.place, "device": d})]

    def _assemble(self) -> Plan:
        runs: dict[str, list[PlannedRun]] = {}
        times = []
        for run in self.prepared.runs:
            planned = estimate(self.planned[run.directory], self._trial(run.variant))
            runs.setdefault(run.variant.hash, []).append(planned)
            if planned.seconds_left and run.variant.hash not in self.dropped:
                times.append(planned.seconds_left)
        settings = _varying(self.variants)
        found = [self._row(v, settings[v.hash], runs[v.hash]) for v in self.variants]
        rows = {row.variant.hash: row for row in reconcile_latencies(found)}
        trials = self._plan_tuning(runs)
        trial_times = [trial.seconds_left for trial in trials if trial.seconds_left]
        num_slots = len(self.slots)
        per_run = len(self.slots[0].devices) if self.slots else 1
        return Plan(
            self.prepared.study,
            tuple(row for key, row in rows.items() if key not in self.dropped),
            tuple((rows[key], constraint) for key, constraint in self.dropped.items()),
            _find_duplicates(self.prepared.asked, rows),
            num_slots,
            per_run,
            schedule_s(trial_times, num_slots) + schedule_s(times, num_slots),
            sum(trial_times + times) * per_run / runs_per_device(self.slots) / 3600,
            {**self.place, **setting_of(self.config.speed)},
            trials,
            schedule_s(trial_times, num_slots),
        )

    def _plan_tuning(self, runs: Mapping[str, Sequence[PlannedRun]]) -> tuple[PlannedRun, ...]:
        """The trials of the variants that would be trained, each once."""
        found: dict[Path, PlannedRun] = {}
        for variant in self.variants:
            left = any(run.is_left for run in runs[variant.hash])
            if left and variant.hash not in self.dropped and variant.hash not in self.problems:
                for run in list_trials(variant):
                    found[run.directory] = estimate(read_run(run), self._trial(variant))
        return tuple(found.values())

    def _trial(self, variant: Variant) -> Trial | None:
        tried = self.tried.get(variant.hash)
        return tried.findings.trial if tried and tried.findings else None

    def _row(
        self, variant: Variant, settings: Mapping[str, Any], runs: Sequence[PlannedRun]
    ) -> PlannedVariant:
        tried = self.tried.get(variant.hash)
        cost = tried.cost if tried else recorded_cost(runs)
        measured = archive.find_measured(variant, self.place)
        is_predicted = self.config.speed.enabled and not measured
        table = self.tables.find(variant, self.place) if is_predicted else None
        predicted = table.predict(variant) if table else None
        timed = tried.findings.latency_ms if tried and tried.findings else None
        return PlannedVariant(
            variant,
            settings,
            tuple(runs),
            cost.get("params"),
            cost.get("macs"),
            timed,
            measured is None and (predicted or timed) is not None,
            measured or (vars(table) if predicted else {}),
            predicted,
            self._trial(variant),
            tried.num_parts if tried else 1,
            self.problems.get(variant.hash),
        )


def _training_key(variant: Variant) -> str:
    """What variants share that take the same time and memory to train, or fail in the same way."""
    form, recipe = variant.canonical, variant.config.recipe
    parts = [form.get(key) for key in ("data", "precision", "init", "pretrained")]
    steps = {key: v for key, v in form["recipe"].items() if key not in _NO_MATTER_FOR_TIME}
    parts += [variant.architecture_hash, steps, recipe.momentum > 0]
    return json.dumps(parts, sort_keys=True)


def _varying(variants: Sequence[Variant]) -> dict[str, dict[str, Any]]:
    """The settings in which variants differ, by their identity; the model comes first."""
    models = [variant.config.model.name for variant in variants]
    keys = varying_settings([variant.canonical for variant in variants], models)
    found = {}
    for variant in variants:
        flat = flatten(variant.canonical)
        first = {MODEL: variant.config.model.name} if len(set(models)) > 1 else {}
        found[variant.hash] = first | {key: flat.get(key) for key in keys}
    return found


def _find_duplicates(
    asked: Sequence[Variant], rows: Mapping[str, PlannedVariant]
) -> tuple[Duplicate, ...]:
    groups: dict[tuple[str, int], list[str]] = {}
    for variant in asked:
        groups.setdefault((variant.hash, variant.config.seed), []).append(_asked_as(variant.config))
    return tuple(
        Duplicate(rows[key].name, tuple(texts))
        for (key, _), texts in groups.items()
        if len(texts) > 1
    )


def _asked_as(config: Config) -> str:
    """What a config says of its sites, whether or not that changes anything."""
    operations = {}
    for site in config.sites:
        size = f"{site.kernel_size}x{site.kernel_size}" if site.kernel_size else ""
        operations[site.address] = site.operation + size + _NORM_ACT[site.norm_act]
    return label_of(operations, config.model)
