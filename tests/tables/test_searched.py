"""What searches offer to a choice: preferences, or effects in one-shot accuracy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from pfstudy import files, ledger, searches
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config
from pfstudy.searches import Asked
from pfstudy.space import Space, make_space
from pfstudy.tables.choosing import make_design
from pfstudy.tables.designed import curve_table, design_data, places_table
from pfstudy.tables.searched import offers_of_search
from studies import SITES, make_block_table

Make = Callable[..., Config]

OPERATIONS = ("conv", "maxpool", "identity")
LIKED = {"conv": 0.2, "maxpool": 0.7, "identity": 0.1}
TIMES = {
    "original": (0.30, 0.20, 0.25, 0.15),
    "maxpool+norm": (0.20, 0.14, 0.20, 0.06),
    "identity+norm": (0.10, 0.10, 0.10, 0.05),
}
EFFECTS = {"conv": 0.0, "maxpool": -1.0, "identity": -4.0}


@pytest.fixture
def leave(make_config: Make, tmp_path: Path) -> Callable[..., Path]:
    """Leave what a search over conv, maxpool and identity leaves; returns the directory of runs."""

    def leave(*overrides: str, **found: Any) -> Path:
        operations = "search.operations=[conv,maxpool,identity]"
        space = make_space(make_config("search=darts", operations, *overrides))
        identity = {"hash": "1", "seed": 0, "canonical": {"data": {"fingerprint": "content"}}}
        directory = searches.search_directory(tmp_path, "mine")
        searches.write_asked(directory, Asked(space, None, identity))
        record = {"schema_version": 1, "preset": "darts", **_found(space), **found}
        files.write_json(directory / ledger.RECORD, record)
        return tmp_path

    return leave


def _found(space: Space) -> dict[str, Any]:
    logs = {name: math.log(value) for name, value in LIKED.items()}
    return {"log_probabilities": dict.fromkeys(space.sites, logs)}


def evaluations(*names: str) -> list[dict[str, Any]]:
    """All paths over these operations, exactly additive."""
    return [
        {
            "operations": dict(zip(SITES, path, strict=True)),
            "val_top1_percent": 80 + sum(EFFECTS[name] for name in path),
        }
        for path in itertools.product(names, repeat=4)
    ]


def text_of(table: object) -> str:
    console = Console(width=150, record=True)
    console.print(table)
    return " ".join(console.export_text().split())


def test_a_preference_is_no_accuracy(leave: Callable[..., Path]) -> None:
    offers = offers_of_search(leave(), "mine")
    assert [option.label for option in offers.options[SITES[0]]] == [
        *("original", "maxpool+norm", "identity+norm"),
    ]
    assert {option.setting.norm_act for option in offers.options[SITES[0]]} == {"keep"}
    design = make_design(offers, make_block_table(times=TIMES), 0.75)
    assert design.chosen is not None
    assert design.chosen.label == "maxpool+norm"
    assert design.chosen.worth.value == pytest.approx(4 * math.log(0.7))
    assert design.chosen.worth.half_width is None
    text = text_of(curve_table(design))
    assert "log-probability" in text
    assert "what the search prefers, which is no accuracy" in text
    assert "val. top-1" not in text
    assert "log-prob." in text_of(places_table(design))
    assert "log_probability" in design_data(design)["curve"][0]


def test_sites_that_share_parameters_get_one_operation(leave: Callable[..., Path]) -> None:
    offers = offers_of_search(leave("search.sharing=stage"), "mine")
    assert offers.groups == (0, 0, 1, 1)
    for network in make_design(offers, make_block_table(times=TIMES), None).curve:
        one, two, three, four = network.operations.values()
        assert (one, three) == (two, four)


def test_what_was_not_searched_stays(leave: Callable[..., Path]) -> None:
    offers = offers_of_search(leave("block.stage1.spatial=maxpool", "search.sharing=stage"), "mine")
    assert [option.label for option in offers.options[SITES[0]]] == ["maxpool"]
    times = {**TIMES, "maxpool": TIMES["maxpool+norm"]}
    design = make_design(offers, make_block_table(times=times), None)
    assert design.baseline is None
    assert {network.operations[SITES[1]] for network in design.curve} == {"maxpool"}


def test_effects_of_paths(leave: Callable[..., Path]) -> None:
    offers = offers_of_search(
        leave(log_probabilities=None, evaluations=evaluations(*OPERATIONS)), "mine"
    )
    assert offers.worth == "one_shot"
    assert offers.points[SITES[0], "maxpool+norm"] == pytest.approx(-1)
    assert offers.points[SITES[0], "original"] == 0
    assert len(offers.measured) == 81
    assert offers.measured[-1].operations == dict.fromkeys(SITES, "identity+norm")
    design = make_design(offers, make_block_table(times=TIMES), 0.75)
    assert design.chosen is not None
    best = max(
        (80 + sum(EFFECTS[n] for n in names))
        for names in itertools.product(OPERATIONS, repeat=4)
        if 0.1 + sum(_time(name, place) for place, name in enumerate(names)) <= 0.75 + 1e-9
    )
    assert design.chosen.worth.value == pytest.approx(best)
    assert "81 paths of the search mine (darts): no accuracy of a trained network" in text_of(
        curve_table(design)
    )


def _time(name: str, place: int) -> float:
    return TIMES["original" if name == "conv" else f"{name}+norm"][place]


def test_without_the_original_differences_mean_nothing(leave: Callable[..., Path]) -> None:
    paths = evaluations("maxpool", "identity")
    offers = offers_of_search(leave(log_probabilities=None, evaluations=paths), "mine")
    assert offers.points[SITES[0], "identity+norm"] != offers.points[SITES[0], "maxpool+norm"]
    design = make_design(offers, make_block_table(times=TIMES), None)
    assert design.baseline is None
    assert all(network.difference is None for network in design.curve)
    assert design.curve[-1].worth.value == pytest.approx(76)
    assert "diff." not in text_of(curve_table(design))


def test_what_is_too_little(leave: Callable[..., Path]) -> None:
    with pytest.raises(PfstudyError, match=r"the 1 path .* larger search.num_evaluations"):
        offers_of_search(leave(log_probabilities=None, evaluations=evaluations("conv")), "mine")
    with pytest.raises(PfstudyError, match="search 'other' does not exist; choose from: mine"):
        offers_of_search(leave(), "other")
