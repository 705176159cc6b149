from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pfstudy.errors import PfstudyError
from pfstudy.sources import Incomplete
from pfstudy.tables import render
from pfstudy.tables.columns import BY_KEY, STYLES
from pfstudy.tables.content import Content, make_content
from pfstudy.tables.latex import latex
from pfstudy.tables.rows import make_rows

BASE = [97.0, 97.2, 97.1]


@pytest.fixture
def records(record: Any) -> list[Any]:
    """Two backbones, each with a variant that is clearly worse and one that is not."""
    found = []
    for model, family, offset in (("small", "a", 0.0), ("large", "b", 2.0)):
        for label, change in (("original", 0.0), ("maxpool", -3.0), ("avgpool", 0.05)):
            for seed, accuracy in enumerate(BASE):
                found.append(
                    record(label, accuracy + change + offset, family=family, model=model, seed=seed)
                )
    return found


def texts(content: Content) -> list[list[str]]:
    return [
        [render.plain_cell(c, cell, " ± ") for c, cell in zip(content.columns, line, strict=True)]
        for line in content.lines
    ]


def test_columns_that_are_asked_for_are_shown_though_empty(records: Any) -> None:
    content = make_content(make_rows(records), columns=["latency_ms", "verdict"])
    assert [column.key for column in content.columns] == ["variant", "latency_ms", "verdict"]
    assert texts(content)[0] == ["original (conv)", "-", ""]


@pytest.mark.parametrize("style", STYLES)
def test_what_is_not_known_has_no_column(records: Any, style: str) -> None:
    keys = {column.key for column in make_content(make_rows(records), style=style).columns}
    assert "latency_ms" not in keys
    assert {"variant", "params", "test_top1_percent"} <= keys


def test_styles_have_columns_that_exist() -> None:
    assert {key for keys in STYLES.values() for key in keys} <= set(BY_KEY)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        pytest.param({"style": "papre"}, "style 'papre' does not exist", id="style"),
        pytest.param({"columns": ["latency"]}, "column 'latency' does not exist", id="column"),
        pytest.param({"group_by": ["modle"]}, "'modle' does not exist", id="group"),
    ],
)
def test_a_name_that_does_not_exist_lists_the_choices(
    records: Any, arguments: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(PfstudyError, match=sentence):
        make_content(make_rows(records), **arguments)


def test_lines_are_grouped(records: Any) -> None:
    content = make_content(make_rows(records), group_by=["model"], columns=["verdict"])
    assert content.spans == [[3, 0, 0, 3, 0, 0]]
    markdown = render.markdown(content).splitlines()[2:8]
    assert [line.split(" | ")[0].strip("| ") for line in markdown] == [
        *("small", "", ""),
        *("large", "", ""),
    ]
    assert r"\multirow{3}{*}{small} & original (conv)" in latex(content)
    assert latex(content).count(r"\midrule") == 2
    assert render.html(content).count('rowspan="3"') == 2


def test_the_best_is_bold_only_where_the_difference_is_real(record: Any) -> None:
    close = [record("original", a, seed=i) for i, a in enumerate(BASE)]
    alike = [record("avgpool", a + 0.05, seed=i) for i, a in enumerate(BASE)]
    better = [record("conv5", a + 4, seed=i) for i, a in enumerate(BASE)]
    assert not make_rows([*close, *alike]).frame["is_most_accurate"].any()
    frame = make_rows([*close, *alike, *better]).frame
    assert list(frame.loc[frame["is_most_accurate"], "label"]) == ["conv5"]
    content = make_content(make_rows([*close, *alike, *better]))
    assert "**101.10 ± 0.10**" in render.markdown(content)
    assert r"\bfseries 101.10 +- 0.10" in latex(content)


def test_the_fastest_is_bold_where_its_interval_is_below_all_others(record: Any) -> None:
    def timed(label: str, ratio: float, half: float) -> Any:
        found = record(label, speed=(2 * ratio, ratio))
        found["speed"][0] |= {
            "relative_latency_low": ratio - half,
            "relative_latency_high": ratio + half,
        }
        return found

    near = [timed("original", 1.0, 0.0), timed("maxpool", 0.8, 0.1), timed("avgpool", 0.75, 0.1)]
    assert not make_rows(near).frame["is_fastest"].any()
    far = [*near[:2], timed("avgpool", 0.5, 0.1)]
    frame = make_rows(far).frame
    assert list(frame.loc[frame["is_fastest"], "label"]) == ["avgpool"]


def test_runs_that_are_not_in_the_table_are_named(record: Any) -> None:
    left = [Incomplete(f"run{i}", "failed", ("x", i)) for i in range(5)]
    rows = make_rows([record()], incomplete=[*left, Incomplete("last", "running", ("x", 9))])
    assert make_content(rows).caption.endswith(
        "Not in the table: 6 runs (5 failed, 1 running): run0, run1, run2, run3 and 2 more."
    )


def test_the_provenance_is_a_comment(records: Any) -> None:
    text = latex(make_content(make_rows(records)))
    assert "% commits: 1a2b3c4d5e6f" in text
    assert "% a-maxpool: seeds 0, 1, 2" in text


def test_groups_of_columns_have_a_header_of_their_own(records: Any) -> None:
    text = latex(make_content(make_rows(records)))
    assert r"\multicolumn{2}{c}{cost}" in text
    assert r"\cmidrule(lr){3-4}" in text  # behind variant and model


def test_html_is_escaped(record: Any) -> None:
    text = render.html(make_content(make_rows([record("<script>alert(1)</script>")])))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_bold_is_bold_in_the_terminal(records: Any) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=True, color_system="standard")
    better = [r for r in records if r["variant"]["model"] == "small"]
    for r in better:
        if r["variant"]["label"] == "avgpool":
            r["metrics"]["test_top1_percent"] += 2.8
    console.print(render.terminal(make_content(make_rows(better))))
    assert "\x1b[1m99.95 +- 0.10" in console.file.getvalue()  # type: ignore[attr-defined]


def test_no_name_ends_a_comment(record: Any) -> None:
    made = record("maxpool")
    made["identity"]["hash"] = "a-->\n\\input{secrets}"
    content = make_content(make_rows([record(), made]))
    assert render.html(content).count("-->") == 1
    assert all(line.startswith("%") for line in latex(content).splitlines()[:5])
    assert "\n\\input" not in latex(content)
