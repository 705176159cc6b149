"""From a config to a variant: the operation at every site, its label and its identity.

Identity is taken over a canonical form, not over the config as typed: what is substituted at
which layer, and everything else that changes what is trained. A key that is ``None`` or empty is
absent from it, so that a later option that is off by default changes no identity.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any

from pfstudy.canonical import compact, digest, file_digest, recipe_form
from pfstudy.errors import PfstudyError
from pfstudy.identity import REPLACES_KEY, RULES, RULES_KEY, Content, older_form, used_in
from pfstudy.schema.closure import older_source_digest, source_digest
from pfstudy.schema.config import Config, Model, SitePattern, SiteSetting
from pfstudy.schema.imports import import_modules
from pfstudy.schema.operations import OPERATIONS, ORIGINAL, find_operation
from pfstudy.schema.sites import Site, block_ranges, list_sites, stage_and_block

SCHEMA_VERSION = 1
_SLUG_LENGTH = 80
_INPUT_KEYS = ("image_size", "channels", "num_classes")


@dataclass(frozen=True)
class Substitution:
    """What stands at a site in place of the backbone's own layer.

    Attributes:
        address: ``stage2.block1``.
        layer: Path of the replaced layer in the backbone.
        operation: Name of the operation.
        kernel_size: ``None`` where the operation has no kernel.
        drops: Paths of the norm and activation that are replaced by the identity.
        decoration: How kernel and norm differ from what one would expect, for the label.
        pattern: The declaration of the site.
    """

    address: str
    layer: str
    operation: str
    kernel_size: int | None
    drops: tuple[str, ...]
    decoration: str
    pattern: SitePattern = field(compare=False, repr=False)


@dataclass(frozen=True)
class Variant:
    """A config without its seed, in canonical form.

    Attributes:
        config: The config that it was made from.
        substitutions: What is substituted, in the order of the backbone.
        canonical: The canonical form, plain data.
        replaces: Digests by older rules, and those in the canonical form that have replaced them.
        rules: The rules by which the canonical form was made; see `pfstudy.identity.RULES`.
    """

    config: Config
    substitutions: tuple[Substitution, ...]
    canonical: Mapping[str, Any]
    replaces: Mapping[str, str] = field(default_factory=dict)
    rules: int = RULES

    @cached_property
    def hash(self) -> str:
        """Identity: the digest of the canonical form."""
        return digest(self.canonical)

    @cached_property
    def baseline_hash(self) -> str:
        """Identity of the unsubstituted backbone with the same data and recipe."""
        return digest({key: value for key, value in self.canonical.items() if key != "sites"})

    @cached_property
    def architecture_hash(self) -> str:
        """Identity of the network alone: variants that share it are equally fast."""
        return digest(architecture_of(self.canonical))

    @property
    def is_baseline(self) -> bool:
        """Whether nothing is substituted."""
        return not self.substitutions

    @cached_property
    def label(self) -> str:
        """What differs from the backbone, in a few words."""
        return label_of(self.operations, self.config.model)

    @cached_property
    def operations(self) -> dict[str, str]:
        """The operation at every site, with its kernel and norm where they are unusual."""
        found = {s.address: s.operation + s.decoration for s in self.substitutions}
        return {s.address: found.get(s.address, ORIGINAL) for s in self.config.sites}

    @property
    def slug(self) -> str:
        """A name for a directory that a person can read; the identity makes it unique."""
        name = f"{self.config.model.name}-{self.config.data.name}-{self.label}"
        return re.sub(r"[^A-Za-z0-9=._+]+", "-", name)[:_SLUG_LENGTH].strip("-.")

    def without_weights(self) -> Variant:
        """The same network before any checkpoint is loaded; as fast, and of the same cost."""
        return replace(self, config=replace(self.config, init_from=None, pretrained=False))

    def baseline(self) -> Variant:
        """The unsubstituted backbone with the same data and recipe."""
        sites = tuple(replace(site, operation=ORIGINAL) for site in self.config.sites)
        canonical = {key: value for key, value in self.canonical.items() if key != "sites"}
        bare = replace(self.config, sites=sites)
        return Variant(bare, (), canonical, self.replaces, self.rules)

    def older(self) -> Variant | None:
        """The same variant as older rules identify it; ``None`` where that is the same."""
        if not used_in(self.canonical, self.replaces):
            return None
        canonical = older_form(self.canonical, self.replaces)
        return replace(self, canonical=canonical, replaces={}, rules=RULES - 1)

    def with_hash(self, wanted: str) -> Variant | None:
        """The variant by the rules that give it a hash; ``None`` if none do."""
        older = self if self.hash == wanted else self.older()
        return older if older is not None and older.hash == wanted else None

    def describe_identity(self) -> dict[str, Any]:
        """The identity as configs and records hold it."""
        replaces = used_in(self.canonical, self.replaces)
        return {
            "hash": self.hash,
            "baseline": self.baseline_hash,
            RULES_KEY: self.rules,
            **({REPLACES_KEY: replaces} if replaces else {}),
            "canonical": self.canonical,
        }


def make_variant(config: Config, content: Content | str) -> Variant:
    """Bring a config into its canonical form.

    Args:
        config: The config.
        content: What identifies the content of the dataset, wherever it lies.

    Raises:
        PfstudyError: An operation does not exist, a declaration is inconsistent, or the
            checkpoint to start from cannot be read.
    """
    check_initial_weights(config)
    model = config.model
    content = Content(content) if isinstance(content, str) else content
    substitutions = list_substitutions(config)
    takes_averaged = config.init_from and config.init_weights == "averaged"
    operations = {name: find_operation(name) for name in {s.operation for s in substitutions}}
    sources = {name: source_digest(operation) for name, operation in operations.items()}
    canonical = compact(
        {
            "schema": SCHEMA_VERSION,
            "backbone": {"timm": model.timm, "args": model.args},
            "sites": {
                s.layer: {
                    "operation": s.operation,
                    "kernel_size": s.kernel_size,
                    "drops": sorted(s.drops),
                    "layout": s.pattern.layout if s.pattern.layout != "NCHW" else None,
                    "prefix_tokens": s.pattern.prefix_tokens or None,
                    "parent": s.pattern.parent,
                    "source": sources[s.operation],
                }
                for s in substitutions
            },
            "data": {
                "fingerprint": content.fingerprint,
                "image_size": config.data.image_size,
                "channels": config.data.channels,
                "num_classes": config.data.num_classes,
                "num_validation": config.data.num_validation,
                "num_test": config.data.num_test,
                "split_seed": config.data.split_seed,
                "crop_fraction": config.data.crop_fraction,
                "interpolation": config.data.interpolation,
                "mean": config.data.mean,
                "std": config.data.std,
                "background": config.data.background if config.data.background != "white" else None,
                "bit_depth": config.data.bit_depth if config.data.bit_depth != 16 else None,
            },
            "recipe": recipe_form(config.recipe),
            "tune": asdict(config.tune) if config.tune.trials else None,
            "precision": config.trainer.precision,
            "init": file_digest(config.init_from, "init_from") if config.init_from else None,
            "init_weights": "averaged" if takes_averaged else None,
            "pretrained": config.pretrained or None,
        }
    )
    replaces = {content.older: content.fingerprint} if content.older else {}
    for name, source in sources.items():
        older = source and older_source_digest(operations[name])
        if source and older and older != source:
            replaces[older] = source
    return Variant(config, substitutions, canonical, replaces)


def architecture_of(canonical: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a canonical form that says how fast a network is, whatever it is trained on."""
    data = {key: canonical.get("data", {}).get(key) for key in _INPUT_KEYS}
    parts = {key: canonical.get(key) for key in ("schema", "backbone", "sites")}
    return {**parts, "data": data}


def check_initial_weights(config: Config) -> None:
    """Check that a network starts from one place alone.

    Raises:
        PfstudyError: It would start from a checkpoint and from timm's weights.
    """
    if config.init_from and config.pretrained:
        raise PfstudyError("init_from and pretrained=true exclude each other; give one of them.")


def list_substitutions(config: Config) -> tuple[Substitution, ...]:
    """List what a config puts in the place of the backbone's own layers.

    Raises:
        PfstudyError: An operation or a module of the user's does not exist, or the model's
            declaration is inconsistent.
    """
    import_modules(config.imports)
    sites = {site.address: site for site in list_sites(config.model)}
    found = (_substitution(setting, sites[setting.address]) for setting in config.sites)
    return tuple(substitution for substitution in found if substitution is not None)


def _substitution(setting: SiteSetting, site: Site) -> Substitution | None:
    original = site.pattern.original
    is_own = setting.operation == original and original not in OPERATIONS
    if setting.operation == ORIGINAL or is_own:
        return None
    operation = find_operation(setting.operation)
    if operation.at_stride_1 and not site.reduces:
        operation = find_operation(operation.at_stride_1)
    kernel_size = (setting.kernel_size or site.kernel_size) if operation.has_kernel else None
    if kernel_size == 1 and operation.at_kernel_1:
        operation, kernel_size = find_operation(operation.at_kernel_1), None
    keep = operation.trainable if setting.norm_act == "auto" else setting.norm_act == "keep"
    drops = () if keep else site.norm_act
    kernel_is_usual = kernel_size in (None, site.kernel_size)
    if operation.name == original and kernel_is_usual and not drops:
        return None
    return Substitution(
        site.address,
        site.layer,
        operation.name,
        kernel_size,
        drops,
        decoration(site, kernel_size, keeps_norm=keep, usually_keeps=operation.trainable),
        site.pattern,
    )


def decoration(
    site: Site, kernel_size: int | None, *, keeps_norm: bool, usually_keeps: bool
) -> str:
    """Say how kernel and norm differ from what one would expect at a site, for the label."""
    text = "" if kernel_size in (None, site.kernel_size) else f"{kernel_size}x{kernel_size}"
    if site.norm_act and keeps_norm != usually_keeps:
        text += "+norm" if keeps_norm else "-norm"
    return text


def label_of(operations: Mapping[str, str], model: Model) -> str:
    """Say in a few words what stands where: one word if it is the same everywhere."""
    if len(set(operations.values())) == 1:
        return next(iter(operations.values()))
    reducing = {operations[address] for address in model.downsample}
    keeping = {op for address, op in operations.items() if address not in model.downsample}
    if len(reducing) == len(keeping) == 1:
        return f"{keeping.pop()}, downsample={reducing.pop()}"
    parts = []
    for stage, sites in groupby(operations.items(), key=lambda item: item[0].split(".")[0]):
        blocks: dict[str, list[int]] = {}
        for address, operation in sites:
            blocks.setdefault(operation, []).append(stage_and_block(address)[1])
        if len(blocks) == 1:
            found = dict.fromkeys(blocks, stage)
        else:
            found = {op: f"{stage}.block{block_ranges(some)}" for op, some in blocks.items()}
        parts += [f"{place}={op}" for op, place in found.items() if op != ORIGINAL]
    return ", ".join(parts)


def varying_settings(forms: Sequence[Mapping[str, Any]], models: Sequence[str]) -> list[str]:
    """Name the settings, apart from the sites, in which canonical forms differ.

    Args:
        forms: The canonical forms.
        models: The name of each one's model, which stands for what its backbone is; settings of
            the backbone are named if they vary within a model.

    Returns:
        Dotted keys such as ``recipe.lr``.
    """
    distinct = {  # of thousands of variants, only the sites differ
        (model, str({k: v for k, v in form.items() if k != "sites"})): form
        for model, form in zip(models, forms, strict=True)
    }
    flat = [
        (model, flatten({k: v for k, v in form.items() if k != "sites"}))
        for (model, _), form in distinct.items()
    ]
    keys = sorted({key for _, form in flat for key in form})

    def varies(key: str) -> bool:
        found = {(model, json.dumps(form.get(key))) for model, form in flat}
        if key.startswith("tune.") and key != "tune.trials":  # of those that are tuned
            return len({json.dumps(form[key]) for _, form in flat if key in form}) > 1
        if key.startswith("backbone."):
            return len(found) > len({model for model, _ in found})
        return len({value for _, value in found}) > 1

    return [key for key in keys if varies(key)]


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Make nested dicts of dotted keys."""
    tree: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, last = key.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested dicts to dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
