"""What `pfstudy design` asks of the machine: the block table to choose by, and the proof."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import yaml

from pfstudy import store
from pfstudy.errors import PfstudyError
from pfstudy.launch.resume import set_values
from pfstudy.launch.sweep import SweepResult, run_sweep
from pfstudy.schema.config import (
    Config,
    NormAct,
    SiteSetting,
    Study,
    config_tree,
    parse_config,
)
from pfstudy.schema.models import conf_directory
from pfstudy.schema.operations import OPERATIONS, ORIGINAL
from pfstudy.schema.sites import summary
from pfstudy.speed.blocktable import (
    DIRECTORY,
    BlockTable,
    TableFinder,
    backbone_of,
    read_table,
)
from pfstudy.speed.setting import (
    KEYS,
    PLACE,
    VERSION,
    complete_setting,
    describe_setting,
    expected_place,
    setting_of,
)
from pfstudy.variant import Variant

_REQUIRED = "???"

Needed = Mapping[str, Mapping[str, SiteSetting]]
"""What a table must have: by site and key of a cell, what a config says there."""


def find_table(
    root: Path, baseline: Variant, needed: Needed, path: Path | None = None
) -> BlockTable:
    """Find the block table to choose by: that of this host and the runs' setting, or a file.

    Args:
        root: Directory of the run directories.
        baseline: The unsubstituted backbone, with the setting of speed.
        needed: What must be in it.
        path: A table to take instead, of another device, say.

    Raises:
        PfstudyError: There is none, or it is of something else, or lacks something; says how to
            measure what is missing.
    """
    name = baseline.config.model.name
    if path is None:
        found = TableFinder(root).find(baseline, expected_place(baseline.config))
        if found is None:
            raise _no_table(root, baseline, needed)
        table = found
    else:
        table = read_table(path)
        if table.backbone != backbone_of(baseline):
            same = "; the sizes of their images or its arguments differ"
            raise PfstudyError(
                f"{path} is of {table.model} ({table.backbone}), but the runs are of {name} "
                f"({backbone_of(baseline)}){same if table.model == name else ''}."
            )
    lacking: dict[str, dict[str, SiteSetting]] = {}
    for address, keys in needed.items():
        known = table.cells.get(address, {})
        missing = {key: setting for key, setting in keys.items() if key not in known}
        if missing:
            lacking[address] = missing
    if lacking:
        places: dict[str, list[str]] = {}
        for address, keys in lacking.items():
            places.setdefault(", ".join(keys), []).append(address)
        what = "; ".join(f"{keys} at {summary(sites)}" for keys, sites in places.items())
        where = str(path) if path is not None else f"the block table of {name}"
        raise PfstudyError(
            f"{where} ({_describe(table.setting)}) lacks {what}; measure it there: "
            f"{table_command(root, baseline.config, lacking)}."
        )
    return table


def is_here(table: BlockTable, config: Config) -> bool:
    """Whether a table is of this host, and of the kind of device that runs are timed on."""
    place = expected_place(config)
    return all(table.setting.get(key) == value for key, value in place.items())


def _no_table(root: Path, baseline: Variant, needed: Needed) -> PfstudyError:
    """Say that there is no table, what there is instead, and how to make one."""
    config = baseline.config
    asked = complete_setting({**expected_place(config), **setting_of(config.speed)})
    others = []
    for path in sorted((root / DIRECTORY).glob("*.json")):
        try:
            table = read_table(path)
        except PfstudyError:
            continue
        if table.backbone == backbone_of(baseline):
            there = complete_setting(table.setting)
            keys = [k for k in (*PLACE, *KEYS, VERSION) if k != "device" and asked[k] != there[k]]
            differ = ", ".join(f"{key} {there[key]} and not {asked[key]}" for key in keys)
            others.append(f"{path} is of {there['device']}{f', {differ}' if differ else ''}")
    instead = f" ({'; '.join(others)}: take it with --table FILE)" if others else ""
    return PfstudyError(
        f"there is no block table of {config.model.name} on this host in the setting of the runs, "
        f"{describe_setting(asked)}{instead}; measure it: {table_command(root, config, needed)}."
    )


def _describe(setting: Mapping[str, Any]) -> str:
    return describe_setting(complete_setting(setting))


def table_command(root: Path, config: Config, needed: Needed) -> str:
    """Write the command that measures what a block table must have."""
    settings = [setting for keys in needed.values() for setting in keys.values()]
    settings = [setting for setting in settings if setting.operation != ORIGINAL]
    parts = ["pfstudy speed table -m", f"model={config.model.name}", *_data_overrides(config)]
    if config.imports:
        parts.append(f"'imports=[{','.join(config.imports)}]'")
    operations = {setting.operation for setting in settings}
    names = dict.fromkeys([*OPERATIONS, *operations])
    parts.append(f"block.spatial={','.join(name for name in names if name in operations)}")
    keeps = [value for value in get_args(NormAct) if value in {s.norm_act for s in settings}]
    if keeps != ["auto"]:
        parts.append(f"block.norm_act={','.join(keeps)}")
    sizes = sorted({setting.kernel_size or 0 for setting in settings})
    if sizes != [0]:
        parts.append(f"block.kernel_size={','.join(str(size or 'null') for size in sizes)}")
    parts += _speed_overrides(config)
    if root != Path("runs"):
        parts.append(f"runs_dir={root}")
    return " ".join(parts)


def _data_overrides(config: Config) -> list[str]:
    """What the size of images and the classes come from; splits are what must be given."""
    data = config.data
    usual = _shipped("data", data.name)
    keys = ["image_size", "channels", "num_classes"]
    keys += [key for key in ("num_validation", "num_test") if usual.get(key) == _REQUIRED]
    overrides = [f"data={data.name}"]
    for key in keys:
        value, default = getattr(data, key), usual.get(key)
        if default == f"${{model.{key}}}":
            default = getattr(config.model, key)
        if value != default:
            overrides.append(f"data.{key}={value}")
    return overrides


def _shipped(group: str, name: str) -> dict[str, Any]:
    """What a shipped config says; nothing where there is none of that name."""
    path = conf_directory() / group / f"{name}.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text()) if path.is_file() else {}
    return content


def _speed_overrides(config: Config) -> list[str]:
    """What is not as it is unless it is set."""
    usual = _shipped("speed", "default")
    speed = config.speed
    values = {key: getattr(speed, key) for key in ("device", *KEYS)}
    if values["device"] == "auto":
        values["device"] = config.trainer.accelerator
    return [
        f"speed.{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in values.items()
        if value != usual[key]
    ]


def with_settings(config: Config, overrides: Sequence[str]) -> Config:
    """Set values of launcher, logger, speed and trainer.

    Args:
        config: The config.
        overrides: ``KEY=VALUE``.

    Raises:
        PfstudyError: They are of something else, or not valid.
    """
    when = "here, as the rest is that of the runs"
    return parse_config(set_values(config_tree(config), overrides, when))


def train_networks(
    config: Config,
    networks: Sequence[Sequence[SiteSetting]],
    root: Path,
    study: str,
    num_seeds: int,
) -> SweepResult:
    """Train networks and the unsubstituted backbone as a study, and measure their speed.

    Args:
        config: What runs were trained with that they are compared with.
        networks: What stands at the sites of each.
        root: Directory of the run directories.
        study: Name of the study.
        num_seeds: With how many seeds, counted from the config's.

    Returns:
        How the sweep ended.

    Raises:
        PfstudyError: They cannot be trained.
    """
    common = replace(config, runs_dir=str(root), study=Study(name=study), seeds=num_seeds)
    original = tuple(SiteSetting(site.address, ORIGINAL, None, "auto") for site in common.sites)
    configs = [replace(common, sites=tuple(sites)) for sites in (original, *networks)]
    return run_sweep(configs)


def read_trained(result: SweepResult) -> list[dict[str, Any]]:
    """Read the records of a sweep's runs that are done."""
    return list(store.read_records(result.root / member for member in result.members))
