"""A sweep in its phases: check all variants, measure their speed, train.

The parent computes nothing: everything that needs torch happens in fresh processes.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pfstudy import files, inventory, lease, ledger, store, tracking
from pfstudy.data import identify
from pfstudy.errors import PfstudyError
from pfstudy.identity import RULES
from pfstudy.launch.display import Display
from pfstudy.launch.measure import measure_speed
from pfstudy.launch.pool import PRELOAD, PRELOAD_TRACKING, Pool
from pfstudy.launch.training import RunTrainer
from pfstudy.launch.tuning import tune_variants
from pfstudy.schema.closure import source_files
from pfstudy.schema.config import Config
from pfstudy.schema.designs import parse_constraints
from pfstudy.schema.operations import ORIGINAL, find_operation
from pfstudy.speed import archive
from pfstudy.speed.results import Network
from pfstudy.speed.setting import check_settings, expected_place
from pfstudy.tasks import Checked, Device, place_of
from pfstudy.tuning import check_tuning
from pfstudy.variant import Variant, make_variant
from pfstudy.words import counted

_MOST_PLACES = 3


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        root: Directory of the run directories.
        study: Name of the study that its runs belong to.
        members: Run directories of the sweep, relative to ``root``.
        failed: Reason by name of the run, for those that failed.
    """

    root: Path
    study: str
    members: tuple[str, ...]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Prepared:
    """A sweep before its first process; nothing of it has been written.

    Attributes:
        root: Directory of the run directories.
        study: Name of the study that its runs belong to.
        asked: The variants as asked for; some may coincide.
        runs: Each variant with each seed, once.
        notes: What a person should know of their identities.
    """

    root: Path
    study: str
    asked: tuple[Variant, ...]
    runs: tuple[store.Run, ...]
    notes: tuple[str, ...] = ()


def run_sweep(
    configs: Sequence[Config],
    *,
    train: bool = True,
    patient: bool = True,
    is_whole: bool = True,
) -> SweepResult:
    """Train every variant with every seed, unless it is done.

    A sweep of which every run is done or failed is a look at its study.

    Args:
        configs: The variants as asked for; those that coincide are trained once.
        train: Whether to train, or only to check, to measure and to make the run directories.
        patient: Whether to wait until speed can be measured, or else to do without: jobs that a
            cluster has started beside each other would train one after the other.
        is_whole: Whether these are all variants of the sweep, or those of one job of a cluster,
            whose end is no look.

    Raises:
        PfstudyError: Something is wrong with the sweep; nothing has been written then.
    """
    prepared = prepare_sweep(configs)
    with Display() as display:
        sweep = _Sweep(display, prepared.root, prepared.study, prepared.runs)
        sweep.announce(prepared.asked, prepared.notes)
        sweep.run_phases(train=train, patient=patient)
        if train:  # one that asked for what was done before
            tracking.answer_agent(sweep.runs[0].directory.absolute(), display.note)
    if train and is_whole:
        store.add_look(prepared.root, prepared.study, sweep.members)
    return SweepResult(prepared.root, prepared.study, sweep.members, sweep.failed)


def prepare_sweep(configs: Sequence[Config]) -> Prepared:
    """List the runs of a sweep, and check what needs no process; writes nothing.

    Args:
        configs: The variants as asked for.

    Raises:
        PfstudyError: Something is wrong with the sweep.
    """
    if any(config.search for config in configs):
        raise PfstudyError("search= is for pfstudy search, and trains nothing here; leave it out.")
    for key in ("runs_dir", "study", "launcher", "logger", "speed"):
        if len({getattr(config, key) for config in configs}) > 1:
            raise PfstudyError(f"{key} must be the same for all runs of a sweep.")
    if len({replace(config.trainer, precision="32-true") for config in configs}) > 1:
        raise PfstudyError("trainer may vary in its precision alone within a sweep.")
    root = Path(configs[0].runs_dir)
    asked, notes = identify_variants(configs)
    runs = list_runs(asked)
    study = configs[0].study.name or default_study_name(list_variants(runs))
    parse_constraints(configs[0].study.constraints)
    if configs[0].speed.enabled:
        check_settings(configs[0].speed)
    for config in configs:
        check_tuning(config)
    store.check_writable(root)
    store.check_looks(root, study, configs[0].study.looks)
    for run in runs:
        store.check_directory(run)
    return Prepared(root, study, tuple(asked), tuple(runs), tuple(notes))


def identify_variants(configs: Sequence[Config]) -> tuple[list[Variant], list[str]]:
    """Make the variants of a sweep; reads each dataset once to identify its content.

    Returns:
        One variant for each config, by older rules where its runs are identified by these; and
        what a person should know of their identities.

    Raises:
        PfstudyError: As `pfstudy.data.fingerprint` and `pfstudy.variant.make_variant`.
    """
    content = cache(identify)
    variants = [store.adopt(make_variant(config, content(config.data))) for config in configs]
    notes = [content(config.data).note for config in configs]
    for name in dict.fromkeys(s.operation for v in variants for s in v.substitutions):
        sources = source_files(find_operation(name))
        if sources and sources.unfollowed:
            notes.append(_unfollowed(name, sources.unfollowed))
    older = list({v.hash: v for v in variants if v.rules < RULES}.values())
    if older:
        notes.append(
            f"{counted(len(older), 'variant')} identified by an older rule, as existing runs are: "
            "names and sizes of files agree, their content is not verified; pfstudy why explains"
        )
    return variants, list(dict.fromkeys(filter(None, notes)))


def _unfollowed(name: str, places: Sequence[str]) -> str:
    listed = "; ".join(places[:_MOST_PLACES])
    more = f"; {len(places) - _MOST_PLACES} more" if len(places) > _MOST_PLACES else ""
    return f"the identity of {name} does not cover what these run: {listed}{more}"


def list_runs(asked: Sequence[Variant]) -> list[store.Run]:
    """List the runs of variants, those that coincide once: all variants with the first seed, ..."""
    runs: dict[tuple[int, str], Variant] = {}
    for variant in asked:
        first = variant.config.seed
        for seed in range(first, first + (variant.config.seeds or 1)):
            runs.setdefault((seed, variant.hash), variant)
    by_seed = sorted(runs.items(), key=lambda item: item[0][0])
    return [store.make_run(variant, seed) for (seed, _), variant in by_seed]


def list_variants(runs: Sequence[store.Run]) -> list[Variant]:
    """List the variants of runs, each once."""
    return list({run.variant.hash: run.variant for run in runs}.values())


def summarize(
    study: str, runs: Sequence[store.Run], states: Sequence[ledger.State] | None = None
) -> str:
    """Say how many variants and runs a study has, and in which states they are."""
    if states is None:
        states = [ledger.state_of(run.directory) for run in runs]
    numbers = Counter(states)
    counts = [counted(len(list_variants(runs)), "variant"), counted(len(runs), "run")]
    counts.append(f"{numbers.pop('done', 0)} done before")
    counts += [f"{number} {state}" for state, number in numbers.items() if state != "pending"]
    return f"{study}: {', '.join(counts)}"


def name_runs(runs: Sequence[store.Run]) -> dict[Path, str]:
    """Name runs for messages, by their directories: what differs between them is in the name."""
    return inventory.name_runs([inventory.describe_run(run) for run in runs])


def default_study_name(variants: Sequence[Variant]) -> str:
    """Name a study after its variants, whatever their order."""
    digest = hashlib.sha256("".join(sorted(v.hash for v in variants)).encode()).hexdigest()
    config = variants[0].config
    parts = [config.study.preset, config.model.name, config.data.name, digest[:8]]
    return files.file_name("-".join(filter(None, parts)))


class _Sweep:
    """The phases of one sweep over what they share."""

    def __init__(
        self,
        display: Display,
        root: Path,
        study: str,
        runs: Sequence[store.Run],
    ) -> None:
        self.display = display
        self.root = root
        self.study = study
        self.config = runs[0].variant.config
        self.place = expected_place(self.config)
        self.failed: dict[str, str] = {}
        self._take(runs)

    def _take(self, runs: Sequence[store.Run]) -> None:
        self.runs = runs
        self.variants = list_variants(runs)
        self.states = [ledger.state_of(run.directory) for run in runs]
        self.todo = [r for r, state in zip(runs, self.states, strict=True) if state != "done"]
        self.names = name_runs(runs) if self.todo else {}
        self.members = tuple(str(run.directory.relative_to(self.root)) for run in runs)

    def announce(self, asked: Sequence[Variant], notes: Sequence[str]) -> None:
        """Say what will be done, and which of the variants asked for are none of their own."""
        self.display.phase("study", summarize(self.study, self.runs, self.states))
        for note in [*notes, *why_unchanged(asked)]:
            self.display.note(note)
        for note in scaled_rates(asked):
            self.display.note(note)
        num_same = len(asked) - len({(v.hash, v.config.seed) for v in asked})
        if num_same:
            self.display.note(f"{counted(num_same, 'variant')} coincide with others")

    def timed(self) -> list[Variant]:
        """The variants whose speed is asked for."""
        return [variant for variant in self.variants if variant.config.speed.enabled]

    def unmeasured(self) -> list[Variant]:
        """The variants whose speed is asked for and not known at the place."""
        return [v for v in self.timed() if archive.find_measured(v, self.place) is None]

    def run_phases(self, *, train: bool, patient: bool) -> None:
        """Check, measure and train what is not done."""
        if not self.todo and not self.unmeasured():
            self._add_to_study()
            self._place_known()
            return
        tracked = self.config.logger.name != "none" and bool(self.todo)
        preload = PRELOAD + PRELOAD_TRACKING if tracked else PRELOAD
        with Pool(preload, self.config.launcher.stop_seconds) as pool:
            started = time.monotonic()
            self.display.phase("check", "importing torch, building every variant")
            self.display.bar("importing")
            # wandb is imported here while the forkserver imports the rest
            mode = tracking.choose_mode(self.config.logger) if tracked else "disabled"
            checked: Checked = pool.call("pfstudy.launch.check:check_variants", self.variants)
            self.display.drop_bar("importing")
            self._drop(checked.dropped)
            for label, number in checked.projected.items():
                sites = counted(number, "site")
                self.display.note(f"{label}: a 1x1 convolution follows it at {sites}")
            for note in checked.notes:
                self.display.note(note)
            self.display.note(f"done in {time.monotonic() - started:.1f} s")
            for run in self.todo:
                store.prepare(run)
            self._add_to_study()
            device = checked.speed_device
            self.place = place_of(device)
            unmeasured = self.unmeasured()
            if unmeasured and not patient and not lease.is_free(device.id):
                self.display.note("speed is not measured: other runs use the device")
            elif unmeasured:
                self._measure(pool, device, unmeasured)
            self._place_known()
            if not train:
                return
            if mode != "disabled" and self.todo:
                pool.environment |= tracking.start_service()
            trainer = RunTrainer(pool, self.display, checked.devices, mode, self.place)
            try:
                if self.todo:
                    tune_variants(list_variants(self.todo), self.study, self.display, trainer)
                    self.failed = trainer.train(self.todo, self.names, self.study)
            finally:
                self._stop(pool)
                if mode != "disabled":
                    tracking.stop_service()

    def _measure(self, pool: Pool, device: Device, variants: Sequence[Variant]) -> None:
        known = {variant.hash for variant in self.variants}
        networks: dict[str, Network] = {}

        def keep(variant: Variant, result: Mapping[str, Any]) -> None:
            add = archive.save if variant.hash in known else archive.add
            networks[variant.architecture_hash] = add(variant, result)

        measure_speed(pool, self.display, device, variants, keep, self.timed())
        archive.take_results(networks.values(), self.root)  # of other recipes, too

    def _place_known(self) -> None:
        """Put what `pfstudy speed` has measured where tables look for it."""
        for variant in self.timed():
            archive.place_beside(variant, self.place)

    def _add_to_study(self) -> None:
        store.add_to_study(self.root, self.study, self.runs, self.config.study.looks)

    def _stop(self, pool: Pool) -> None:
        """End what is still running; each run writes a checkpoint first."""
        if pool.children:
            self.display.note(
                f"stopping: {counted(len(pool.children), 'process')} may write a checkpoint, "
                f"within {pool.stop_s:.0f} s; Ctrl-C again stops at once"
            )
            pool.stop()

    def _drop(self, dropped: Mapping[str, str]) -> None:
        """Leave out the variants that do not satisfy the study's constraints."""
        if not dropped:
            return
        for constraint, number in Counter(dropped.values()).items():
            self.display.note(f"{constraint} drops {counted(number, 'variant')}")
        left = [run for run in self.runs if run.variant.hash not in dropped]
        if not left:
            raise PfstudyError("study.constraints leave no variant to train; loosen them.")
        self._take(left)


def scaled_rates(asked: Sequence[Variant]) -> list[str]:
    """Say where the batch size has changed the learning rate."""
    recipes = (variant.config.recipe for variant in asked)
    notes = (
        f"recipe.lr of {recipe.lr:g} is for {recipe.lr_batch_size} images per step; for "
        f"{recipe.batch_size} it is {recipe.scaled_lr:g}"
        for recipe in recipes
        if recipe.lr_batch_size not in (None, recipe.batch_size)
    )
    return list(dict.fromkeys(notes))


def why_unchanged(asked: Sequence[Variant]) -> list[str]:
    """Say of the variants that are baselines what was asked for and changes nothing."""
    unchanged = [variant for variant in asked if variant.is_baseline]
    return list(dict.fromkeys(filter(None, map(_why_unchanged, unchanged))))


def _why_unchanged(variant: Variant) -> str | None:
    """Say what was asked for and changes nothing, if anything was."""
    model, sites = variant.config.model, variant.config.sites
    asked = dict.fromkeys(site.operation for site in sites if site.operation != ORIGINAL)
    if asked:
        return (
            f"{' and '.join(asked)} changes nothing: {model.name} has it at its sites; it is the "
            "baseline"
        )
    if any(site.kernel_size or site.norm_act != "auto" for site in sites):
        return "kernel_size and norm_act change nothing where no operation is substituted"
    return None
