"""Architectures that were found, each a config to go on with: ``pfstudy +found=NAME``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pfstudy import files
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import SiteSetting
from pfstudy.schema.models import FOUND, FOUND_MODEL
from pfstudy.schema.operations import ORIGINAL
from pfstudy.schema.sites import stage_and_block

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_READ_AS_OTHER = re.compile(r"true|false|null|nan|inf|\d[\d_]*\.?[\d_]*(e-?\d+)?", re.IGNORECASE)
_AS_OVERRIDES = "As overrides: pfstudy "


class _Indenting(yaml.SafeDumper):
    """Indents lists, as people do."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def found_path(root: Path, name: str) -> Path:
    """Name the file of an architecture that was found.

    Args:
        root: Directory of the run directories.
        name: As in ``+found=NAME``.

    Raises:
        PfstudyError: It can be no name.
    """
    if not _NAME.fullmatch(name) or _READ_AS_OTHER.fullmatch(name):  # by Hydra
        raise PfstudyError(
            f"the name {name!r} cannot be that of an architecture: it begins with a letter or a "
            "digit, goes on with letters, digits, _, . and -, and is no number or truth value."
        )
    return root / FOUND / f"{name}.yaml"


def write_found(
    root: Path,
    name: str,
    model: str,
    sites: Sequence[SiteSetting],
    heading: Sequence[str],
    imports: Sequence[str] = (),
) -> Path:
    """Write an architecture that was found, so that ``+found=NAME`` composes it.

    Args:
        root: Directory of the run directories.
        name: As in ``+found=NAME``.
        model: Name of the backbone's declaration.
        sites: What stands at the sites; ``original`` is what stands there anyhow.
        heading: Lines that say where it is from.
        imports: The user's modules that register its operations.

    Returns:
        The file.

    Raises:
        PfstudyError: There is a file of that name that says something else, the name is not
            possible, or the file cannot be written.
    """
    path = found_path(root, name)
    content = _content(model, sites, imports)
    command = _AS_OVERRIDES + " ".join(overrides_of(model, sites, imports))
    lines = ["# @package _global_"]
    lines += [f"# {line}".rstrip() for text in (*heading, command) for line in text.splitlines()]
    text = "\n".join(lines) + "\n" + yaml.dump(content, Dumper=_Indenting, sort_keys=False)
    if not files.write_text(path, text, once=True):
        if _read(path) != content:
            raise PfstudyError(
                f"{path} is another architecture, and stays as it is; give this one another name."
            )
        files.write_text(path, text)
    return path


def overrides_of(
    model: str, sites: Sequence[SiteSetting], imports: Sequence[str] = ()
) -> list[str]:
    """Say the same as the file by overrides, such as ``block.stage1.block1.spatial=maxpool``."""
    overrides = [f"model={model}"]
    if imports:
        overrides.append(f"'imports=[{','.join(imports)}]'")
    for site in _in_order(sites):
        prefix = f"block.{site.address}"
        overrides += [f"{prefix}.{key}={value}" for key, value in _settings(site).items()]
    return overrides


def _in_order(sites: Sequence[SiteSetting]) -> list[SiteSetting]:
    return sorted(sites, key=lambda site: stage_and_block(site.address))


def _settings(site: SiteSetting) -> dict[str, Any]:
    """What must be set at a site; nothing where the backbone's own layer stays."""
    if site.operation == ORIGINAL:
        return {}
    settings: dict[str, Any] = {"spatial": site.operation}
    if site.kernel_size is not None:
        settings["kernel_size"] = site.kernel_size
    if site.norm_act != "auto":
        settings["norm_act"] = site.norm_act
    return settings


def _content(model: str, sites: Sequence[SiteSetting], imports: Sequence[str]) -> dict[str, Any]:
    content: dict[str, Any] = {"defaults": [{FOUND_MODEL: model}]}
    if imports:
        content["imports"] = list(imports)
    block: dict[str, dict[str, Any]] = {}
    for site in _in_order(sites):
        settings = _settings(site)
        if settings:
            stage, name = site.address.split(".")
            block.setdefault(stage, {})[name] = settings
    return content | ({"block": block} if block else {})


def _read(path: Path) -> Any:
    """What a file says; ``None`` if it cannot be told."""
    try:
        return yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
