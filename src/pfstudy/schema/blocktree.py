"""The block tree: one config node per stage and block of a backbone, and which value wins where.

A block's own value comes first; then the nearest level that sets one, stage before root; at one
level ``downsample`` beats ``spatial`` for the blocks that reduce the resolution. In the tree "not
set here" is an interpolation that points one level up, so that the resolved tree shows what
stands where.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.schema.sites import summary

Tree = dict[str, Any]

ROOT: Tree = {"spatial": ORIGINAL, "downsample": None, "kernel_size": None, "norm_act": "auto"}
_BLOCK_KEYS = ("spatial", "kernel_size", "norm_act")
_REDUCING = "${downsample_or_spatial:}"


def block_tree(addresses: Sequence[str], downsample: Sequence[str]) -> Tree:
    """Generate the content of the config group ``block`` for a backbone.

    Args:
        addresses: The sites, ``stage1.block1`` first.
        downsample: Addresses of those that reduce the resolution.

    Returns:
        The root's keys, and below it a node for every stage and in it one for every block. Only
        the root and stages with such a block have the key ``downsample``.
    """
    tree = dict(ROOT)
    if not downsample:
        del tree["downsample"]
    for address in addresses:
        stage, block = address.split(".")
        if stage not in tree:
            reduces = any(site.startswith(f"{stage}.") for site in downsample)
            tree[stage] = {key: _up(key) for key in ROOT if key != "downsample" or reduces}
        tree[stage][block] = {key: _up(key) for key in _BLOCK_KEYS}
        if address in downsample:
            tree[stage][block]["spatial"] = _REDUCING
    return tree


def site_values(
    tree: Mapping[str, Any],
    known: Sequence[str],
    resolve: Callable[[str], Any],
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Say what a block tree asks for at every site.

    Args:
        tree: The unresolved tree.
        known: Addresses of the backbone's sites.
        resolve: Returns the value of any other interpolation, given its place in the tree.

    Yields:
        Address and ``{"operation": ..., "kernel_size": ..., "norm_act": ...}``.

    Raises:
        PfstudyError: The tree has a stage or block that the backbone lacks, or lacks one.
    """
    found = [
        f"{stage}.{block}"
        for stage, node in tree.items()
        if isinstance(node, Mapping)
        for block, leaf in node.items()
        if isinstance(leaf, Mapping)
    ]
    stages = {site.split(".")[0] for site in known}
    ghosts = [site for site in found if site not in known]
    ghosts += [name for name in tree if name not in stages and name not in ROOT]
    missing = [site for site in known if site not in found]
    if ghosts or missing:
        strange = f"{ghosts[0]} is no site" if ghosts else f"the block tree lacks {missing[0]}"
        raise PfstudyError(
            f"{strange} of this backbone, whose sites are {summary(known)}; choose among them, "
            "and leave block= to the model."
        )
    for address in known:
        stage, block = address.split(".")
        chain = [("", tree), (stage, tree[stage]), (address, tree[stage][block])]
        values: dict[str, Any] = {}
        for key in _BLOCK_KEYS:
            value, place = _effective(key, chain)
            if isinstance(value, str) and "${" in value:
                value = resolve(place)
            values[key] = value
        values["operation"] = values.pop("spatial")
        yield address, values


def _up(key: str) -> str:
    return "${.." + key + "}"


def _effective(key: str, chain: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[Any, str]:
    """Follow the precedence from a block to the root; return the raw value and where it stands."""
    *_, (address, leaf) = chain
    if leaf[key] not in (_up(key), _REDUCING):
        return leaf[key], f"{address}.{key}"
    for place, level in reversed(chain[:-1]):
        prefix = f"{place}." if place else ""
        if leaf[key] == _REDUCING:
            rule = level.get("downsample")
            if rule is not None and rule != _up("downsample"):
                return rule, f"{prefix}downsample"
        if level[key] != _up(key):
            return level[key], f"{prefix}{key}"
    raise AssertionError(f"the root does not set {key}")


def _downsample_or_spatial(_parent_: DictConfig) -> Any:
    """Resolver of a reducing block's ``spatial``: looks at the raw stage and root above it."""
    stage = _parent_._get_parent()
    root = stage._get_parent() if stage is not None else None
    if not isinstance(stage, DictConfig) or not isinstance(root, DictConfig):
        raise PfstudyError("A block stands in a stage, and a stage in the block tree.")
    levels = [("", root), ("stage", stage), ("stage.block", _parent_)]
    chain = [(place, OmegaConf.to_container(level, resolve=False)) for place, level in levels]
    _, place = _effective("spatial", chain)  # type: ignore[arg-type]
    *stage_part, key = place.split(".")
    return (stage if stage_part else root)[key]


def register_resolver() -> None:
    """Make the tree's own interpolation known to OmegaConf; may be called again."""
    OmegaConf.register_new_resolver(_REDUCING[2:-2], _downsample_or_spatial, replace=True)
