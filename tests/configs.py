"""Configs and variants for tests, composed from the shipped ``conf/`` as the command line does."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict
from omegaconf.errors import OmegaConfBaseException

from pfstudy.errors import PfstudyError
from pfstudy.schema import models as declared_models
from pfstudy.schema.compose import compose_jobs, config_of, explain
from pfstudy.schema.config import Config, Model, SitePattern, SiteSetting
from pfstudy.schema.models import conf_directory, offer_sites, register_models
from pfstudy.schema.recipe import Recipe
from pfstudy.schema.sites import list_sites
from pfstudy.schema.sweeps import expand_sweep
from pfstudy.variant import Variant, make_variant


@contextmanager
def config_loader(*directories: Path) -> Iterator[ConfigLoader]:
    """Hydra's loader over the shipped configs and the user's, with their models registered."""
    shipped = _load_shipped()
    blocks, sites = dict(ConfigStore.instance().repo["block"]), dict(declared_models.SITES)
    reducing = set(declared_models.REDUCING)
    try:
        yield _make_loader(*directories) if directories else shipped
    finally:
        ConfigStore.instance().repo["block"] = blocks
        declared_models.SITES.clear()
        declared_models.SITES.update(sites)
        declared_models.REDUCING.clear()
        declared_models.REDUCING.update(reducing)
        offer_sites(sites)


@cache
def _load_shipped() -> ConfigLoader:
    return _make_loader()


def _make_loader(*directories: Path) -> ConfigLoader:
    register_models([conf_directory(), *directories])
    search_path = create_config_search_path(str(conf_directory()))
    before_schema = SearchPathQuery(provider="schema")
    for directory in directories:
        search_path.prepend("command-line", f"file://{directory}", before_schema)
    GlobalHydra.instance().clear()
    loader = Hydra.create_main_hydra2("pfstudy", search_path).config_loader
    GlobalHydra.instance().clear()
    return loader


def compose_tree(*overrides: str, directories: Sequence[Path] = ()) -> DictConfig:
    """Compose one job, unresolved and without Hydra's own node."""
    with config_loader(*directories) as loader:
        tree = loader.load_configuration("config", list(overrides), run_mode=RunMode.RUN)
    return copy.deepcopy(tree)


@cache
def compose(*overrides: str) -> Config:
    """Compose and resolve one job from the shipped configs; each choice of groups once."""
    with config_loader() as loader:
        return compose_jobs(_Remembering(loader), _sweep_config(), [overrides])[0]


class _Remembering:
    """Hydra's loader, which composes nothing twice: a composition takes a third of a second."""

    composed: ClassVar[dict[tuple[str, ...], DictConfig]] = {}

    def __init__(self, loader: ConfigLoader) -> None:
        self.get_group_options = loader.get_group_options
        self.load = loader.load_configuration

    def load_configuration(
        self, config_name: str, overrides: Sequence[str], run_mode: RunMode
    ) -> DictConfig:
        key = tuple(overrides)
        if key not in self.composed:
            composed = self.load(config_name, list(overrides), run_mode)
            with open_dict(composed):
                composed.hydra = {}  # is thrown away, and takes longest to copy
            self.composed[key] = composed
        return copy.deepcopy(self.composed[key])


@cache
def _sweep_config() -> DictConfig:
    with config_loader() as loader:
        return loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)


def compose_sweep(*overrides: str, directories: Sequence[Path] = ()) -> list[Config]:
    """Compose the jobs of a sweep, as our sweeper and launcher do."""
    with config_loader(*directories) as loader:
        config = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        params = dict(config.hydra.sweeper.params or {})
        jobs = expand_sweep(loader, config, params, list(config.hydra.overrides.task))
        return compose_jobs(loader, config, jobs)


def list_jobs(*overrides: str, directories: Sequence[Path] = ()) -> list[list[str]]:
    """List the overrides of each job of a sweep."""
    with config_loader(*directories) as loader:
        config = loader.load_configuration("config", list(overrides), run_mode=RunMode.MULTIRUN)
        params = dict(config.hydra.sweeper.params or {})
        return expand_sweep(loader, config, params, list(config.hydra.overrides.task))


def refusal(*overrides: str, directories: Sequence[Path] = ()) -> str:
    """The sentence with which one job is refused."""
    errors = (HydraException, OmegaConfBaseException, ValueError)
    with pytest.raises(errors) as caught:
        config_of(compose_tree(*overrides, directories=directories))
    error = caught.value
    return str(error if isinstance(error, PfstudyError) else explain(error))


def compose_alone(*overrides: str) -> Config:
    """Compose and resolve one job as a command without ``-m`` does."""
    return config_of(compose_tree(*overrides))


def variant_of(*overrides: str, fingerprint: str = "content") -> Variant:
    """The variant of a job, with data that is not looked at."""
    return make_variant(compose(*overrides), fingerprint)


def operations(*overrides: str) -> dict[str, str]:
    """What a job asks for at every site: address and operation."""
    return {site.address: site.operation for site in compose(*overrides).sites}


def tiny_vit(*operations: str, global_pool: str = "token", **args: object) -> Config:
    """A vision transformer for digits: two blocks over 4x4 tokens behind a class token."""
    pattern = SitePattern(
        "blocks.{block0}.attn", "attention", kernel_size=3, layout="NLC", prefix_tokens=1
    )
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 16, "depth": 2, "num_heads": 2}
    model = Model(
        name="tiny_vit",
        timm="vit_tiny_patch16_224",
        depths=(2,),
        sites=(pattern,),
        image_size=8,
        channels=1,
        num_classes=10,
        args={**sizes, "global_pool": global_pool, **args},
    )
    asked = operations or ("original", "original")
    sites = tuple(
        SiteSetting(site.address, operation, None, "auto")
        for site, operation in zip(list_sites(model), asked, strict=True)
    )
    return replace(compose(), model=model, sites=sites)


def plain_recipe(**changes: Any) -> Recipe:
    """SGD with momentum and a cosine, and nothing else unless told so."""
    plain: dict[str, Any] = {
        "name": "test",
        "epochs": 3,
        "batch_size": 4,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-3,
        "schedule": "cosine",
        "warmup_epochs": 0,
    }
    return Recipe(**{**plain, **changes})
