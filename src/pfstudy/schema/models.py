"""The models that can be chosen: read before Hydra starts, to generate their trees and sites."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_store import ConfigStore

from pfstudy.errors import PfstudyError
from pfstudy.schema.blocktree import block_tree, register_resolver
from pfstudy.schema.designs import natural_order
from pfstudy.schema.sites import declared_addresses, stages_of

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


@cache
def _default_models() -> list[str]:
    text = (conf_directory() / "config.yaml").read_text()
    defaults = yaml.load(text, Loader=_LOADER)["defaults"]  # noqa: S506
    return [entry["model"] for entry in defaults if isinstance(entry, dict) and "model" in entry]


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
