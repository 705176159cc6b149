"""From overrides to configs, by Hydra: the groups that are generated, and fast sweeps."""

from __future__ import annotations

import copy
import itertools
import shlex
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
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
from pfstudy.schema.blocktree import block_tree, register_resolver, site_values
from pfstudy.schema.config import Config, parse_config
from pfstudy.schema.designs import RANDOM, choose_sites, draw_operations, natural_order
from pfstudy.schema.imports import import_modules
from pfstudy.schema.operations import OPERATIONS, ORIGINAL
from pfstudy.schema.sites import declared_addresses, list_sites, stages_of

_NOT_CONFIG = ("hydra", "block", "swap")
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as safe, and ten times as fast
_SITES: dict[str, list[str]] = {}
_REDUCING_MODELS: set[str] = set()


def conf_directory() -> Path:
    """Directory of the shipped configs: in the wheel, or in the repository."""
    package = Path(__file__).resolve().parents[1]
    carried = package / "conf"
    return carried if carried.is_dir() else package.parents[1] / "conf"


def register_models(directories: Sequence[Path], arguments: Sequence[str] | None = None) -> None:
    """Generate the block trees and the sites of the models that are declared.

    Args:
        directories: Config directories, ours first; Hydra looks there first, too.
        arguments: Of the command line, so that only the models that it can choose are generated;
            ``None`` for all.

    Raises:
        PfstudyError: A declaration cannot be read, its depths or sites are no such thing, or it
            has the name of another one.
    """
    register_resolver()
    _SITES.clear()
    trees: dict[str, tuple[list[str], list[str]]] = {}
    for directory in directories[1:]:
        for path in directories[0].glob("**/*.yaml"):
            _check_same(path.relative_to(directories[0]), directory, directories[0])
    for directory in directories:
        for path in sorted((directory / "model").glob("*.yaml")):
            if path.stem in trees:
                continue
            declaration = _read_model(path, directories)
            if declaration.get("name") != path.stem:
                raise PfstudyError(
                    f"{path}: name is {declaration.get('name')!r}, but must be that of the file, "
                    f"{path.stem!r}."
                )
            _SITES[path.stem] = declared_addresses(declaration, str(path))
            trees[path.stem] = (_SITES[path.stem], declaration.get("downsample") or [])
    _REDUCING_MODELS.clear()
    _REDUCING_MODELS.update(name for name, (_, downsample) in trees.items() if downsample)
    chosen = list(trees) if arguments is None else named_models(arguments)
    for name in {*chosen, *_default_models()}:  # a sweep over models is composed with the default
        ConfigStore.instance().store(group="block", name=name, node=block_tree(*trees[name]))
    offer_sites(chosen)


def offer_sites(models: Iterable[str]) -> None:
    """Offer the sites of some models, and no others, as options of the group ``site``."""
    repository = ConfigStore.instance()
    repository.repo.pop("site", None)
    known = dict.fromkeys(address for model in models for address in _SITES[model])
    for name in [*stages_of(known), *known]:
        repository.store(
            group="site", name=name, node={"spatial": "${swap}"}, package=f"block.{name}"
        )


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


def named_models(arguments: Sequence[str]) -> list[str]:
    """The models that a command line chooses, by name or by default; all where a preset may."""
    named = [a.partition("=")[2].split(",") for a in arguments if a.startswith("model=")]
    if named:
        return [name for name in named[-1] if name in _SITES] or list(_SITES)
    if any(a.startswith(("+", "study=", "paper=", "-cn", "--config-n")) for a in arguments):
        return list(_SITES)
    return _default_models()


def _default_models() -> list[str]:
    defaults = yaml.safe_load((conf_directory() / "config.yaml").read_text())["defaults"]
    return [entry["model"] for entry in defaults if isinstance(entry, dict) and "model" in entry]


def expand_sweep(
    loader: ConfigLoader,
    config: DictConfig,
    params: Mapping[str, Any],
    arguments: Sequence[str],
) -> list[list[str]]:
    """List the jobs of a sweep: the product of all lists, or what the study's design makes of them.

    ``glob`` over sites means those of the job's own model; in a product the last list varies
    fastest.

    Args:
        loader: Hydra's.
        config: The config of the sweep itself.
        params: A preset's own lists.
        arguments: Overrides of the command line, which replace the preset's.
    """
    parser = OverridesParser.create(config_loader=loader)
    lines = [f"{key}={value}" for key, value in params.items()] + list(arguments)
    parsed = zip(lines, parser.parse_overrides(lines), strict=True)
    by_key = {override.get_key_element(): line for line, override in parsed}
    leading = [by_key.pop(key) for key in ("paper", "model") if key in by_key]
    study: dict[str, Any] = OmegaConf.to_container(config.study, resolve=True)  # type: ignore[assignment]
    jobs: list[list[str]] = []
    names: set[str] = set()
    for lead in _product([*_alternatives(parser, leading).values()]):
        name = _model_of(loader, config, lead)
        names |= {name} & _SITES.keys() or set(_SITES)
        offer_sites({name} & _SITES.keys() or _SITES)
        alternatives = _alternatives(parser, list(by_key.values()))
        jobs += [lead + job for job in _follow_design(alternatives, study, name)]
    offer_sites(sorted(names))
    return jobs


def _model_of(loader: ConfigLoader, config: DictConfig, lead: Sequence[str]) -> str:
    """The model of the jobs that choose some groups: named, that of a paper, or the sweep's."""
    chosen = dict(line.split("=", 1) for line in lead)
    if "model" not in chosen and "paper" in chosen:
        fixed = [str(line) for line in config.hydra.overrides.hydra]
        name = config.hydra.job.config_name
        tree = loader.load_configuration(name, [*fixed, *lead], run_mode=RunMode.RUN)
        return str(tree.hydra.runtime.choices.get("model"))
    return str(chosen.get("model", config.hydra.runtime.choices.get("model")))


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

    @cache
    def compose(groups: tuple[str, ...]) -> DictConfig:
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

    configs = []
    for job in jobs:
        overrides = {line: parse(line) for line in job}
        groups = tuple(
            line for line, o in overrides.items() if not _is_plain(o) or is_group(o.key_or_group)
        )
        values = [override for line, override in overrides.items() if line not in groups]
        if any(isinstance(override.value(), dict | list) for override in values):
            tree = copy.deepcopy(compose(groups))  # these merge and do not overwrite
        else:
            tree = copy_for(groups, tuple(override.key_or_group for override in values))
        ConfigLoaderImpl._apply_overrides_to_config(values, tree)
        configs.append(config_of(tree))
    return configs


def config_of(tree: DictConfig) -> Config:
    """Resolve a composed config, once and whole.

    Raises:
        PfstudyError: A value is missing or invalid, or the block tree is not the model's.
    """
    plain: dict[str, Any] = {
        str(key): OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        if OmegaConf.is_config(node := tree[key])
        else node
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


def explain(error: Exception) -> PfstudyError:
    """Turn an error of Hydra or OmegaConf into one sentence."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if error.options is None and group == "site":  # one of several
            return unknown_name(group, name, _offered_sites())
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


def _unknown_key(cause: OmegaConfBaseException) -> PfstudyError:
    """Say which key does not exist, and which keys stand at that place."""
    full_key, key, parent = str(cause.full_key), str(cause.key), cause.parent_node
    choices = [str(name) for name in parent if name != "hydra"]
    place = full_key.removesuffix(key).rstrip(".") or "the configuration"
    if key == "downsample":
        return PfstudyError(f"{full_key} does not exist: no site there reduces the resolution.")
    return unknown_name(f"{place}: the key", key, choices)


def _alternatives(parser: OverridesParser, lines: Sequence[str]) -> dict[str, list[str]]:
    """Expand the list of every override, by key; sites that ``glob`` finds in their order."""
    alternatives = {}
    for override in parser.parse_overrides(list(lines)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            alternatives[key] = [str(override.input_line)]
        elif override.is_discrete_sweep():
            values = list(override.sweep_string_iterator())
            if not values:
                raise _empty(override)
            if isinstance(override.value(), Glob):
                values.sort(key=natural_order)
            alternatives[key] = [f"{key}={value}" for value in values]
        else:
            raise PfstudyError(
                f"{override.input_line}: a sweep takes lists such as KEY=a,b, choice(a,b), "
                "range(1,4) or glob(*), and no intervals."
            )
    return alternatives


def _follow_design(
    alternatives: Mapping[str, list[str]], study: Mapping[str, Any], model: str
) -> list[list[str]]:
    """Make the jobs of a study: a product, or sets of sites, drawn networks and listed variants.

    A design begins with the variant that has no site of it substituted. A listed variant that
    sets `block.downsample` is left out where no site reduces the resolution.
    """
    designs = study.get("design") or []
    reduces = model not in _SITES or model in _REDUCING_MODELS
    listed = [shlex.split(str(variant)) for variant in study.get("variants") or []]
    variants = [
        lines
        for lines in listed
        if reduces or not any(line.startswith("block.downsample=") for line in lines)
    ]
    for override in OverridesParser.create().parse_overrides([o for v in variants for o in v]):
        if override.is_sweep_override():
            raise PfstudyError(
                f"study.variants: {override.input_line} lists several values; a variant has one."
            )
    around = [values for key, values in alternatives.items() if key not in ("site", "swap")]
    within = [alternatives[key] for key in ("site", "swap") if key in alternatives]
    if designs:
        chosen = _designed(alternatives, designs, study)
    elif within or not variants:
        return _with_variants([], variants, around) + _product([*alternatives.values()])
    else:
        chosen = []
    return _with_variants(chosen, variants, around)


def _with_variants(
    chosen: list[list[str]], variants: list[list[str]], around: Sequence[list[str]]
) -> list[list[str]]:
    return [job + own for job in _product(around) for own in [*variants, *chosen]]


def _designed(
    alternatives: Mapping[str, list[str]], designs: Sequence[str], study: Mapping[str, Any]
) -> list[list[str]]:
    """The overrides of the block tree that designs make of `site` and `swap`.

    Values are set faster than the same sites are composed from their group.
    """
    for key in ("site", "swap"):
        if key not in alternatives:
            raise PfstudyError(
                "study.design needs sites and operations, such as 'site=glob(stage?)' "
                f"swap=maxpool,avgpool; {key} is not given."
            )
    sites = [line.partition("=")[2] for line in alternatives["site"]]
    if any(site[:1] == "[" for site in sites):
        raise PfstudyError("study.design makes the lists of sites itself; give site=SITE,SITE.")
    operations = [line.partition("=")[2] for line in alternatives["swap"]]
    fixed = [name for name in designs if name != RANDOM]
    networks: list[dict[str, str]] = [{}]
    for chosen in choose_sites(fixed, sites):
        networks += [dict.fromkeys(chosen, name) for name in operations]
    if RANDOM in designs:
        if study.get("num_samples") is None:
            raise PfstudyError("study.design=[random] needs study.num_samples=NUMBER.")
        networks += draw_operations(sites, operations, study["num_samples"], study["sample_seed"])
    return [[f"block.{s}.spatial={name}" for s, name in network.items()] for network in networks]


def _product(alternatives: Sequence[Sequence[str]]) -> list[list[str]]:
    return [list(job) for job in itertools.product(*alternatives)]


def _offered_sites() -> list[str]:
    names = (name.removesuffix(".yaml") for name in ConfigStore.instance().list("site"))
    return sorted(names, key=lambda name: (name.count("."), natural_order(name)))


def _empty(override: Override) -> PfstudyError:
    """Say that a list has no values, and which there are."""
    message = f"{override.input_line} matches nothing"
    if override.key_or_group == "site":
        message += f"; the sites are: {', '.join(_offered_sites())}"
    return PfstudyError(message + ".")


def _is_plain(override: Override) -> bool:
    """Whether an override has the form ``key=value``, without ``+``, ``~`` or ``@package``."""
    is_marked = override.is_add() or override.is_delete() or override.is_force_add()
    return not is_marked and override.package is None


def _read_model(
    path: Path, directories: Sequence[Path], above: Sequence[str] = ()
) -> dict[str, Any]:
    """Read what the block tree is generated from, before Hydra composes the rest.

    A declaration may begin with another one, as in ``defaults: [resnet50, _self_]``.
    """
    try:
        content = yaml.load(path.read_text(), Loader=_LOADER)  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PfstudyError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None
    own = content if isinstance(content, dict) else {}
    merged: dict[str, Any] = {}
    for name in own.get("defaults") or []:
        if name == "_self_":
            continue
        if name in (*above, path.stem):
            raise PfstudyError(f"{path}: defaults lead from {name} back to itself.")
        found = [d / "model" / f"{name}.yaml" for d in directories]
        existing = [other for other in found if other.is_file()]
        if not existing:
            raise PfstudyError(f"{path}: defaults names {name!r}, but there is no such model.")
        merged |= _read_model(existing[0], directories, (*above, path.stem))
    return merged | own


def _check_same(name: Path, directory: Path, shipped: Path) -> None:
    """Refuse a user's config that Hydra would pass over for a shipped one of the same name."""
    own = directory / name
    if own.is_file() and own.read_bytes() != (shipped / name).read_bytes():
        raise PfstudyError(
            f"{own} has the name of a shipped config; give yours a name of its own, "
            f"beginning with `defaults: [{name.stem}, _self_]` if it differs in a few keys."
        )
