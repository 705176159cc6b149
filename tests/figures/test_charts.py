from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
from pypdf import PdfReader

from pfstudy.errors import PfstudyError
from pfstudy.figures import charts, style
from pfstudy.figures.curves import read_curves
from pfstudy.figures.draw import KINDS, draw
from pfstudy.stats.effects import Effect
from pfstudy.tables.effects import JudgedEffects
from pfstudy.tables.rows import make_rows

ADDRESSES = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")


@pytest.fixture
def records(record: Callable[..., Any], tmp_path: Path) -> list[Any]:
    """Three networks with two seeds each, timed, with curves."""
    found = []
    for label, number, offset, ratio in (
        ("original", 0, 0.0, 1.0),
        ("maxpool", 2, -0.6, 0.8),
        ("avgpool", 4, -1.1, 0.7),
    ):
        for seed in (0, 1):
            made = record(label, 97 + offset + 0.2 * seed, seed=seed, speed=(2 * ratio, ratio))
            stands = [label if i < number else "original" for i in range(4)]
            made["variant"]["operations"] = dict(zip(ADDRESSES, stands, strict=True))
            made["speed"][0] |= {
                "relative_latency_low": 0.97 * ratio,
                "relative_latency_high": 1.02 * ratio,
            }
            made["directory"] = tmp_path / f"{label}{seed}"
            made["directory"].mkdir()
            lines = ["epoch,val_top1_percent,val_loss", "1,80.0,1.0", "2,,", f"2,{90 + seed},0.5"]
            (made["directory"] / "metrics.csv").write_text("\n".join(lines))
            found.append(made)
    return found


def texts(svg: Path) -> set[str]:
    """Every line: of text in one line, or in several."""
    ends = ("text", "tspan")
    return {e.text for e in ElementTree.parse(svg).iter() if e.tag.endswith(ends) and e.text}


def test_every_kind_is_drawn_in_every_format(records: Any, tmp_path: Path) -> None:
    rows = make_rows(records)
    kinds = [kind for kind in KINDS if kind != "effects"]
    drawn, missing = draw(rows, records, tmp_path / "figures", kinds, style.FORMATS)
    assert missing == []
    assert {path.name for path in drawn} == {
        f"{kind}.{ending}" for kind in kinds for ending in style.FORMATS
    }
    for path in drawn:
        start = {".svg": b"<svg", ".pdf": b"%PDF", ".png": b"\x89PNG"}[path.suffix]
        assert path.read_bytes().startswith(start)
    assert len(list((tmp_path / "figures").iterdir())) == len(drawn)


def test_accuracy_against_latency_names_its_axes_and_setting(records: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    style.save(charts.accuracy_against(make_rows(records), "latency_ms"), path)
    assert {
        *("latency (ms)", "test top-1 (%)", "original", "maxpool", "avgpool"),
        "Some CPU, 1 thread, batch 1, contiguous, float32, eager",
    } <= texts(path)


def test_a_picture_is_as_wide_as_a_column(records: Any, tmp_path: Path) -> None:
    effects = tuple(Effect(f"stage1.block{i}", "maxpool", 0.1, 0.3) for i in range(1, 17))
    shown = {
        "latency": charts.accuracy_against(make_rows(records), "latency_ms"),
        "effects": charts.effect_map(JudgedEffects("block", effects, False, 0.9, 0, None, None)),
        "curves": charts.learning_curves(make_rows(records), read_curves(records)),
    }
    for name, chart in shown.items():
        style.save(chart, tmp_path / f"{name}.pdf")
        (page,) = PdfReader(tmp_path / f"{name}.pdf").pages
        assert float(page.mediabox.width) == pytest.approx(style.COLUMN_WIDTH, abs=1)


def test_error_bars_are_spread_and_interval(records: Any) -> None:
    chart = charts.accuracy_against(make_rows(records), "latency_ms").to_dict()
    rows = [row for data in chart["datasets"].values() for row in data]
    maxpool = next(row for row in rows if row["label"] == "maxpool")
    assert maxpool["y"] == pytest.approx(96.5)
    assert maxpool["y_high"] - maxpool["y"] == pytest.approx(0.02**0.5)
    assert maxpool["x_low"] == pytest.approx(0.97 * maxpool["x"])
    assert maxpool["x_high"] == pytest.approx(1.02 * maxpool["x"])


def test_the_front_is_drawn_through_what_nothing_beats(records: Any) -> None:
    worse = make_rows(records)
    chart = charts.accuracy_against(worse, "latency_ms").to_dict()
    fronts = [d for d in chart["datasets"].values() if all(row["front"] for row in d)]
    assert {row["label"] for row in fronts[0]} == {"original", "maxpool", "avgpool"}


def test_a_cost_that_is_not_known_is_named(record: Any) -> None:
    with pytest.raises(PfstudyError, match=r"no latency \(ms\) is known here"):
        charts.accuracy_against(make_rows([record()]), "latency_ms")


def test_what_cannot_be_drawn_is_said_if_it_was_asked_for(record: Any, tmp_path: Path) -> None:
    rows = make_rows([record()])
    drawn, missing = draw(rows, [record()], tmp_path, ["latency", "effects", "curves"], ["svg"])
    assert drawn == []
    assert [text.partition(":")[0] for text in missing] == ["latency", "effects", "curves"]
    drawn, missing = draw(rows, [record()], tmp_path, [], ["svg"])
    assert [path.name for path in drawn] == ["macs.svg", "params.svg"]
    assert missing == []


def test_effects_are_a_map(tmp_path: Path) -> None:
    effects = (
        Effect("stage1", "maxpool", -0.12, 0.3),
        Effect("stage2", "maxpool", -2.0, 0.3),
        Effect("stage2", "avgpool", 0.4, None),
    )
    path = tmp_path / "x.svg"
    style.save(charts.effect_map(JudgedEffects("stage", effects, False, 0.9, 0, None, None)), path)
    assert {"-0.1", "-2.0", "+0.4", "stage1", "stage2", "maxpool", "avgpool"} <= texts(path)
    assert "Bold" not in " ".join(texts(path))


def test_bold_effects_are_better_or_worse_and_not_worse_has_a_mark() -> None:
    effects = (
        Effect("stage1", "maxpool", -2.0, -3.0, -1.0, "worse"),
        Effect("stage2", "maxpool", -0.1, -0.4, 0.2, "not worse"),
        Effect("stage2", "avgpool", -0.5, -1.4, 0.4, "undecided"),
    )
    fitted = ("stage", effects, False, 0.9, 0, None, None)
    model = JudgedEffects(*fitted, confidence=0.975, population="seeds", margin=1.0)
    chart = charts.effect_map(model).to_dict()
    (data,) = chart["datasets"].values()
    assert [(row["text"], row["is_sure"]) for row in data] == [
        ("-2.0", True),
        ("-0.1~", False),
        ("-0.5", False),
    ]
    assert " ".join(chart["title"]["text"]) == (
        "Change of the test accuracy in points. Bold: better or worse. Intervals hold at 97.5 % "
        "for all effects at once, for new trainings on these test images. ~: not worse, loses no "
        "more than the margin of 1 point."
    )


@pytest.mark.parametrize(("num_seeds", "are_drawn"), [(2, True), (1, False)])
def test_titles_say_what_bars_are(records: Any, num_seeds: int, are_drawn: bool) -> None:
    rows = make_rows([record for record in records if record["seed"] < num_seeds])
    drawn = [charts.accuracy_against(rows, cost) for cost in ("macs", "params")]
    drawn.append(charts.replaced_blocks(rows))
    found = [chart.to_dict() for chart in drawn]
    said = [" ".join(chart.get("title", {}).get("text", ())) for chart in found]
    assert ["Bars: standard deviation between seeds." in text for text in said] == [are_drawn] * 3
    of_times = " ".join(charts.accuracy_against(rows, "latency_ms").to_dict()["title"]["text"])
    assert of_times.endswith("95 % interval of the time.")
    assert ("standard deviation" in of_times) == are_drawn


def test_names_that_leave_the_plot_are_not_drawn(records: Any) -> None:
    for record in records:
        if record["variant"]["label"] == "avgpool":
            record["variant"]["label"] = "stage1.block1=avgpool, stage1.block2=avgpool, stage2"
    rows = make_rows(records)
    rows.frame["operations"] = [{"stage1.block1": "maxpool"}] * len(rows.frame)
    data = charts.accuracy_against(rows, "latency_ms").to_dict()["datasets"]
    shown = {row["shown_name"] for rows in data.values() for row in rows}
    assert "original" in shown
    assert not any(name.startswith("stage1") for name in shown)


def test_effects_are_of_the_finest_level_that_there_is(record: Any) -> None:
    records = [
        record(label, accuracy + 0.1 * seed, seed=seed)
        for label, accuracy in (("original", 97.0), ("maxpool", 96.0), ("avgpool", 95.0))
        for seed in (0, 1)
    ]
    for each in records:
        each["variant"]["operations"] = dict.fromkeys(ADDRESSES, each["variant"]["label"])
    chart = KINDS["effects"](make_rows(records), records).to_dict()
    (data,) = chart["datasets"].values()
    assert {(row["place"], row["operation"]) for row in data} == {
        ("everywhere", "maxpool"),
        ("everywhere", "avgpool"),
    }


def test_curves_are_read_as_they_went_on(records: Any) -> None:
    curves = read_curves(records)
    assert len(curves) == 6 * 2
    assert curves.query("seed == 1 and epoch == 2")["val_top1_percent"].tolist() == [91.0] * 3
    assert read_curves([{"identity": {"hash": "x"}, "seed": 0}]).empty


def test_lines_of_replaced_blocks_begin_at_the_backbone(records: Any) -> None:
    chart = charts.replaced_blocks(make_rows(records)).to_dict()
    data = pd.DataFrame(next(iter(chart["datasets"].values())))
    by_operation = data.groupby("what")["num_replaced"].apply(sorted).to_dict()
    assert by_operation == {"maxpool": [0, 2], "avgpool": [0, 4], "original": [0]}


@pytest.mark.parametrize("name", ["x.gif", "x"])
def test_an_ending_that_is_no_pictures_is_named(records: Any, tmp_path: Path, name: str) -> None:
    chart = charts.accuracy_against(make_rows(records), "macs")
    with pytest.raises(PfstudyError, match=r"use \.svg, \.pdf, \.png"):
        style.save(chart, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_colours_are_told_apart_and_the_baselines_is_black() -> None:
    names = ["original", *map(str, range(len(style.COLOURS)))]
    scale = style.colour_scale(names, "original").to_dict()
    assert scale["range"][0] == style.BASELINE
    assert len(set(scale["range"])) == len(names)
