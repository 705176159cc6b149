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
from pfstudy.variant import Substitution, Variant, make_variant

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

    @cached_property
    def candidates(self) -> dict[str, list[Substitution | None]]:
        """What each operation substitutes at a searched site; ``None`` where it is the original."""
        found: dict[str, list[Substitution | None]] = {address: [] for address in self.sites}
        for variant in self.uniform:
            by_address = {each.address: each for each in variant.substitutions}
            for address in self.sites:
                found[address].append(by_address.get(address))
        return found

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
        PfstudyError: An operation does not exist, is given twice or cannot be mixed with the
            others, or no site is left.
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
    group_of = tuple(groups.index(name) for name in group_names)
    space = Space(config, search, sites, groups, group_of)
    _check_mixtures(space)
    _check_distinct(space)
    return space


def _check_mixtures(space: Space) -> None:
    """Refuse operations that cannot stand beside the others: the layer's parent would differ."""
    patterns = {site.address: site.pattern for site in list_sites(space.config.model)}
    for address, candidates in space.candidates.items():
        pattern = patterns[address]
        if pattern.parent and None in candidates and any(candidates):
            raise PfstudyError(
                f"{address}: {pattern.original} has no mixture form: the other operations see the "
                f"whole map where it sees windows; leave {pattern.original} out of "
                "search.operations."
            )


def _check_distinct(space: Space) -> None:
    """Refuse two names for one thing: their probabilities would be those of two."""
    columns = list(zip(*space.candidates.values(), strict=True))
    for index, column in enumerate(columns):
        first = columns.index(column)
        if first < index:
            raise PfstudyError(
                f"search.operations lists {space.operations[first]} and {space.operations[index]}, "
                "which are the same at all sites; list one of them."
            )


def _group_names(sites: Sequence[str], sharing: str) -> list[str]:
    if sharing == "individual":
        return list(sites)
    if sharing == "stage":
        return [stage for site in sites for stage in stages_of([site])]
    return [EVERYWHERE] * len(sites)
