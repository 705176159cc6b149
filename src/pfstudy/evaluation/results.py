"""What evaluations leave in a run directory, one file a kind; needs no torch.

RUN/eval/clean.json         figures on the images as they are, and per class
RUN/eval/corruptions.json   top-1 of every corruption and severity
RUN/eval/fgsm.json          top-1 of every epsilon
RUN/eval/occlusion.json     top-1 of every occluded percentage

Figures of further strengths join those that are there, as long as the settings are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from pfstudy import store
from pfstudy.environment import package_version
from pfstudy.errors import PfstudyError
from pfstudy.evaluation.cases import CLEAN, Case, Kind
from pfstudy.files import locked, read_json, write_json

PACKAGE = "imagecorruptions-imaug"
LEAST_SIDE = 32
"""Pixels; what corruptions that look beyond a pixel are made for at least."""
PATCHES_PER_SIDE = 14
NUM_BINS = 15

_SCHEMA_VERSION = 1
_OWN_SETTINGS: Mapping[Kind, Mapping[str, Any]] = {
    "clean": {"calibration_bins": NUM_BINS},
    "corruptions": {"package": PACKAGE, "least_side": LEAST_SIDE},
    "fgsm": {"epsilon_unit": "1/255 of the range of values"},
    "occlusion": {"patches_per_side": PATCHES_PER_SIDE, "fill": "mean of the training images"},
}


def path_of(directory: Path, kind: Kind) -> Path:
    """The file of a kind of evaluation of a run."""
    return directory / "eval" / f"{kind}.json"


def settings_of(directory: Path, kind: Kind) -> dict[str, Any]:
    """What the figures of a kind depend on beside their case; those of one file share it."""
    settings = {"weights": store.find_weights(directory), **_OWN_SETTINGS[kind]}
    if kind == "corruptions":
        settings["version"] = package_version(PACKAGE)
    return settings


def find_missing(directory: Path, cases: Iterable[Case]) -> list[Case]:
    """Find which cases a run has no figures of.

    Raises:
        PfstudyError: Figures that are there were made with other settings.
    """
    missing = []
    kept: dict[Kind, Mapping[str, Any]] = {}
    for case in cases:
        if case.kind not in kept:
            kept[case.kind] = read_json(path_of(directory, case.kind), missing_ok=True)
            _check_settings(directory, case.kind, kept[case.kind])
        if figure_of(kept[case.kind], case) is None:
            missing.append(case)
    return missing


def figure_of(kept: Mapping[str, Any], case: Case) -> Any:
    """Top-1 in percent, of the images as they are all figures; ``None`` where there is none."""
    found: Any = kept.get("figures" if case == CLEAN else "top1_percent")
    for key in () if case == CLEAN else case.place:
        found = (found or {}).get(key)
    return found


def add_figures(
    directory: Path,
    figures: Mapping[Case, Any],
    images: Mapping[str, Any],
    environment: Mapping[str, Any],
) -> None:
    """Add figures of one kind to those that a run has.

    Args:
        directory: The run directory.
        figures: Top-1 in percent, of the images as they are all figures.
        images: What is known of the images.
        environment: In what they were computed.

    Raises:
        DiskError: They cannot be written.
    """
    (kind,) = {case.kind for case in figures}
    path, settings = path_of(directory, kind), settings_of(directory, kind)
    with locked(path):
        kept = read_json(path, missing_ok=True)
        if kept.get("settings") != settings:
            kept = {}
        content = {
            "schema_version": _SCHEMA_VERSION,
            "settings": settings,
            "images": images,
            "environments": kept.get("environments", []),
        }
        if environment not in content["environments"]:
            content["environments"] = [*content["environments"], environment]
        if kind == "clean":
            content["figures"] = figures[CLEAN]
        else:
            content["top1_percent"] = kept.get("top1_percent", {})
            for case, top1_percent in figures.items():
                *series, strength = case.place
                place = content["top1_percent"]
                for key in series:
                    place = place.setdefault(key, {})
                place[strength] = top1_percent
        write_json(path, content)


def read_figures(directory: Path, cases: Iterable[Case]) -> dict[Case, Any]:
    """Read the figures of a run that are there, of some cases."""
    kinds: dict[Kind, Mapping[str, Any]] = {}
    found = {}
    for case in cases:
        if case.kind not in kinds:
            kinds[case.kind] = read_json(path_of(directory, case.kind), missing_ok=True)
        figure = figure_of(kinds[case.kind], case)
        if figure is not None:
            found[case] = figure
    return found


def mean_top1(figures: Mapping[Case, Any], kind: Kind) -> float | None:
    """Mean top-1 in percent over the cases of a kind; ``None`` if there are none."""
    values = [figure for case, figure in figures.items() if case.kind == kind]
    return fmean(values) if values else None


def summary_of(figures: Mapping[Case, Any]) -> dict[str, Any]:
    """What figures of several cases come to, as plain data.

    Returns:
        ``clean``, and for each kind that there is ``top1_percent`` by its cases,
        ``mean_top1_percent`` and ``relative_to_clean``, its share in the top-1 without change.
    """
    found: dict[str, Any] = {"clean": figures[CLEAN]}
    clean = figures[CLEAN]["top1_percent"]
    for case, figure in figures.items():
        if case != CLEAN:
            *series, strength = case.place
            place = found.setdefault(case.kind, {"top1_percent": {}})["top1_percent"]
            for key in series:
                place = place.setdefault(key, {})
            place[strength] = figure
    kinds: Sequence[Kind] = ("corruptions", "fgsm", "occlusion")
    for kind in kinds:
        mean = mean_top1(figures, kind)
        if mean is not None:
            found[kind]["mean_top1_percent"] = mean
            found[kind]["relative_to_clean"] = mean / clean if clean else None
    return found


def _check_settings(directory: Path, kind: Kind, kept: Mapping[str, Any]) -> None:
    now = settings_of(directory, kind)
    if now["weights"] is None:  # what was found of weights that are gone is still true
        now["weights"] = kept.get("settings", {}).get("weights")
    then = kept.get("settings", now)
    for key, value in now.items():
        if then.get(key) != value:
            raise PfstudyError(
                f"{path_of(directory, kind)} was made with {key} {then.get(key)}, which is now "
                f"{value}; --again evaluates anew."
            )
