"""From overrides to configs, by Hydra; of a sweep, all at once."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    MissingMandatoryValue,
    OmegaConfBaseException,
)

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.blocktree import site_values
from pfstudy.schema.config import Config, parse_config
from pfstudy.schema.imports import import_modules
from pfstudy.schema.models import conf_directory, offered_sites, register_models
from pfstudy.schema.operations import OPERATIONS, ORIGINAL
from pfstudy.schema.sites import declared_addresses, list_sites

_NOT_CONFIG = ("hydra", "block", "swap")


def compose(overrides: Sequence[str] = (), config_dir: str | Path | None = None) -> Config:
    """Compose the config of one variant, as the command line does.

    Args:
        overrides: Such as ``["model=resnet50", "block.spatial=maxpool"]``.
        config_dir: A directory of the user's own configs, as ``--config-dir`` takes it.

    Raises:
        PfstudyError: The configuration is not valid.
    """
    if isinstance(overrides, str):
        raise PfstudyError(f"overrides must be a list of them, such as [{overrides!r}].")
    lines = [quote_value(override) for override in overrides]
    directories = [conf_directory()]
    if config_dir is not None:
        directories.append(Path(config_dir).absolute())
        if not directories[-1].is_dir():
            raise PfstudyError(f"config_dir {config_dir} is no directory.")
        path = str(directories[-1]).replace("'", r"\'")
        lines.append(f"hydra.searchpath=['{path}']")
    register_models(directories, lines)
    try:
        with hydra.initialize_config_dir(str(directories[0]), version_base="1.3"):
            return single_config(hydra.compose("config", lines))
    except PfstudyError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise explain(error) from None


def single_config(tree: DictConfig) -> Config:
    """Resolve a composed config that is no sweep.

    Raises:
        PfstudyError: It is not valid, or describes the variants of a sweep.
    """
    config = config_of(tree)
    if config.study.design or config.study.variants:
        raise PfstudyError(
            "study.design and study.variants describe a sweep; give -m, or leave them out."
        )
    return config


def quote_value(argument: str) -> str:
    """Quote the value of an override that holds a ``=``, as paths of run directories do."""
    key, _, value = argument.partition("=")
    needs_quotes = "=" in value and key[:1] != "-" and not set(value) & set("'\"[]{}(),")
    return f"{key}='{value}'" if needs_quotes else argument


def compose_jobs(
    loader: ConfigLoader, config: DictConfig, jobs: Sequence[Sequence[str]]
) -> list[Config]:
    """Compose the jobs of a sweep: once per choice of groups, then only values are set.

    Args:
        loader: Hydra's.
        config: The config of the sweep itself.
        jobs: Overrides of each.

    Raises:
        PfstudyError: A job's config is not valid.
    """
    parser = OverridesParser.create()
    parse = cache(parser.parse_override)
    is_group = cache(lambda key: bool(loader.get_group_options(key)))
    fixed = [str(line) for line in config.hydra.overrides.hydra]
    given = {str(line): parse(str(line)) for line in config.hydra.overrides.task}

    def list_groups(overrides: Mapping[str, Override]) -> tuple[str, ...]:
        """Overrides that choose, add or delete, and do not only set a value."""
        return tuple(
            line for line, o in overrides.items() if not _is_plain(o) or is_group(o.key_or_group)
        )

    @cache
    def compose(groups: tuple[str, ...]) -> DictConfig:
        if groups == list_groups(given):  # composed already
            tree = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
            OmegaConf.set_struct(tree, True)
            return tree
        tree = loader.load_configuration(
            config_name=config.hydra.job.config_name,
            overrides=[*fixed, *groups],
            run_mode=RunMode.RUN,
        )
        with open_dict(tree):
            del tree["hydra"]
        return tree

    @cache
    def copy_for(groups: tuple[str, ...], keys: tuple[str, ...]) -> DictConfig:
        """A tree for all jobs that set these keys: each overwrites what the one before set."""
        del keys
        return copy.deepcopy(compose(groups))

    @cache
    def unchanged_for(groups: tuple[str, ...], keys: tuple[str, ...]) -> dict[str, Any]:
        """What is the same in all jobs that set these keys."""
        return _unchanged(compose(groups), keys)

    configs = []
    for job in jobs:
        overrides = {line: parse(line) for line in job}
        groups = list_groups(overrides)
        values = [override for line, override in overrides.items() if line not in groups]
        keys = tuple(override.key_or_group for override in values)
        if any(isinstance(override.value(), dict | list) for override in values):
            tree = copy.deepcopy(compose(groups))  # these merge and do not overwrite
        else:
            tree = copy_for(groups, keys)
        ConfigLoaderImpl._apply_overrides_to_config(values, tree)
        configs.append(config_of(tree, unchanged_for(groups, keys)))
    return configs


def config_of(tree: DictConfig, unchanged: Mapping[str, Any] | None = None) -> Config:
    """Resolve a composed config, once and whole.

    Args:
        tree: The config.
        unchanged: Parts of it that are resolved already.

    Raises:
        PfstudyError: A value is missing or invalid, or the block tree is not the model's.
    """
    plain: dict[str, Any] = {
        str(key): unchanged[str(key)] if unchanged and key in unchanged else _resolve(tree[key])
        for key in tree
        if key not in _NOT_CONFIG
    }
    block: dict[str, Any] = OmegaConf.to_container(tree.block, resolve=False)  # type: ignore[assignment]
    known = declared_addresses(plain["model"] or {}, "model")
    if block.get("downsample") is not None and not plain["model"].get("downsample"):
        raise PfstudyError(
            "block.downsample is set, but no site of this backbone reduces the resolution; leave "
            "it out."
        )
    plain["sites"] = [
        {"address": address, **values}
        for address, values in site_values(
            block, known, lambda place: OmegaConf.select(tree, f"block.{place}")
        )
    ]
    for site in plain["sites"]:
        if site["operation"] is None:
            raise PfstudyError(
                f"block.{site['address']} has no operation; a site chosen by `site=` needs "
                "swap=OPERATION."
            )
    config = parse_config(plain)
    import_modules(config.imports)
    for setting, declared in zip(config.sites, list_sites(config.model), strict=True):
        choices = dict.fromkeys([ORIGINAL, declared.pattern.original, *OPERATIONS])
        if setting.operation not in choices:
            raise unknown_name("operation", setting.operation, choices)
    return config


def _resolve(node: Any) -> Any:
    if not OmegaConf.is_config(node):
        return node
    return OmegaConf.to_container(node, resolve=True, throw_on_missing=True)


def _unchanged(tree: DictConfig, keys: Sequence[str]) -> dict[str, Any]:
    """Resolve the parts of a config that none of the keys lies in, and that refer to nothing."""
    touched = {key.partition(".")[0] for key in keys}
    parts = [str(key) for key in tree if key not in _NOT_CONFIG and key not in touched]
    nodes = {part: tree._get_node(part) for part in parts}
    own = {
        part: node
        for part, node in nodes.items()
        if OmegaConf.is_config(node) and "${" not in OmegaConf.to_yaml(node)
    }
    with suppress(MissingMandatoryValue):  # a job may still give it, or is told of it
        return {part: _resolve(node) for part, node in own.items()}
    return {}


def explain(error: Exception) -> PfstudyError:
    """Turn an error of Hydra or OmegaConf into one sentence."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if name == "submitit_slurm":
            return missing_launcher("slurm")
        if error.options is None and group == "site":  # one of several
            return unknown_name(group, name, offered_sites())
        return unknown_name(group, name, error.options or [])
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and cause.parent_node is not None:
        return _unknown_key(cause)
    if isinstance(cause, MissingMandatoryValue):
        place = cause.full_key or str(cause).split()[-1]
        return PfstudyError(f"{place} is required; give {place}=VALUE.")
    if isinstance(error, OverrideParseException):
        reason = str(error).splitlines()[0]
        return PfstudyError(f"the override {error.override!r} cannot be read: {reason}.")
    if str(error).startswith("Ambiguous value"):
        override = str(error).splitlines()[0].partition("'")[2].rstrip("'")
        return PfstudyError(f"{override} lists several values; add -m to sweep over them.")
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return PfstudyError(f"{cause.full_key}: {str(cause).splitlines()[0]}.")
    return PfstudyError(" ".join(str(error).split()))


def missing_launcher(extra: str) -> PfstudyError:
    """Say that a launcher is not installed, and which extra of ours brings it."""
    return PfstudyError(
        f"hydra/launcher={extra} needs a plugin that is not installed; run: "
        f"pip install 'pfstudy[{extra}]'."
    )


def _unknown_key(cause: OmegaConfBaseException) -> PfstudyError:
    """Say which key does not exist, and which keys stand at that place."""
    full_key, key, parent = str(cause.full_key), str(cause.key), cause.parent_node
    choices = [str(name) for name in parent if name != "hydra"]
    place = full_key.removesuffix(key).rstrip(".") or "the configuration"
    if key == "downsample":
        return PfstudyError(f"{full_key} does not exist: no site there reduces the resolution.")
    return unknown_name(f"{place}: the key", key, choices)


def _is_plain(override: Override) -> bool:
    """Whether an override has the form ``key=value``, without ``+``, ``~`` or ``@package``."""
    is_marked = override.is_add() or override.is_delete() or override.is_force_add()
    return not is_marked and override.package is None
