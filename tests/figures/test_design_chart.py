"""The picture of a design, as SVG."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pfstudy.figures.designs import design_chart
from pfstudy.figures.style import save
from pfstudy.tables.choosing import make_design
from pfstudy.tables.design import Design
from pfstudy.tables.offers import offers_of_runs
from studies import SITES, leave_study, make_block_table

Draw = Callable[[Design], list[str]]


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Design:
    root = tmp_path_factory.mktemp("runs")
    leave_study(root, noise=0.3)
    return make_design(offers_of_runs([root]), make_block_table(), 0.8)


@pytest.fixture
def draw(tmp_path: Path) -> Draw:
    """Draw a design: the words in the picture, and what is drawn."""

    def draw(design: Design) -> list[str]:
        path = tmp_path / "design.svg"
        save(design_chart(design), path)
        tree = ElementTree.parse(path)
        words = [element.text or "" for element in tree.iter() if element.tag.endswith("text")]
        drawn = [e.get("aria-roledescription", "") for e in tree.iter()]
        return [*words, *filter(None, drawn)]

    return draw


def test_the_curve_what_was_trained_and_what_was_chosen(design: Design, draw: Draw) -> None:
    drawn = draw(design)
    for name in ("predicted best", "trained variants", "original", "chosen"):
        assert name in drawn
    assert "validation top-1 (%)" in drawn
    assert "resnet_digits: Some CPU, 1 thread, batch 1, contiguous, float32, eager" in drawn
    assert any("area" in what for what in drawn)


def test_what_is_not_known_is_not_drawn(design: Design, draw: Draw) -> None:
    alone = replace(design, latency=None, best=(), places=())
    assert "chosen" not in draw(alone)
    unsure = [replace(n, worth=replace(n.worth, half_width=None)) for n in design.curve]
    assert not any("area" in what for what in draw(replace(design, curve=tuple(unsure))))
    table = design.table
    cells = {site: {"original": table.cells[site]["original"]} for site in SITES}
    bare = replace(design, table=replace(table, cells=cells))
    assert "original" in draw(bare)  # of the trained ones, the time of no other is known


def test_a_preference_is_no_accuracy(design: Design, draw: Draw) -> None:
    offers = replace(design.offers, worth="preference", predictor=None, measured=())
    drawn = draw(replace(design, offers=offers))
    assert "log-probability (nats)" in drawn
    assert "trained variants" not in drawn
