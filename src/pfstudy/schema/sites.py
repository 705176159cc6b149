"""Where the sites of a backbone are: its declaration, spelled out by stage and block.

The tree of settings is generated before Hydra composes anything, from plain YAML, so what it needs
(`declared_addresses`) reads plain data; everything else reads the typed `Model`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.config import Model, SitePattern


@dataclass(frozen=True)
class Site:
    """One place of a backbone where positions are mixed.

    Attributes:
        address: ``stage2.block1``, both counted from 1.
        layer: Path of the layer there.
        norm_act: Paths of the norm and activation that belong to it.
        kernel_size: The kernel size that the backbone has there.
        reduces: Whether the resolution falls there.
        pattern: The pattern that declares it.
    """

    address: str
    layer: str
    norm_act: tuple[str, ...]
    kernel_size: int
    reduces: bool
    pattern: SitePattern


def list_sites(model: Model) -> list[Site]:
    """List the sites of a backbone, ``stage1.block1`` first.

    Raises:
        PfstudyError: The declaration is inconsistent.
    """
    found = {}
    for pattern in model.sites:
        kernels = pattern.kernel_size
        if isinstance(kernels, tuple) and len(kernels) != len(model.depths):
            raise PfstudyError(
                f"model {model.name}: kernel_size lists {len(kernels)} stages, but depths "
                f"{len(model.depths)}."
            )
        for stage, block in _places(model.depths, pattern.blocks, f"model {model.name}"):
            layer = _fill(model, pattern, stage, block)
            parent, _, _ = layer.rpartition(".")
            address = f"stage{stage}.block{block}"
            found[stage, block] = Site(
                address=address,
                layer=layer,
                norm_act=tuple(f"{parent}.{name}" for name in pattern.norm_act),
                kernel_size=kernels[stage - 1] if isinstance(kernels, tuple) else kernels,
                reduces=address in model.downsample,
                pattern=pattern,
            )
    return [found[place] for place in sorted(found)]


def declared_addresses(declaration: Mapping[str, Any], place: str) -> list[str]:
    """List the sites of a declaration that was read from YAML, ``stage1.block1`` first.

    Args:
        declaration: The content of ``conf/model/NAME.yaml``.
        place: What an error calls it.

    Raises:
        PfstudyError: The declaration's depths, blocks or downsample are no such thing.
    """
    depths, groups = declaration.get("depths"), declaration.get("sites")
    downsample = declaration.get("downsample") or []
    if not isinstance(depths, list) or not all(_is_count(depth, 1) for depth in depths):
        raise PfstudyError(f"{place}: depths must list the number of blocks in each stage.")
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise PfstudyError(f"{place}: sites must list one or more patterns, each with its layer.")
    places: list[tuple[int, int]] = []
    for group in groups:
        blocks = group.get("blocks")
        if blocks is not None and not _are_blocks(blocks):
            raise PfstudyError(
                f"{place}: blocks must list, for each stage, the number of its blocks that are "
                "sites, or their numbers, such as [1, [2, 4]]."
            )
        places += _places(depths, blocks, place)
    twice = [entry for entry in places if places.count(entry) > 1]
    if twice:
        raise PfstudyError(
            f"{place}: two patterns declare stage{twice[0][0]}.block{twice[0][1]}; blocks says "
            "which stages and blocks a pattern is for."
        )
    known = [f"stage{stage}.block{block}" for stage, block in sorted(places)]
    if not known:
        raise PfstudyError(f"{place}: no stage has a site.")
    if not isinstance(downsample, list):
        raise PfstudyError(f"{place}: downsample must list sites such as stage2.block1.")
    for address in downsample:
        if address not in known:
            raise unknown_name(f"{place}: the site", str(address), known)
    return known


def stage_and_block(address: str) -> tuple[int, int]:
    """Split ``stage2.block1`` into ``(2, 1)``."""
    stage, block = address.split(".")
    return int(stage.removeprefix("stage")), int(block.removeprefix("block"))


def stages_of(addresses: Iterable[str]) -> list[str]:
    """The stages of some sites, each once."""
    return list(dict.fromkeys(address.partition(".")[0] for address in addresses))


def summary(addresses: Sequence[str]) -> str:
    """Name all sites of a backbone in a few words: ``stage1.block1-3, stage2.block1-4``."""
    by_stage: dict[int, list[int]] = {}
    for address in addresses:
        stage, block = stage_and_block(address)
        by_stage.setdefault(stage, []).append(block)
    return ", ".join(f"stage{s}.block{block_ranges(blocks)}" for s, blocks in by_stage.items())


def block_ranges(numbers: Sequence[int]) -> str:
    """Write numbers with their gaps: ``1-3,5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _places(
    depths: Sequence[int], blocks: Sequence[int | Sequence[int]] | None, place: str
) -> list[tuple[int, int]]:
    """The stages and blocks that a pattern is for: all, unless ``blocks`` says otherwise."""
    chosen = depths if blocks is None else blocks
    if len(chosen) > len(depths):
        raise PfstudyError(f"{place}: blocks lists {len(chosen)} stages, but depths {len(depths)}.")
    places = []
    for stage, entry in enumerate(chosen, 1):
        numbers = range(1, entry + 1) if isinstance(entry, int) else entry
        for block in numbers:
            if block > depths[stage - 1]:
                raise PfstudyError(
                    f"{place}: blocks names stage{stage}.block{block}, but depths gives stage "
                    f"{stage} {depths[stage - 1]} blocks."
                )
            places.append((stage, block))
    return places


def _fill(model: Model, pattern: SitePattern, stage: int, block: int) -> str:
    try:
        return pattern.layer.format(stage=stage, block=block, stage0=stage - 1, block0=block - 1)
    except (KeyError, IndexError, ValueError):
        raise PfstudyError(
            f"model {model.name}: the pattern {pattern.layer!r} may only use {{stage}}, "
            "{block}, {stage0} and {block0}."
        ) from None


def _is_count(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_blocks(value: Any) -> bool:
    return isinstance(value, list) and all(
        _is_count(entry, 0)
        or (isinstance(entry, list) and all(_is_count(number, 1) for number in entry))
        for entry in value
    )
