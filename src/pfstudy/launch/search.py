"""`pfstudy search`: checks a search, measures times, runs it in a child, keeps the result."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from pfstudy import files, ledger, searches, store, tracking
from pfstudy.data import identify
from pfstudy.environment import describe_environment
from pfstudy.errors import PfstudyError
from pfstudy.found import found_path, write_found
from pfstudy.identity import REPLACES_KEY, RULES_KEY, Content
from pfstudy.launch.display import Display
from pfstudy.launch.inside import measure_table
from pfstudy.launch.pool import PRELOAD, PRELOAD_TRACKING, Pool
from pfstudy.schema.config import Config
from pfstudy.schema.search import Differentiable, OneShot
from pfstudy.search.drawing import draw, draw_like, limits_of
from pfstudy.search.samplers import check_sampler
from pfstudy.searches import Asked, Times
from pfstudy.space import Choice, Space, make_space
from pfstudy.speed.blocktable import BlockTable, TableFinder, what_stands
from pfstudy.speed.setting import describe_setting, expected_place, setting_of
from pfstudy.stats.integer import Program
from pfstudy.tasks import Device, Task, visible_devices
from pfstudy.variant import Variant, make_variant
from pfstudy.words import counted

_TABLE_S = 34.0
_SIMILAR = 0.02


@dataclass(frozen=True)
class Searched:
    """What a search found.

    Attributes:
        name: Of the search, and of what it found.
        asked: What it was asked for.
        record: What it left.
        choice: The network.
        path: Its file, usable as ``+found=NAME``.
    """

    name: str
    asked: Asked
    record: Mapping[str, Any]
    choice: Choice
    path: Path

    @property
    def relative_latency(self) -> float | None:
        """Predicted time, relative to the unsubstituted backbone; ``None`` without a table."""
        return None if self.asked.times is None else self.asked.times.predict(self.choice)


def search_all(configs: Sequence[Config]) -> tuple[list[Searched], dict[str, str]]:
    """Search as each of some configs says; what was searched before is not again.

    Returns:
        What was found, and of several searches why some failed.

    Raises:
        PfstudyError: Something is wrong with a search; nothing has been written of it then.
    """
    spaces = [_prepare(config) for config in configs]
    names = [space.search.name for space in spaces if space.search.name is not None]
    if len(set(names)) < len(names):
        raise PfstudyError("search.name is the same for several searches; leave it out.")
    content = cache(identify)
    variants = [_start_of(space.config, content(space.config.data)) for space in spaces]
    found, failed = [], {}
    with Display() as display, _Pools(display, configs[0]) as pools:
        for number, (space, variant) in enumerate(zip(spaces, variants, strict=True), 1):
            try:
                found.append(_search(space, variant, display, pools))
            except PfstudyError as error:
                if len(spaces) == 1:
                    raise
                failed[f"search {number} ({space.search.preset}, seed {space.config.seed})"] = error
    return found, {name: str(error) for name, error in failed.items()}


def choose_found(asked: Asked, record: Mapping[str, Any]) -> Choice:
    """Choose what a search found, within its budget.

    Of a differentiable one the network whose operations are the most probable together, of
    another one the best that was evaluated, and of equally good ones the fastest.

    Args:
        asked: What was asked for.
        record: What the search left.
    """
    space, times = asked.space, asked.times
    if isinstance(space.search, Differentiable):
        values_SK = np.array(
            [[record["log_probabilities"][s][k] for k in space.operations] for s in space.sites]
        )
        program = _program(space, times, values_SK)
        budget = program.most_cost
        if times is not None and space.search.latency is not None:
            budget = space.search.latency - times.rest
        chosen = program.best(budget)
        assert chosen is not None  # the budget was checked before
        return chosen.options

    def merit(evaluation: Mapping[str, Any]) -> tuple[float, float]:
        time = 0.0 if times is None else times.predict(_indices(space, evaluation["operations"]))
        return evaluation["val_top1_percent"], -time

    best = max(record["evaluations"], key=merit)
    return _indices(space, best["operations"])


def comparable_configs(searched: Searched, number: int) -> list[Config]:
    """What to train beside what was found: the backbone, and random networks as fast as it.

    Args:
        searched: What was found.
        number: Number of random networks, or as many as there are whose predicted time is within
            2 %; of the whole space, where times are not known.
    """
    space, times = searched.asked.space, searched.asked.times
    limits = limits_of(space, times, None)
    generator = random.Random(space.config.seed)
    chosen = {searched.choice: None}
    for _ in range(100 * number):
        if len(chosen) > number:
            break
        if times is None:
            drawn = draw(limits, generator)
        else:
            target = times.predict(searched.choice)
            drawn = draw_like(limits, target, _SIMILAR, generator)
            if abs(times.predict(drawn) / target - 1) > _SIMILAR:
                continue
        chosen[drawn] = None
    study = replace(space.config.study, name=f"search-{searched.name}")
    baseline = replace(space.config, search=None)
    return [replace(c, study=study) for c in (baseline, *map(space.place, chosen))]


def _program(space: Space, times: Times | None, values_SK: np.ndarray) -> Program:
    costs_SK = np.zeros_like(values_SK) if times is None else np.array(times.operations)
    return Program(values_SK, costs_SK, space.group_of)


def _indices(space: Space, operations: Mapping[str, str]) -> Choice:
    return tuple(space.operations.index(operations[site]) for site in space.sites)


class _Pools:
    """The processes of searches, started when the first one needs them."""

    def __init__(self, display: Display, config: Config) -> None:
        self._display = display
        self._config = config
        self._pool: Pool | None = None
        self.mode: tracking.Mode = "disabled"

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._pool is not None:
            if self._pool.children:
                seconds = self._config.launcher.stop_seconds
                self._display.note(f"stopping: it may write a checkpoint, within {seconds:.0f} s")
            self._pool.__exit__(*error)
            if self.mode != "disabled":
                tracking.stop_service()

    def get(self) -> Pool:
        """The pool."""
        if self._pool is None:
            tracked = self._config.logger.name != "none"
            preload = PRELOAD + PRELOAD_TRACKING if tracked else PRELOAD
            self._pool = Pool(preload, self._config.launcher.stop_seconds).__enter__()
            self.mode = tracking.choose_mode(self._config.logger)
            if self.mode != "disabled":
                self._pool.environment |= tracking.start_service()
        return self._pool


def _check_recipe(config: Config) -> None:
    """Check that a recipe asks for nothing that a search does without."""
    recipe, wanted = config.recipe, config.recipe.augmentation
    asked = {
        "recipe.ema_decay": recipe.ema_decay,
        "recipe.teacher": recipe.teacher,
        "recipe.clip_norm": recipe.clip_norm,
        "recipe.drop_path": recipe.drop_path,
        "recipe.augmentation.mixup": wanted.mixup,
        "recipe.augmentation.cutmix": wanted.cutmix,
        "recipe.augmentation.random_erasing": wanted.random_erasing,
        "trainer.accumulation": config.trainer.accumulation > 1,
    }
    found = [key for key, value in asked.items() if value]
    if found:
        raise PfstudyError(f"a search does without {' and '.join(found)}; leave them out.")
    search = config.search
    if isinstance(search, Differentiable) and search.order == 2 and recipe.optimizer != "sgd":
        raise PfstudyError("search.order=2 looks a step of SGD ahead; take recipe.optimizer=sgd.")


def _prepare(config: Config) -> Space:
    """Check what needs no process."""
    if config.study.preset is not None:
        raise PfstudyError("a preset of study= is a sweep of its own; a search takes none.")
    if config.trainer.devices not in (1, "auto") or config.trainer.num_nodes > 1:
        raise PfstudyError("a search takes one device; leave out trainer.devices.")
    if config.trainer.precision == "16-mixed":
        raise PfstudyError("a search does not scale gradients; use trainer.precision=bf16-mixed.")
    _check_recipe(config)
    space = make_space(config)
    search = space.search
    if isinstance(search, OneShot):
        check_sampler(search.sampler, population=search.population)
    if isinstance(search, Differentiable) and search.warmup_epochs >= search.epochs:
        raise PfstudyError(
            f"search.warmup_epochs is {search.warmup_epochs}, but there are {search.epochs} epochs "
            "in all; the architecture would never be trained."
        )
    if search.name is not None and re.fullmatch(r"seed\d+", search.name):
        raise PfstudyError("search.name cannot be that of a run directory, such as seed0.")
    store.check_writable(Path(config.runs_dir))
    if search.name is not None:
        found_path(Path(config.runs_dir), search.name)
    return space


def _start_of(config: Config, content: Content) -> Variant:
    """The network that a search begins with, with its data and recipe."""
    return make_variant(replace(config, search=None), content)


def _find_asked(space: Space, variant: Variant, times: Times | None) -> tuple[Asked, str]:
    """What is asked for and its name; by older rules where such a search exists."""
    settings, config = space.search, space.config
    found = []
    for each in filter(None, (variant, variant.older())):
        identity = searches.identify(space, each.canonical, times)
        written = {key: each.describe_identity().get(key) for key in (RULES_KEY, REPLACES_KEY)}
        name = settings.name or files.file_name(
            f"{settings.preset}-{config.model.name}-{config.data.name}-{identity['hash'][:8]}"
        )
        asked = Asked(space, times, {**identity, **{k: v for k, v in written.items() if v}})
        if searches.is_asked(searches.search_directory(Path(config.runs_dir), name), asked):
            return asked, name
        found.append((asked, name))
    return found[0]


def _search(space: Space, variant: Variant, display: Display, pools: _Pools) -> Searched:
    config, root = space.config, Path(space.config.runs_dir)
    times = _find_times(space)
    device = None
    if times is None and space.search.latency is not None:
        device = _check(space, display, pools)
        table, _ = measure_table(pools.get(), display, [v.config for v in space.uniform], _TABLE_S)
        times = times_of(table, space)
    if times is not None:
        _check_budget(space, times)
    asked, name = _find_asked(space, variant, times)
    directory = searches.search_directory(root, name)
    done = ledger.state_of(directory) == "done"
    what = f"{counted(len(space.operations), 'operation')} at {counted(len(space.sites), 'site')}"
    display.phase("search", f"{name}: {what}{', done before' if done else ''}")
    searches.check_asked(directory, asked)
    if (directory / store.CONFIG).exists():  # times may have been measured again since
        asked = replace(searches.read_asked(directory), space=space)
    elif found_path(root, name).exists():
        raise PfstudyError(
            f"{found_path(root, name)} is there already, and stays as it is; give what is found "
            "another name with search.name=NAME."
        )
    if not done:
        device = device or _check(space, display, pools)
        searches.write_asked(directory, asked)
        _run(name, directory, device, display, pools)
    record = searches.read_search(root, name)
    choice = choose_found(asked, record)
    path = write_found(
        root,
        name,
        config.model.name,
        space.settings(choice),
        _heading(name, asked, choice),
        config.imports,
    )
    return Searched(name, asked, record, choice, path)


def _check(space: Space, display: Display, pools: _Pools) -> Device:
    display.phase("check", "importing torch, building every operation at every site")
    display.bar("importing")
    device: Device = pools.get().call(
        "pfstudy.launch.check:check_search",
        space,
        on_report=lambda kind, details: display.note(details["text"]),
    )
    display.drop_bar("importing")
    return device


def _run(name: str, directory: Path, device: Device, display: Display, pools: _Pools) -> None:
    pool = pools.get()
    task = Task(
        directory.absolute(),
        study=name,
        mode=pools.mode,
        devices=(device.id,),
        environment=describe_environment(),
    )

    def hear(kind: str, details: Mapping[str, Any]) -> None:
        if kind == "step":
            display.bar(name, details["completed"], details["total"])
        elif kind in ("note", "phase"):
            display.drop_bar(name)
            display.note(details["text"])

    how = pool.call(
        "pfstudy.search.run:run_search",
        task,
        on_report=hear,
        log=directory / "run.log",
        environment=visible_devices([device]),
    )
    display.drop_bar(name)
    if how == "elsewhere":
        written = ledger.read_status(directory).written
        raise PfstudyError(
            f"the search {name} is under way in process {written.get('pid')} on "
            f"{written.get('host')}; wait for it to end."
        )


def _find_times(space: Space) -> Times | None:
    """Times of a table that is there, if one has all that is needed."""
    if space.search.latency is None:
        return None
    first = space.uniform[0]
    table = TableFinder(Path(space.config.runs_dir)).find(first, expected_place(space.config))
    if table is None or any(table.lacks(what_stands(v).items()) for v in space.uniform):
        return None
    return times_of(table, space)


def times_of(table: BlockTable, space: Space) -> Times:
    """What the operations of a space take, by a block table that knows all of them."""
    stands = [what_stands(variant) for variant in space.uniform]
    fixed = [address for address in table.sites if address not in space.sites]
    rest = table.rest + sum(table.cells[address][stands[0][address]] for address in fixed)
    rows = tuple(
        tuple(table.cells[site][keys[site]] / table.baseline for keys in stands)
        for site in space.sites
    )
    return Times(rows, rest / table.baseline, dict(table.setting), table.relative_error)


def _check_budget(space: Space, times: Times) -> None:
    budget = space.search.latency
    assert budget is not None
    nothing_SK = np.zeros((len(space.sites), len(space.operations)))
    fastest = times.rest + _program(space, times, nothing_SK).least_cost
    if budget < fastest:
        where = describe_setting({**setting_of(space.config.speed), **times.setting})
        least = math.ceil(1e3 * fastest) / 1e3  # what is said to be enough must be
        raise PfstudyError(
            f"search.latency={budget:g} cannot be reached: the fastest network of these operations "
            f"takes {least:.3f} of the backbone's time ({where}); give that or more, or offer "
            "faster operations."
        )


def _heading(name: str, asked: Asked, choice: Choice) -> list[str]:
    search = asked.space.search
    lines = [f"Found by the search {name} ({search.preset}) in runs/searches/{name}."]
    if asked.times is not None:
        lines.append(
            f"Predicted time: {asked.times.predict(choice):.3f} of the unsubstituted backbone's on "
            f"{asked.times.setting.get('device')}."
        )
    return lines
