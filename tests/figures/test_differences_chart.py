from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from pfstudy.figures import style
from pfstudy.figures.differences import difference_intervals
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.statistics import Criteria

PLACES = "stage1.block1=maxpool, stage1.block2=avgpool, stage2.block1=maxpool, stage2.block2="
LONG = [f"{PLACES}{operation}" for operation in ("maxpool", "avgpool", "dwconv")]
WIDE = [80 * "W", f"{79 * 'W'}X"]

Study = Callable[..., Rows]


@pytest.fixture
def study(record: Callable[..., Any]) -> Study:
    """Variants in points of the original, the first better and the last worse."""

    def made(labels: Sequence[str], families: Sequence[str] = ("base",), **criteria: Any) -> Rows:
        records = [
            record(label, 90 + accuracy + 0.1 * seed * (1 + number), seed=seed, family=family)
            for family in families
            for number, (label, accuracy) in enumerate(
                [("original", 0.0), *((label, 3.0 - 3.0 * i) for i, label in enumerate(labels))]
            )
            for seed in (0, 1, 2)
        ]
        for each in records:
            each["variant"]["model"] = each["identity"]["baseline"]
        return make_rows(records, Criteria(**criteria))

    return made


def save(rows: Rows, path: Path) -> Any:
    """Root of the SVG."""
    style.save(difference_intervals(rows), path)
    return ElementTree.parse(path).getroot()


def plot_width(root: Any) -> float:
    """Width of the frame of the plot, which is the first background."""
    paths = [e.get("d") for e in root.iter() if e.get("class") == "background" and e.get("d")]
    (width,) = {float(re.findall(r"h(-?[\d.]+)", path)[0]) for path in paths[:1]}
    return abs(width)


def title_of(rows: Rows) -> str:
    return " ".join(difference_intervals(rows).to_dict()["title"]["text"])


@pytest.mark.parametrize("labels", [["maxpool", "avgpool"], LONG, WIDE], ids=["", "long", "wide"])
def test_the_plot_has_room_and_names_are_whole(
    study: Study, tmp_path: Path, labels: list[str]
) -> None:
    root = save(study(labels, margin=2.0), tmp_path / "x.svg")
    assert float(root.get("width")) == pytest.approx(style.COLUMN_WIDTH, abs=1)
    assert plot_width(root) >= 110
    written = "".join(e.text for e in root.iter() if e.tag.endswith(("text", "tspan")) and e.text)
    for label in labels:
        assert label.replace(" ", "") in written.replace(" ", "")
    sizes = re.findall(r'font-size="([\d.]+)', (tmp_path / "x.svg").read_text())
    assert min(map(float, sizes)) >= 7
    assert "difference (points)" in written
    ticks = [e.text for e in root.iter() if e.text and re.fullmatch(r"[\u2212-]?\d+", e.text)]
    assert len(ticks) >= 3


def test_legend_and_title_stay_in_the_picture(study: Study, tmp_path: Path) -> None:
    rows = study(["a" * 40, "b" * 40, "c" * 40, "d" * 40], margin=0.9)
    assert rows.frame["verdict"].nunique() > 2
    legend = difference_intervals(rows).to_dict()["layer"][-1]["encoding"]["color"]["legend"]
    assert legend["columns"] == 1
    wide = study(["a", "b", "c", "d"], margin=0.9)
    legend = difference_intervals(wide).to_dict()["layer"][-1]["encoding"]["color"]["legend"]
    assert legend["columns"] > 1


def test_the_title_says_what_intervals_hold_for(study: Study) -> None:
    assert title_of(study(["maxpool", "avgpool"])) == (
        "Difference to the unsubstituted backbone. Intervals hold at 95 % for all variants at "
        "once, for new trainings on these test images."
    )
    named = study(["maxpool", "avgpool"], baseline="avgpool", margin=1.0)
    assert title_of(named).startswith("Difference to avgpool. Intervals")
    assert title_of(named).endswith("Dashed: a loss of the margin, 1 point.")


def test_several_baselines_are_said(study: Study) -> None:
    said = title_of(study(["maxpool", "avgpool"], families=("one", "two")))
    assert "for all variants compared with the same baseline at once" in said
