"""From the command line of a sweep to its jobs: products, designs and listed variants."""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pfstudy.errors import PfstudyError
from pfstudy.schema.designs import RANDOM, choose_sites, draw_operations, natural_order
from pfstudy.schema.models import REDUCING, SITES, offer_sites, offered_sites


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
    leading = [by_key.pop(key) for key in ("paper", "+found", "model") if key in by_key]
    study: dict[str, Any] = OmegaConf.to_container(config.study, resolve=True)  # type: ignore[assignment]
    jobs: list[list[str]] = []
    names: set[str] = set()
    for lead in _product([*_alternatives(parser, leading).values()]):
        name = _model_of(loader, config, lead)
        offered = {name} & SITES.keys() or set(SITES)
        names |= offered
        offer_sites(offered)
        alternatives = _alternatives(parser, list(by_key.values()))
        jobs += [lead + job for job in _follow_design(alternatives, study, name)]
    offer_sites(sorted(names))
    return jobs


def _model_of(loader: ConfigLoader, config: DictConfig, lead: Sequence[str]) -> str:
    """The model of the jobs that choose some groups: named, of what they name, or the sweep's."""
    chosen = dict(line.split("=", 1) for line in lead)
    if "model" not in chosen and ("paper" in chosen or "+found" in chosen):
        fixed = [str(line) for line in config.hydra.overrides.hydra]
        name = config.hydra.job.config_name
        tree = loader.load_configuration(name, [*fixed, *lead], run_mode=RunMode.RUN)
        return str(tree.hydra.runtime.choices.get("model"))
    return str(chosen.get("model", config.hydra.runtime.choices.get("model")))


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
    reduces = model not in SITES or model in REDUCING
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


def _empty(override: Override) -> PfstudyError:
    """Say that a list has no values, and which there are."""
    message = f"{override.input_line} matches nothing"
    if override.key_or_group == "site":
        message += f"; the sites are: {', '.join(offered_sites())}"
    return PfstudyError(message + ".")
