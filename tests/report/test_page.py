from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pfstudy.figures.curves import read_curves
from pfstudy.report.page import describe_model, write_page
from pfstudy.stats.effects import Additive, Effect
from pfstudy.tables.audit import audit_records
from pfstudy.tables.content import make_content
from pfstudy.tables.rows import make_rows

ODD = "</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """What a page has, by its ids, and what it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.by_id: dict[str, str] = {}
        self._inside: list[str | None] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        self._inside.append(found.get("id"))
        for key in ("src", "href"):
            if key in found and not str(found[key]).startswith("#"):
                self.loads.append(str(found[key]))

    def handle_endtag(self, tag: str) -> None:
        if self._inside:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        name = self._inside[-1] if self._inside else None
        if name:
            self.by_id[name] = self.by_id.get(name, "") + data


@pytest.fixture
def write(record: Callable[..., Any], tmp_path: Path) -> Callable[..., Page]:
    """Write the page of a few runs; one variant has an odd name."""

    def written(*models: Additive) -> Page:
        records = [
            record(label, accuracy + seed, seed=seed, speed=(2 * ratio, ratio))
            for label, accuracy, ratio in (("original", 95.0, 1.0), (ODD, 94.0, 0.8))
            for seed in (0, 1)
        ]
        path = tmp_path / "report.html"
        write_page(
            path,
            f"Study {ODD}",
            make_content(make_rows(records)),
            audit_records(records),
            records=records,
            curves=read_curves(records),
            models=models,
            sources=["runs"],
        )
        return Page(path.read_text())

    return written


def test_nothing_is_loaded_from_elsewhere(write: Callable[..., Page], tmp_path: Path) -> None:
    page = write()
    assert page.loads == []
    assert "img" not in page.tags
    assert "default-src 'none'" in (tmp_path / "report.html").read_text()
    assert (tmp_path / "report.html").stat().st_size < 1_500_000


def test_no_placeholder_is_left(write: Callable[..., Page], tmp_path: Path) -> None:
    write()
    assert not re.search(r"\{\{ \w+ \}\}", (tmp_path / "report.html").read_text())


def test_the_data_are_those_of_the_table(write: Callable[..., Page]) -> None:
    data = json.loads(write().by_id["data"])
    assert [row["name"] for row in data["rows"]] == [
        "resnet_digits: original (conv)",
        f"resnet_digits: {ODD}",
    ]
    accuracies = [row["values"]["test_top1_percent"] for row in data["rows"]]
    assert accuracies == [95.5, 94.5]
    assert data["costs"][0] == ["latency_ms", "latency (ms)"]
    assert [point["x"] for point in data["scatters"]["latency_ms"]["datasets"]["points"]] == [
        *(2.0, 1.6)
    ]


def test_settings_that_differ_from_the_baselines_are_listed(write: Callable[..., Page]) -> None:
    baseline, other = json.loads(write().by_id["data"])["rows"]
    assert baseline["difference"] == []
    assert other["difference"] == [["sites.layer1.0.conv2.operation", ODD, ""]]


def test_effects_are_said_and_drawn(write: Callable[..., Page], tmp_path: Path) -> None:
    model = Additive("stage", (Effect("stage1", "maxpool", -0.5, 0.2),), 0.9, 4, 0.8, 0.1)
    data = json.loads(write(model).by_id["data"])
    assert list(data["effects"]) == ["effects-stage"]
    assert describe_model(model) in (tmp_path / "report.html").read_text()
    assert describe_model(model) == (
        "Additive model with an effect of every stage: explains 90 % of the variance between "
        "variants. 4 combinations, each predicted from all other variants: 80 % of their variance, "
        "off by 0.10 points (root mean square)."
    )
