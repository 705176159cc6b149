from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pfstudy.errors import PfstudyError
from pfstudy.figures.curves import read_curves
from pfstudy.report.data import page_curves
from pfstudy.report.page import write_page
from pfstudy.stats.effects import Effect
from pfstudy.tables.audit import audit_records
from pfstudy.tables.content import make_content
from pfstudy.tables.effects import JudgedEffects, describe_model
from pfstudy.tables.rows import make_rows
from pfstudy.tables.statistics import Criteria

NONE = pd.DataFrame(columns=["hash", "seed", "epoch", "val_top1_percent"])
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


def write_records(path: Path, records: list[Any], curves: pd.DataFrame = NONE) -> dict[str, Any]:
    """Write the page of some records, and return its data."""
    content = make_content(make_rows(records))
    write_page(path, "Study", content, audit_records(records), records=records, curves=curves)
    return data_of(Page(path.read_text()))


def data_of(page: Page) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(page.by_id["data"])
    return data


def cost_of(data: dict[str, Any], key: str) -> dict[str, Any]:
    (cost,) = (cost for cost in data["costs"] if cost["key"] == key)
    found: dict[str, Any] = cost
    return found


@pytest.fixture
def write(record: Callable[..., Any], tmp_path: Path) -> Callable[..., Page]:
    """Write the page of a few runs; one variant has an odd name."""

    def written(*models: JudgedEffects, **criteria: Any) -> Page:
        records = [
            record(label, accuracy + seed, seed=seed, speed=(2 * ratio, ratio))
            for label, accuracy, ratio in (("original", 95.0, 1.0), (ODD, 94.0, 0.8))
            for seed in (0, 1)
        ]
        path = tmp_path / "report.html"
        write_page(
            path,
            f"Study {ODD}",
            make_content(make_rows(records, Criteria(**criteria))),
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
    assert page.loads == ["data:,"]  # no icon, or a browser would ask the server for one
    assert "img" not in page.tags
    assert (tmp_path / "report.html").stat().st_size < 1_500_000


def test_the_policy_allows_its_own_scripts_and_style_alone(
    write: Callable[..., Page], tmp_path: Path
) -> None:
    write()
    text = (tmp_path / "report.html").read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(each.encode()).digest()) for each in inside]
        allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
        assert f"{tag}-src {allowed};" in policy


def test_no_placeholder_is_left(write: Callable[..., Page], tmp_path: Path) -> None:
    write()
    assert not re.search(r"\{\{ \w+ \}\}", (tmp_path / "report.html").read_text())


def test_the_data_are_those_of_the_table(write: Callable[..., Page]) -> None:
    data = data_of(write())
    assert data["name"] == ["original (conv)", ODD]
    assert data["values"]["test_top1_percent"] == [95.5, 94.5]
    assert data["control"] == [0, 0]
    assert [cost["label"] for cost in data["costs"]][:3] == [
        *("latency (ms)", "MACs (G)", "params (M)")
    ]
    latency = cost_of(data, "latency_ms")
    assert latency["x"] == [2.0, 1.6]
    assert latency["front"] == [1, 0]  # the cheapest first


def test_settings_that_differ_from_the_baselines_are_listed(write: Callable[..., Page]) -> None:
    assert data_of(write())["differences"] == [[], [["layer1.0.conv2", "conv", ODD]]]


def test_differences_are_named_by_place_and_taken_together(
    record: Callable[..., Any], tmp_path: Path
) -> None:
    base, other = record(), record("maxpool", 96.0)
    places = [f"stage{stage}.block{block}" for stage in (1, 2) for block in (1, 2)]
    stands = dict(zip(places, ["maxpool", "maxpool", "original", "dwconv"], strict=True))
    other["variant"]["operations"] = stands
    pool = {"operation": "maxpool", "kernel_size": 3}
    other["identity"]["canonical"]["sites"] = {
        "layer1.0.conv2": {**pool, "drops": ["layer1.0.act2", "layer1.0.bn2"]},
        "layer1.1.conv2": {**pool, "drops": ["layer1.1.act2", "layer1.1.bn2"]},
        "layer2.1.conv2": {"operation": "dwconv"},
    }
    every = record("avgpool", 95.0)
    every["variant"]["operations"] = dict.fromkeys(places, "avgpool")
    layers = [f"layer{stage}.{block}.conv2" for stage in (1, 2) for block in (0, 1)]
    every["identity"]["canonical"]["sites"] = {key: {"operation": "avgpool"} for key in layers}
    other["identity"]["canonical"]["precision"] = "bf16-mixed"
    data = write_records(tmp_path / "page.html", [base, other, every])
    assert data["differences"][2] == [["every block", "conv", "avgpool"]]
    assert data["differences"][1] == [
        ["stage1.block1-2", "conv", "maxpool, kernel 3, without act2 and bn2"],
        ["stage2.block2", "conv", "dwconv"],
        ["precision", "32-true", "bf16-mixed"],
    ]


def test_another_baseline_is_what_variants_differ_from(
    record: Callable[..., Any], tmp_path: Path
) -> None:
    records = [record(), record("maxpool", 96.0), record("avgpool", 95.0)]
    content = make_content(make_rows(records, Criteria(baseline="maxpool")))
    path = tmp_path / "page.html"
    write_page(
        path,
        "Study",
        content,
        audit_records(records),
        records=records,
        curves=NONE,
    )
    data = data_of(Page(path.read_text()))
    found = dict(zip(data["name"], data["differences"], strict=True))
    assert found["maxpool"] == []
    assert found["avgpool"] == [["layer1.0.conv2", "maxpool", "avgpool"]]
    assert found["original (conv)"] == [["layer1.0.conv2", "maxpool", "conv"]]


def test_effects_are_a_table(write: Callable[..., Page], tmp_path: Path) -> None:
    effects = (
        Effect("stage1", "maxpool", -0.5, -0.7, -0.3, "worse"),
        Effect("stage2", "maxpool", 0.1, -0.2, 0.4, "undecided"),
    )
    model = JudgedEffects("stage", effects, False, 0.9, 4, 0.8, 0.1)
    write(model)
    text = (tmp_path / "report.html").read_text()
    assert '<td class="loss-4"><strong>-0.50</strong> <small>-0.70 to -0.30</small></td>' in text
    assert '<td class="gain-1">+0.10 <small>-0.20 to +0.40</small></td>' in text
    assert describe_model(model) in text
    assert describe_model(model) == (
        "Additive model with an effect of every stage: explains 90 % of the variance between "
        "variants. 4 combinations, each predicted from all other variants: 80 % of their variance, "
        "off by 0.10 points (root mean square)."
    )


def test_effects_say_what_their_intervals_hold_for(
    write: Callable[..., Page], tmp_path: Path
) -> None:
    effects = (
        Effect("stage1", "maxpool", 0.5, 0.1, 0.9, "better"),
        Effect("stage2", "maxpool", -0.1, -0.3, 0.1, "not worse"),
    )
    fitted = ("stage", effects, False, 0.9, 4, 0.8, 0.1)
    write(JudgedEffects(*fitted, confidence=0.975, population="seeds", margin=0.5))
    text = (tmp_path / "report.html").read_text()
    assert "<strong>+0.50</strong>" in text
    assert ">-0.10~ <small>" in text
    assert (
        "Intervals hold at 97.5 % for all effects of a map at once, for new trainings of these "
        "variants, judged on these test images. <strong>Bold</strong>: better or worse. ~: not "
        "worse, loses no more than the margin of 0.5 points."
    ) in text


def test_the_summary_names_margin_and_population(
    write: Callable[..., Page], tmp_path: Path
) -> None:
    write(margin=2.0)
    text = (tmp_path / "report.html").read_text()
    assert "<dt>margin</dt><dd>2 points</dd>" in text
    population = "new trainings of these variants, judged on these test images"
    assert f"<dt>population</dt><dd>{population}</dd>" in text


def test_curves_are_laid_out_by_seed(record: Callable[..., Any]) -> None:
    content = make_content(make_rows([record(), record("maxpool", 96.0)]))
    rows = [("base", 0, 1, 50.0), ("base", 0, 2, 60.004), ("base", 1, 1, 40.0), ("base", 1, 3, 55)]
    curves = page_curves(content, pd.DataFrame(rows, columns=list(NONE)))
    assert curves == [[[0, 1, [50.0, 60.0]], [1, [1, 3], [40.0, 55.0]]], []]


def test_one_variant_without_speed_curves_or_sites_makes_a_page(
    record: Callable[..., Any], tmp_path: Path
) -> None:
    data = write_records(tmp_path / "new" / "page.html", [record()])
    assert [cost["key"] for cost in data["costs"]] == ["macs", "params"]
    assert data["colours"] == {"operation": ["original"]}
    assert data["differences"] == [[]]


def test_backbones_with_different_sites_are_told_apart(
    record: Callable[..., Any], tmp_path: Path
) -> None:
    records = []
    for model, blocks in (("resnet_digits", 2), ("vit_digits", 3)):
        for label in ("original", "maxpool"):
            found = record(label, family=model, model=model, macs=1000 * blocks)
            operations = {f"stage1.block{block}": label for block in range(1, blocks + 1)}
            found["variant"]["operations"] = operations
            records.append(found)
    data = write_records(tmp_path / "page.html", records)
    assert data["models"] == [f"{name}_digits" for name in ("resnet", "vit", "resnet", "vit")]
    assert sorted(data["name"])[0] == "resnet_digits: maxpool"
    assert [len(places) for places in data["networks"]] == [2, 3]
    assert data["control"] == [0, 1, 0, 1]


def test_without_a_baseline_the_backbones_config_is_compared_with(
    record: Callable[..., Any], tmp_path: Path
) -> None:
    data = write_records(tmp_path / "page.html", [record("maxpool"), record("avgpool", 96.0)])
    assert data["control"] == [None, None]
    assert data["differences"][0] == [["layer1.0.conv2", "conv", "maxpool"]]


def test_costs_that_some_lack_leave_these_out(record: Callable[..., Any], tmp_path: Path) -> None:
    records = [record(speed=(2.0, 1.0)), record("maxpool", 96.0)]
    data = write_records(tmp_path / "page.html", records)
    assert cost_of(data, "latency_ms")["x"] == [2.0, None]
    assert cost_of(data, "latency_ms")["front"] == [0]


def test_several_datasets_have_no_common_front(record: Callable[..., Any], tmp_path: Path) -> None:
    other = record(family="other", accuracy=70.0)
    other["data"] = "imagenet"
    other["identity"]["canonical"]["data"] = {"fingerprint": "other"}
    data = write_records(tmp_path / "page.html", [record(), other])
    assert cost_of(data, "macs")["front"] == []
    assert data["colours"]["data"] == ["digits", "imagenet"]


def test_a_page_cannot_be_a_directory(record: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(PfstudyError, match="is a directory; give the page a name in it"):
        write_records(tmp_path, [record()])
    (tmp_path / "file").touch()
    with pytest.raises(PfstudyError, match="cannot be written"):
        write_records(tmp_path / "file" / "page.html", [record()])
