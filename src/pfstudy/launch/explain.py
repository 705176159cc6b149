"""Chooses finished runs and explains their networks in a fresh process; needs no torch here."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pfstudy import inventory
from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.explanation.content import Chosen, Explanations, Target
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Pool
from pfstudy.words import counted

MOST_VARIANTS = 8
MOST_IMAGES = 24

Records = Sequence[Mapping[str, Any]]


def choose_runs(
    records: Records, variants: str | None = None, seed: int | None = None
) -> list[Chosen]:
    """Choose a finished run of every variant that is to be explained, the baselines first.

    Args:
        records: Of finished runs, each with its ``"directory"``.
        variants: Labels, separated by commas; ``None`` for all variants.
        seed: Of all of them; ``None`` for the least that they share.

    Raises:
        PfstudyError: There are no records, or no such variant or seed; the variants were trained
            on different data, or are too many for a picture.
    """
    by_variant: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record.get("directory") is not None:
            by_variant.setdefault(record["identity"]["hash"], []).append(record)
    if not by_variant:
        raise PfstudyError("there are no finished runs here, whose weights could be explained.")
    named = _name_variants(list(by_variant.values()))
    names = list(named) if variants is None else _split_names(variants, named)
    named = _name_variants([named[name] for name in names])  # by what tells these apart
    names = sorted(named, key=lambda name: not named[name][0]["variant"]["is_baseline"])
    if len(names) > MOST_VARIANTS:
        raise PfstudyError(
            f"a picture has room for {MOST_VARIANTS} variants, but these are {len(names)}; choose "
            "some with --variants LABEL,LABEL."
        )
    _check_same_data(names, named)
    seed = _common_seed(names, named) if seed is None else seed
    return [_with_seed(name, named[name], seed) for name in names]


def explain_in_child(
    chosen: Sequence[Chosen],
    indices: Sequence[int],
    stage: str | None = None,
    target: Target = "predicted",
) -> Explanations:
    """Explain networks; the arguments are those of `pfstudy.explanation.gradcam.explain`.

    Raises:
        PfstudyError: pytorch-grad-cam is not installed, or the networks cannot be explained.
    """
    if find_spec("pytorch_grad_cam") is None:
        raise PfstudyError("pytorch-grad-cam is not installed: pip install 'pfstudy[explain]'.")
    with Display() as display, Pool(()) as pool:  # one process alone: nothing to import ahead
        what = f"{counted(len(chosen), 'network')}, {counted(len(indices), 'test image')}"
        display.phase("explain", what)
        display.bar("importing")

        arguments = (tuple(chosen), tuple(indices), stage, target)
        explained: Explanations = pool.call(
            "pfstudy.explanation.gradcam:explain",
            *arguments,
            on_report=display.follow("networks", "completed", "total"),
        )
        return explained


def _name_variants(variants: Sequence[Records]) -> dict[str, Records]:
    """The records of each variant by its label, with whatever else tells it from the others."""
    described = [inventory.describe(Path(records[0]["directory"])) for records in variants]
    names = inventory.name_runs(described)
    return {
        names[run.directory].replace(f" seed{run.seed}", ""): records
        for run, records in zip(described, variants, strict=True)
    }


def _split_names(text: str, named: Mapping[str, Records]) -> list[str]:
    """Split names at commas, which labels such as ``stage1=maxpool, stage2=conv`` contain."""
    labels = Counter(records[0]["variant"]["label"] for records in named.values())
    known = {}
    for name, records in named.items():
        label = records[0]["variant"]["label"]  # which is enough where no other has it
        for given in (name, label) if labels[label] == 1 else (name,):
            known[re.sub(r",\s+", ",", given)] = name
    parts = [part.strip() for part in text.split(",")]
    found = []
    while parts:
        starts = (",".join(parts[:length]) for length in range(len(parts), 0, -1))
        longest = next((start for start in starts if start in known), None)
        if longest is None:
            raise unknown_name("variant", parts[0], named)
        found.append(known[longest])
        del parts[: longest.count(",") + 1]
    return list(dict.fromkeys(found))


def _check_same_data(names: Sequence[str], named: Mapping[str, Records]) -> None:
    first, *others = names
    data = named[first][0]["identity"]["canonical"]["data"]
    for name in others:
        if named[name][0]["identity"]["canonical"]["data"] != data:
            raise PfstudyError(
                f"{first} and {name} were trained on different data; choose variants that share it "
                "with --variants LABEL,LABEL."
            )


def _common_seed(names: Sequence[str], named: Mapping[str, Records]) -> int:
    shared = set.intersection(*({int(r["seed"]) for r in named[name]} for name in names))
    if not shared:
        raise PfstudyError("the variants have no finished seed in common; choose others.")
    return min(shared)


def _with_seed(name: str, records: Records, seed: int) -> Chosen:
    by_seed = {record["seed"]: record for record in records}
    if seed not in by_seed:
        raise unknown_name(f"{name}: the finished seed", str(seed), map(str, sorted(by_seed)))
    variant = by_seed[seed]["variant"]
    shown = f"{name} ({variant['original']})" if variant["is_baseline"] else name
    return Chosen(shown, seed, Path(by_seed[seed]["directory"]))
