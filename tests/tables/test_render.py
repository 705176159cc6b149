from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pypdf import PdfReader
from rich.console import Console

from pfstudy.counting import COUNTING
from pfstudy.errors import PfstudyError
from pfstudy.tables import render
from pfstudy.tables.content import Content, make_content
from pfstudy.tables.latex import PACKAGES, latex
from pfstudy.tables.rows import Rows, make_rows
from records import Record

ODD = r"odd_name & 50% of #1 $x$ {a|b} ~^ \end"


@pytest.fixture
def rows(record: Any) -> Rows:
    """A baseline and a variant, two seeds each."""
    return make_rows(
        [
            record("original", 97.0, speed=(2.0, 1.0)),
            record("original", 98.0, seed=1, speed=(2.0, 1.0)),
            *(
                record("maxpool", accuracy, seed=seed, speed=(1.6, 0.8), params=500_000,
                       macs=123_456_789)
                for seed, accuracy in enumerate((96.0, 96.9))
            ),
        ]
    )  # fmt: skip


def markdown(rows: Rows) -> str:
    return render.markdown(make_content(rows))


def latex_of(rows: Rows) -> str:
    return latex(make_content(rows))


def caption(rows: Rows) -> str:
    return make_content(rows).caption


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split(" | ")]


def test_markdown_has_a_line_for_every_variant(rows: Rows) -> None:
    lines = markdown(rows).splitlines()
    assert [cells_of(line) for line in (lines[0], *lines[2:4])] == [
        ["variant", "params (M)", "MACs (G)", "latency (ms)", "speed (x)", "top-1 (%)",
         "diff. (points)", "interval", "verdict", "front"],
        ["original (conv)", "1.00", "2.00", "2.00", "1.00", "**97.50 ± 0.71**", "+0.00", "-", "",
         "yes"],
        ["maxpool", "**0.500**", "**0.123**", "1.60", "1.25", "96.45 ± 0.64", "-1.05",
         "-1.78 to -0.32", "worse", "yes"],
    ]  # fmt: skip
    assert cells_of(lines[1]) == [":--"] + ["--:"] * 7 + [":--"] * 2


def test_the_caption_says_what_the_figures_are(rows: Rows) -> None:
    assert (
        "\n\nTest accuracy on digits after the last epoch, 2 seeds (mean ± standard deviation). "
        "Differences to the baseline with intervals that hold at 95 % for all variants compared "
        "with the same baseline at once. Intervals are for new trainings of these variants, judged "
        "on these test images. MACs: multiply-accumulates of convolutions, linear layers and "
        "matrix products, those of attention included. Latency and speed relative to the "
        "unsubstituted backbone: Some CPU, 1 thread, batch 1, contiguous, float32, eager. On the "
        "front of accuracy over latency: yes, in at least 95 % of draws from their errors; no, in "
        "fewer than 5 %. Bold: the best of a column, where it can be told from all others.\n\n<!--"
    ) in markdown(rows)


def test_the_caption_of_one_seed_speaks_of_no_deviation(record: Any) -> None:
    rows = make_rows([record()])
    assert caption(rows) == (
        "Test accuracy on digits after the last epoch, 1 seed. MACs: multiply-accumulates of "
        "convolutions, linear layers and matrix products, those of attention included."
    )


def test_the_caption_says_what_macs_are_where_they_are_shown(record: Any) -> None:
    rows = make_rows([record()])
    assert "MACs: " not in make_content(rows, columns=["params"]).caption
    assert "MACs: " in make_content(rows, columns=["macs"]).caption


COUNTED = {"activations": 3_000_000, "memory_traffic_bytes": 20_000_000}


def costly(record: Record, **cost: int) -> Record:
    return {**record, "cost": {**record["cost"], **cost}}


def test_figures_that_another_version_counted_differently_are_blank(record: Any) -> None:
    rows = make_rows(
        [
            costly(record(), **COUNTED, counting=COUNTING),
            costly(record("maxpool"), **COUNTED),
            costly(record("avgpool"), **COUNTED, counting=COUNTING + 1),
        ]
    )
    columns = ["params", "macs", "activations", "memory_traffic_bytes"]
    content = make_content(rows, columns=columns)
    lines = render.markdown(content).splitlines()
    assert [cells_of(line) for line in lines[2:5]] == [
        ["original (conv)", "1.00", "2.00", "3.00", "20.0"],
        ["maxpool", "1.00", "2.00", "-‡", "-‡"],
        ["avgpool", "1.00", "2.00", "-‡", "-‡"],
    ]
    sentence = (
        "‡: another version of pfstudy counted activations and traffic of 2 variants in another "
        "way; pfstudy recount counts them again and trains nothing."
    )
    assert sentence in content.caption
    assert r"{--\textdaggerdbl{}}" in latex(content)
    assert [row["activations"] for row in json.loads(render.json(content))] == [3e6, None, None]
    assert sentence not in make_content(rows, columns=["macs"]).caption


def test_columns_of_which_all_figures_are_outdated_say_so(record: Any) -> None:
    rows = make_rows([costly(record(), **COUNTED)])
    assert "-‡" in render.markdown(make_content(rows, style="full"))
    assert "traffic" not in render.markdown(make_content(make_rows([record()]), style="full"))


def test_seeds_of_which_one_is_counted_so_are_not_blank(record: Any) -> None:
    old, new = costly(record(), **COUNTED), costly(record(seed=1), **COUNTED, counting=COUNTING)
    rows = make_rows([old, new])
    assert rows.frame["activations"].tolist() == [3_000_000]
    assert rows.frame["cost_mark"].tolist() == [""]


def test_what_was_not_measured_has_no_column(record: Any) -> None:
    header = markdown(make_rows([record()])).splitlines()[0]
    assert "latency" not in header
    assert "speed" not in header


def test_the_caption_explains_a_projection(record: Any) -> None:
    rows = make_rows([record(), record("maxpool", num_projected_sites=2)])
    assert "maxpool (+1x1)" in markdown(rows)
    assert "(+1x1): a 1x1 convolution follows" in caption(rows)


def test_figures_of_speed_are_marked_and_the_marks_explained(record: Any) -> None:
    busy = {"others_load": 0.5, "max_load": 0.1}
    rows = make_rows(
        [record(speed=(2.0, 1.0)), record("maxpool", speed=(1.6, 0.8), **busy, fell_back=True)]
    )
    lines = markdown(rows).splitlines()
    assert cells_of(lines[2])[3:5] == ["2.00", "1.00"]
    assert cells_of(lines[3])[3:5] == [r"1.60\*†", r"1.25\*†"]
    assert (
        "*: measured while others used the machine. †: computed eagerly, as it does not compile."
        in caption(rows)
    )


def test_csv_is_unrounded_under_the_keys_of_the_columns(rows: Rows) -> None:
    baseline, maxpool = csv.DictReader(io.StringIO(render.csv(make_content(rows))))
    assert (maxpool["variant"], maxpool["params"], maxpool["macs"]) == (
        "maxpool",
        "500000",
        "123456789",
    )
    assert float(baseline["test_top1_percent_std"]) == pytest.approx(0.5**0.5, rel=1e-12)
    assert (baseline["num_seeds"], maxpool["num_seeds"]) == ("2", "2")
    assert baseline["population"] == ""
    assert maxpool["population"] == "seeds"
    assert float(maxpool["difference_points"]) == pytest.approx(-1.05, rel=1e-12)


def test_files_for_programs_say_which_figures_of_speed_are_marked(record: Any) -> None:
    busy = {"others_load": 0.5, "max_load": 0.1}
    rows = make_rows([record(speed=(2.0, 1.0), **busy), record("maxpool"), record("avgpool")])
    assert [
        row["speed_mark"] for row in csv.DictReader(io.StringIO(render.csv(make_content(rows))))
    ] == [*("*", "", "")]
    found = json.loads(render.json(make_content(rows)))
    assert [row["speed_mark"] for row in found] == ["*", "", ""]
    setting = "Some CPU, 1 thread, batch 1, contiguous, float32, eager"
    assert [row["speed_setting"] for row in found] == [setting, None, None]


def test_files_for_programs_say_nothing_of_speed_where_there_is_none(record: Any) -> None:
    rows = make_rows([record()])
    assert "speed_mark" not in render.csv(make_content(rows))
    assert not {"speed_mark", "speed_setting"} & set(json.loads(render.json(make_content(rows)))[0])


def test_a_setting_that_varies_stands_behind_the_variant(record: Any) -> None:
    rows = make_rows([record(lr=0.1), record("maxpool", lr=0.2)])
    assert markdown(rows).startswith("| variant | lr | ")
    assert render.csv(make_content(rows)).startswith("variant,recipe.lr,")


def test_settings_of_one_last_name_are_told_apart(record: Any) -> None:
    one, other = record(family="a"), record("maxpool", family="b")
    for form, sizes in ((one, (8, 16)), (other, (9, 17))):
        canonical = form["identity"]["canonical"]
        canonical["data"] = {"size": sizes[0]}
        canonical["recipe"]["size"] = sizes[1]
    text = markdown(make_rows([one, other]))
    assert all(f" {size} " in text for size in (8, 9, 16, 17))


def test_pipes_are_escaped_in_markdown(record: Any) -> None:
    line = markdown(make_rows([record(ODD)])).splitlines()[2]
    assert r"{a\|b}" in line


def test_latex_has_booktabs_rules_and_escaped_cells(record: Any) -> None:
    text = latex_of(make_rows([record("original"), record(ODD)]))
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1
    assert (
        r"odd\_name \& 50\% of \#1 \$x\$ \{a|b\} \textasciitilde{}\textasciicircum{} "
        r"\textbackslash{}end" in text
    )
    assert r"{top-1}" in text
    assert r"{l S[table-format=1.2] S[table-format=1.2] S[table-format=2.2]" in text


def test_a_name_looks_the_same_in_the_terminal(record: Any, rows: Rows) -> None:
    odd = make_rows([record("[bold]not bold[/bold]"), record("a" * 60)])
    text = printed(odd)
    assert "[bold]not bold[/bold]" in text
    assert "maxpool" in printed(rows)
    assert "97.50 +- 0.71" in printed(rows)


def printed(rows: Rows) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(render.terminal(make_content(rows, name="title")))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_a_file_is_written_for_every_format(rows: Rows, tmp_path: Path) -> None:
    content = make_content(rows)
    paths = render.write_files(content, tmp_path / "made", list(render.FORMATS))
    assert [path.suffix for path in paths] == [".md", ".tex", ".csv", ".html", ".json"]
    assert [path.read_text() for path in paths] == [
        write(content) for _, write in render.FORMATS.values()
    ]
    assert len(list((tmp_path / "made").iterdir())) == len(paths)


def test_a_directory_that_cannot_be_made_is_named(rows: Rows, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PfstudyError, match=r"file/table\.md cannot be written"):
        render.write_files(make_content(rows), tmp_path / "file", ["markdown"])


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[[Content], tuple[str, str]]:
    """Compile a table into a page; gives the page's text and what LaTeX said."""
    packages = subprocess.run(
        ["kpsewhich", "adjustbox.sty", "multirow.sty", "siunitx.sty"],
        capture_output=True,
        text=True,
        check=False,
    ) if shutil.which("kpsewhich") and shutil.which("pdflatex") else None  # fmt: skip
    if packages is None or len(packages.stdout.split()) < 3:
        pytest.skip("pdflatex with adjustbox, multirow and siunitx is not installed")

    def compile_page(content: Content) -> tuple[str, str]:
        lines = [
            r"\documentclass[twocolumn]{article}",
            rf"\usepackage{{{','.join(PACKAGES)}}}",
            r"\begin{document}",
            r"\input{table}",
            r"\end{document}",
        ]
        (tmp_path / "paper.tex").write_text("\n".join(lines))
        render.write_files(content, tmp_path, ["latex"])
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:]
        (page,) = PdfReader(tmp_path / "paper.pdf").pages
        return page.extract_text(), (tmp_path / "paper.log").read_text(errors="replace")

    return compile_page


class TestCompiledLatex:
    @pytest.fixture
    def records(self, record: Any) -> list[Any]:
        timed = {"relative_latency_low": 0.78, "relative_latency_high": 0.82}
        return [
            record("original", 97.0, speed=(2.0, 1.0)),
            record("original", 97.2, seed=1, speed=(2.0, 1.0)),
            record(ODD, 96.0, lr=0.2, speed=(1.6, 0.8), num_projected_sites=1, **timed),
            record(ODD, 90.1, seed=1, lr=0.2, speed=(1.6, 0.8), num_projected_sites=1, **timed),
            record("better", 99.0, speed=(1.2, 0.6), fell_back=True),
            record("better", 99.1, seed=1, speed=(1.2, 0.6), fell_back=True),
        ]

    @pytest.mark.parametrize("style", ["short", "paper", "full"])
    def test_fits_a_column_and_misses_no_character(
        self, records: Any, compiled: Any, style: str
    ) -> None:
        content = make_content(make_rows(records), style=style)
        text, log = compiled(content)
        assert "Overfull" not in log
        assert "Missing character" not in log
        assert "original (conv)" in text
        assert "50% of #1" in text

    def test_figures_stand_on_the_page_as_in_the_table(self, records: Any, compiled: Any) -> None:
        text, _ = compiled(make_content(make_rows(records), style="paper", name="my_study"))
        page = " ".join(text.split())
        assert re.search(r"97\.10 ?± ?0\.14", page)
        assert re.search(r"93\.05 ?± ?4\.17", page)
        assert "cost" in page
        assert page.index("params") < page.index("(M)")

    def test_groups_span_their_lines(self, record: Any, compiled: Any) -> None:
        records = [
            record(label, family=model, model=model)
            for model in ("resnet18", "resnet50")
            for label in ("original", "maxpool")
        ]
        content = make_content(make_rows(records), group_by=["model"])
        text, _ = compiled(content)
        assert latex(content).count(r"\multirow{2}{*}") == 2
        assert text.count("resnet18") == text.count("resnet50") == 1


@pytest.mark.parametrize("value", [1.2345e-15, 96.123456789012345, 1 / 3, 0.1 + 0.2])
def test_json_keeps_every_digit(record: Any, value: float) -> None:
    made = record("maxpool", value)
    (row,) = json.loads(render.json(make_content(make_rows([made]))))
    assert row["test_top1_percent"] == value
    assert row["test_top1_percent_std"] is None
    assert row["num_seeds"] == 1
