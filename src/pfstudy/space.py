"""The space of a search: which operations may stand at which sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.schema.config import Config, SiteSetting
from pfstudy.schema.imports import import_modules
from pfstudy.schema.operations import OPERATIONS, ORIGINAL
from pfstudy.schema.search import Differentiable, Search
from pfstudy.schema.sites import list_sites, stages_of
from pfstudy.variant import Variant, make_variant

Choice = tuple[int, ...]
"""Of a network: for every site that is searched, an index into the operations."""

_NO_DATA = "none"
EVERYWHERE = "everywhere"


@dataclass(frozen=True)
class Space:
    """The networks that a search can find.

    Attributes:
        config: The backbone, with what is fixed at the sites that are not searched.
        search: How to search.
        sites: Addresses of the sites that are searched, in the order of the backbone.
        groups: Names of the groups of sites that have one operation in common.
        group_of: Of every site, the index of its group.
    """

    config: Config
    search: Search
    sites: tuple[str, ...]
    groups: tuple[str, ...]
    group_of: tuple[int, ...]

    @property
    def operations(self) -> tuple[str, ...]:
        """What may stand at each of the sites."""
        return self.search.operations

    def place(self, choice: Choice) -> Config:
        """Compose the network of a choice, as it was searched: with the norm behind operations."""
        chosen = dict(zip(self.sites, choice, strict=True))
        sites = tuple(
            replace(site, operation=self.operations[chosen[site.address]], norm_act="keep")
            if site.address in chosen
            else site
            for site in self.config.sites
        )
        return replace(self.config, sites=sites, search=None)

    def settings(self, choice: Choice) -> tuple[SiteSetting, ...]:
        """What stands at every site of a choice, the fixed ones included."""
        return self.place(choice).sites

    @cached_property
    def uniform(self) -> tuple[Variant, ...]:
        """The networks that have one of the operations at all searched sites; no data is read."""
        return tuple(
            make_variant(self.place((index,) * len(self.sites)), _NO_DATA).without_weights()
            for index in range(len(self.operations))
        )

    def choice_of(self, operations: Mapping[str, str]) -> Choice | None:
        """Find a network in the space.

        Args:
            operations: What stands at every site, as `pfstudy.variant.Variant.operations`.

        Returns:
            The choice; ``None`` if the network is not in the space.
        """
        if operations.keys() != self.uniform[0].operations.keys():
            return None
        found = []
        for address, operation in operations.items():
            stands = [variant.operations[address] for variant in self.uniform]
            if operation not in stands:
                return None
            if address in self.sites:
                found.append(stands.index(operation))
        return tuple(found)


def make_space(config: Config) -> Space:
    """Make the space that a config describes: its sites that are left as they are.

    Raises:
        PfstudyError: An operation does not exist or is given twice, or no site is left.
    """
    search = config.search
    assert search is not None
    import_modules(config.imports)
    originals = [site.pattern.original for site in list_sites(config.model)]
    choices = dict.fromkeys([ORIGINAL, *originals, *OPERATIONS])
    named = [("search.operations", name) for name in search.operations]
    if isinstance(search, Differentiable):
        named += [("search.collapse_operations", name) for name in search.collapse_operations]
    for key, name in named:
        if name not in choices:
            raise unknown_name(f"{key}: operation", name, choices)
    for name in search.operations:
        if search.operations.count(name) > 1:
            raise PfstudyError(f"search.operations lists {name} twice; list it once.")
    if config.init_from:
        raise PfstudyError(
            "a search has weights that no checkpoint has; leave out init_from (pretrained=true "
            "starts from timm's weights)."
        )
    sites = tuple(site.address for site in config.sites if site.operation == ORIGINAL)
    if not sites:
        raise PfstudyError(
            "nothing is left to search: the operation of every site is given; leave some original."
        )
    sharing = search.sharing if isinstance(search, Differentiable) else "individual"
    group_names = _group_names(sites, sharing)
    groups = tuple(dict.fromkeys(group_names))
    return Space(config, search, sites, groups, tuple(groups.index(name) for name in group_names))


def _group_names(sites: Sequence[str], sharing: str) -> list[str]:
    if sharing == "individual":
        return list(sites)
    if sharing == "stage":
        return [stage for site in sites for stage in stages_of([site])]
    return [EVERYWHERE] * len(sites)
