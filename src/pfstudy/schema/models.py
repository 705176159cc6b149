"""What can be chosen and Hydra cannot find by itself: read before it starts.

Of the models, the block trees and sites are generated; architectures that were found lie below the
directory of the runs, which is no config directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.blocktree import ROOT, block_tree, register_resolver
from pfstudy.schema.designs import natural_order
from pfstudy.schema.sites import declared_addresses, stages_of, summary

FOUND = "found"
"""Config group of the architectures that were found, and their directory below that of the runs."""

FOUND_MODEL = "override /model"
"""Key of the entry of its defaults that names the model of one."""

SITES: dict[str, list[str]] = {}
"""Addresses of the sites of every declared model."""

REDUCING: set[str] = set()
"""Models that have a site which reduces the resolution."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as safe, and ten times as fast


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
    SITES.clear()
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
            SITES[path.stem] = declared_addresses(declaration, str(path))
            trees[path.stem] = (SITES[path.stem], declaration.get("downsample") or [])
    REDUCING.clear()
    REDUCING.update(name for name, (_, downsample) in trees.items() if downsample)
    chosen = list(trees) if arguments is None else named_models(arguments)
    for name in {*chosen, *_default_models()}:  # a sweep over models is composed with the default
        ConfigStore.instance().store(group="block", name=name, node=block_tree(*trees[name]))
    offer_sites(chosen)
    _offer_found(directories, arguments or ())


def offer_sites(models: Iterable[str]) -> None:
    """Offer the sites of some models, and no others, as options of the group ``site``."""
    repository = ConfigStore.instance()
    repository.repo.pop("site", None)
    known = dict.fromkeys(address for model in models for address in SITES[model])
    for name in [*stages_of(known), *known]:
        repository.store(
            group="site", name=name, node={"spatial": "${swap}"}, package=f"block.{name}"
        )


def offered_sites() -> list[str]:
    """The options of the group ``site``, stages first, in the order of the backbone."""
    names = (name.removesuffix(".yaml") for name in ConfigStore.instance().list("site"))
    return sorted(names, key=lambda name: (name.count("."), natural_order(name)))


def named_models(arguments: Sequence[str]) -> list[str]:
    """The models that a command line chooses, by name or by default; all where a preset may."""
    named = [a.partition("=")[2].split(",") for a in arguments if a.startswith("model=")]
    if named:
        return [name for name in named[-1] if name in SITES] or list(SITES)
    if any(a.startswith(("+", "study=", "paper=", "-cn", "--config-n")) for a in arguments):
        return list(SITES)
    return _default_models()


def read_found(path: Path) -> dict[str, Any]:
    """Read the file of an architecture that was found; the models must be registered.

    Raises:
        PfstudyError: It is damaged, or is of a model that does not exist or lacks its sites.
    """
    content = _read_yaml(path)
    damaged = PfstudyError(f"{path} is damaged: it is no architecture that was found.")
    if not isinstance(content, dict):
        raise damaged
    entries, block = content.get("defaults"), content.get("block", {})
    models = [e[FOUND_MODEL] for e in entries or [] if isinstance(e, dict) and FOUND_MODEL in e]
    if not isinstance(entries, list) or len(models) != 1 or not isinstance(block, dict):
        raise damaged
    if models[0] not in SITES:
        raise unknown_name(f"{path}: model", str(models[0]), SITES)
    for address, values in _places(block):
        if not isinstance(values, Mapping) or not values.keys() <= ROOT.keys():
            raise damaged
        if address not in ("", *SITES[models[0]], *stages_of(SITES[models[0]])):
            raise PfstudyError(
                f"{path} names {address}, which is no site of {models[0]}, whose sites are "
                f"{summary(SITES[models[0]])}."
            )
    return content


def _places(block: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a file sets at the root, at stages and at blocks of the tree, by their addresses."""
    found: list[tuple[str, Any]] = [("", {k: v for k, v in block.items() if k in ROOT})]
    for stage, node in block.items():
        if stage not in ROOT:
            within = node if isinstance(node, Mapping) else {"": None}
            found.append((stage, {k: v for k, v in within.items() if k in ROOT}))
            found += [(f"{stage}.{k}", v) for k, v in within.items() if k not in ROOT]
    return found


def _offer_found(directories: Sequence[Path], arguments: Sequence[str]) -> None:
    """Offer the architectures below the directory of the runs, if the arguments ask for any.

    Raises:
        PfstudyError: One that is asked for cannot be read, or there is none at all, or a file of
            the user's config directory has its name.
    """
    repository = ConfigStore.instance()
    repository.repo.pop(FOUND, None)
    asked = [_value(argument) for argument in arguments if _key(argument) == FOUND]
    if not asked:
        return
    names = {name for value in asked for name in value.split(",")}
    runs = [_value(argument) for argument in arguments if _key(argument) == "runs_dir"]
    directory = Path([_default_runs(), *runs][-1]) / FOUND
    paths = sorted(directory.glob("*.yaml"))
    users = {path.stem: path for d in directories[1:] for path in (d / FOUND).glob("*.yaml")}
    known = sorted({path.stem for path in paths} | users.keys())
    for name in names - {*known}:
        if not set(name) & set("*()[]"):  # as in glob(*)
            _refuse_unknown(name, directory, known, arguments)
    for path in paths:
        if path.stem in users:  # Hydra would take the one for a schema of the other
            if path.read_bytes() != users[path.stem].read_bytes():
                raise PfstudyError(f"{users[path.stem]} has the name of {path}; rename it.")
            continue
        try:
            node = read_found(path)
        except PfstudyError:
            if path.stem in names:
                raise
            continue
        repository.store(group=FOUND, name=path.stem, node=node, package="_global_")


def _refuse_unknown(
    name: str, directory: Path, known: Sequence[str], arguments: Sequence[str]
) -> None:
    """Say that there is no such architecture, unless Hydra is told to look elsewhere, too."""
    if any("searchpath" in argument for argument in arguments):
        return
    if known:
        raise unknown_name(f"+{FOUND}: the architecture", name, known)
    raise PfstudyError(
        f"+{FOUND}={name}: there is nothing in {directory}, where pfstudy design and pfstudy "
        "search leave what they find; runs_dir=DIRECTORY says where the runs are."
    )


def _key(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+")


def _value(argument: str) -> str:
    return argument.partition("=")[2].strip("'\"")


def _default_models() -> list[str]:
    defaults = _default_config()["defaults"]
    return [entry["model"] for entry in defaults if isinstance(entry, dict) and "model" in entry]


def _default_runs() -> str:
    return str(_default_config()["runs_dir"])


@cache
def _default_config() -> dict[str, Any]:
    content: dict[str, Any] = _read_yaml(conf_directory() / "config.yaml")
    return content


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(path.read_text(), Loader=_LOADER)  # noqa: S506
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PfstudyError(f"{path} cannot be read: {' '.join(str(error).split())}.") from None


def _read_model(
    path: Path, directories: Sequence[Path], above: Sequence[str] = ()
) -> dict[str, Any]:
    """Read what the block tree is generated from, before Hydra composes the rest.

    A declaration may begin with another one, as in ``defaults: [resnet50, _self_]``.
    """
    content = _read_yaml(path)
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
