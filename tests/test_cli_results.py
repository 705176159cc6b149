"""The commands that show finished runs, called in this process."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfstudy.files import write_json
from pfstudy.tables.published import RECIPES
from records import Record, leave_records, make_record

Call = Callable[..., tuple[int | str | None, str, str]]

ADDRESSES = ("stage1.block1", "stage1.block2", "stage2.block1", "stage2.block2")


def network(label: str, accuracy: float, **options: Any) -> Record:
    made = make_record(label, accuracy, **options)
    stands = dict.fromkeys(ADDRESSES, label)
    if "=" in label:
        place, _, operation = label.partition("=")
        stands = {a: operation if a == place else "original" for a in ADDRESSES}
    made["variant"]["operations"] = stands
    return made


@pytest.fixture
def runs(call_here: Call) -> list[str]:
    """A backbone and two variants with three seeds each, one of them much worse."""
    made = []
    for label, accuracy, ratio in (
        ("original", 97, 1.0),
        ("maxpool", 96.9, 0.8),
        ("identity", 90, 0.7),
    ):
        for seed in range(3):
            interval = {"relative_latency_low": ratio - 0.01, "relative_latency_high": ratio + 0.01}
            made.append(
                network(
                    label, accuracy + 0.1 * seed, seed=seed, speed=(2 * ratio, ratio), **interval
                )
            )
    members = leave_records("runs", *made)
    study = {"schema_version": 1, "name": "pooling", "members": members[:6]}
    write_json(Path("runs/studies/pooling.json"), study)
    return members


def refused(answer: tuple[int | str | None, str, str]) -> str:
    code, out, err = answer
    assert (code, out) == (2, "")
    (sentence,) = [line for line in err.splitlines() if not line.startswith("reading ")]
    assert sentence.startswith("pfstudy: ")
    return sentence.removeprefix("pfstudy: ")


class TestTable:
    @pytest.mark.usefixtures("runs")
    def test_says_which_differences_are_real(self, call_here: Call) -> None:
        code, out, err = call_here("table")
        assert (code, err) == (0, "")
        lines = {line.split()[0]: line for line in out.splitlines() if "+-" in line}
        assert list(lines) == ["original", "identity", "maxpool"]
        assert re.search(r"-0\.10 +-0\.\d+ to \+0\.\d+ +undecided", lines["maxpool"])
        assert re.search(r"-7\.00 +-7\.\d+ to -6\.\d+ +worse", lines["identity"])
        assert "Intervals are for new trainings" in out
        assert sorted(p.name for p in Path("runs").glob("table.*")) == [
            *("table.csv", "table.md", "table.tex")
        ]

    @pytest.mark.usefixtures("runs")
    def test_every_format_is_written_where_it_is_wanted(self, call_here: Call) -> None:
        formats = "markdown,latex,csv,html,json"
        code, _, _ = call_here("table", "runs", "--format", formats, "-o", "paper/tables")
        assert code == 0
        assert sorted(path.name for path in Path("paper/tables").iterdir()) == [
            f"table.{ending}" for ending in ("csv", "html", "json", "md", "tex")
        ]
        (rows,) = [json.loads(path.read_text()) for path in Path("paper/tables").glob("*.json")]
        with Path("paper/tables/table.csv").open(newline="") as file:
            read = list(csv.DictReader(file))
        assert [row["verdict"] for row in read] == [row["verdict"] or "" for row in rows]
        assert not Path("runs/table.md").exists()

    @pytest.mark.usefixtures("runs")
    def test_columns_and_styles(self, call_here: Call) -> None:
        _, out, _ = call_here("table", "--columns", "test_top1_percent,p_value")
        assert out.splitlines()[1].split() == ["variant", "top-1", "(%)", "p"]
        _, out, _ = call_here("table", "--style", "paper")
        assert "verdict" not in out
        _, out, _ = call_here("table", "--style", "full", "--json")
        assert {"p_value", "front_probability", "relative_latency_low"} <= json.loads(out)[0].keys()

    @pytest.mark.usefixtures("runs")
    def test_a_study_has_its_members_alone_and_its_own_files(self, call_here: Call) -> None:
        code, out, _ = call_here("table", "--study", "pooling")
        assert code == 0
        assert "identity" not in out
        assert r"\label{tab:pooling}" in Path("runs/studies/pooling/table.tex").read_text()

    @pytest.mark.usefixtures("runs")
    def test_a_source_that_stands_twice_counts_once(self, call_here: Call) -> None:
        code, out, _ = call_here("table", "runs", "runs")
        assert code == 0
        assert "in several sources, counted once: 9 runs" in out
        assert "3 seeds" in out

    def test_figures_of_the_paper_stand_beside_ours(self, call_here: Call) -> None:
        published = {"params": 14_232_232, "macs": 2_239_496_192}
        backbone = {"params": 25_557_032, "macs": 4_089_184_256}
        records = (
            make_record("original", 76.5, model="resnet50", **backbone),
            make_record("maxpool", 74.0, model="resnet50", **published),
        )
        for record in records:
            record["identity"]["canonical"]["recipe"] = RECIPES["r50_90ep"]
        leave_records("runs", *records)
        code, out, _ = call_here("table", "--compare", "paper")
        assert code == 0
        (line,) = [line for line in out.splitlines() if line.split()[:1] == ["maxpool"]]
        assert line.split()[-4:] == ["R50-max", "74.30", "92.00", "0.78"]
        assert "Han et al. 2022" in " ".join(out.split())

    @pytest.mark.usefixtures("runs")
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            pytest.param(["--style", "papr"], "style 'papr' does not exist", id="style"),
            pytest.param(["--columns", "latency"], "column 'latency' does not exist", id="column"),
            pytest.param(["--format", "pdf"], "format 'pdf' does not exist", id="format"),
            pytest.param(["--compare", "us"], "--compare 'us' does not exist", id="compare"),
            pytest.param(["--compare", "paper"], "none of these networks", id="paper"),
            pytest.param(["--rows", "variant,model"], "--rows ends with variant", id="rows"),
            pytest.param(["--rows", "lr,variant"], "'lr'", id="group"),
            pytest.param(["--rows", ""], "--rows ends with variant", id="no rows"),
            pytest.param(["--format", ""], "--format takes at least one", id="no format"),
            pytest.param(["--baseline", "maxpol"], "Did you mean", id="baseline"),
            pytest.param(["--study", "poling"], "Did you mean", id="study"),
            pytest.param(["--speed", "device=H100"], "no speed was measured with", id="speed"),
            pytest.param(["nothing"], "there is no directory nothing", id="directory"),
            pytest.param(["wandb:me"], "wandb:", id="project"),
        ],
    )  # fmt: skip
    def test_mistakes_are_one_sentence_and_write_nothing(
        self, call_here: Call, arguments: list[str], sentence: str
    ) -> None:
        assert sentence in refused(call_here("table", *arguments))
        assert list(Path("runs").glob("table.*")) == []


class TestBadRecords:
    @pytest.mark.parametrize("command", ["table", "figure", "report", "power", "effects", "audit"])
    def test_an_empty_directory(self, call_here: Call, command: str) -> None:
        Path("runs").mkdir()
        assert "no finished runs" in refused(call_here(command))
        assert list(Path("runs").iterdir()) == []

    @pytest.mark.parametrize("command", ["table", "figure", "report", "power", "audit"])
    @pytest.mark.usefixtures("runs")
    def test_a_truncated_record(self, call_here: Call, runs: list[str], command: str) -> None:
        path = Path("runs", runs[0], "record.json")
        path.write_text(path.read_text()[:500])
        code, out, err = call_here(command)
        assert code == (1 if command == "audit" else 0)  # the others have another seed
        assert f"left out: {path} is damaged" in err
        if command == "table":
            assert "1 run (1 damaged): slug-seed0." in " ".join(out.split())

    @pytest.mark.parametrize(
        ("place", "value"),
        [
            pytest.param("metrics/test_top1_percent", 150, id="accuracy"),
            pytest.param("metrics/test_top1_percent", -3, id="negative accuracy"),
            pytest.param("metrics/test_top1_percent", True, id="true"),
            pytest.param("cost/params", -5, id="params"),
        ],
    )
    def test_an_impossible_figure(
        self, call_here: Call, runs: list[str], place: str, value: Any
    ) -> None:
        path = Path("runs", runs[0], "record.json")
        record = json.loads(path.read_text())
        group, key = place.split("/")
        record[group][key] = value
        write_json(path, record)
        code, out, err = call_here("table")
        assert code == 0
        assert f"{path} is damaged: {group}.{key} is {json.dumps(value)}, but must be" in err
        assert "2 to 3 seeds" in " ".join(out.split())

    @pytest.mark.usefixtures("runs")
    def test_nothing_but_damaged_records(self, call_here: Call, runs: list[str]) -> None:
        for run in runs:
            Path("runs", run, "record.json").write_text("{")
        code, _, err = call_here("table")
        assert code == 2
        assert "there are no finished runs in runs, but 9 runs damaged." in err

    @pytest.mark.usefixtures("runs")
    def test_another_schema_version(self, call_here: Call, runs: list[str]) -> None:
        path = Path("runs", runs[0], "record.json")
        write_json(path, json.loads(path.read_text()) | {"schema_version": 99})
        code, _, err = call_here("table")
        assert code == 0
        assert f"left out: {path} has schema version 99" in err

    def test_a_damaged_study(self, call_here: Call, runs: list[str]) -> None:
        Path("runs/studies/pooling.json").write_text("{}")
        assert "pooling.json is damaged" in refused(call_here("table", "--study", "pooling"))

    def test_damaged_curves(self, call_here: Call, runs: list[str]) -> None:
        Path("runs", runs[0], "metrics.csv").touch()
        assert "metrics.csv is damaged" in refused(call_here("report"))

    def test_paths_are_no_markup(self, call_here: Call) -> None:
        leave_records("r[b]uns", make_record())
        code, out, _ = call_here("table", "r[b]uns")
        assert code == 0
        assert "written: r[b]uns/table.md" in out

    def test_what_is_not_done_is_counted(self, call_here: Call) -> None:
        write_json(Path("runs/x-1/seed0/state.json"), {"state": "failed", "reason": "memory"})
        assert "in runs, but 1 run not done" in refused(call_here("table"))

    def test_one_seed_has_no_spread_and_no_invented_test(self, call_here: Call) -> None:
        leave_records("runs", make_record("original", 97.0), make_record("maxpool", 96.0))
        code, out, _ = call_here("table")
        assert code == 0
        assert "+-" not in out
        assert "1 difference could not be tested" in " ".join(out.split())
        assert "no variant that is compared has two seeds" in refused(call_here("power"))

    def test_runs_that_failed_are_counted_and_named(self, call_here: Call, runs: list[str]) -> None:
        crashed = Path("runs", Path(runs[0]).parent, "seed3")
        write_json(crashed / "state.json", {"state": "failed", "reason": "out of memory"})
        code, out, _ = call_here("table")
        assert code == 0
        assert "Not in the table: 1 run (1 failed): slug-seed3." in " ".join(out.split())

    def test_studies_of_several_datasets_are_no_one_picture(self, call_here: Call) -> None:
        other = make_record("original", 50.0, family="other")
        other["identity"]["canonical"]["data"] = {"fingerprint": "x", "num_test": 100}
        leave_records("runs", make_record(), other | {"data": "cifar10"})
        assert "do not fit into one picture" in refused(call_here("figure"))


class TestOthers:
    @pytest.mark.usefixtures("runs")
    def test_power_says_how_many_seeds_would_tell(self, call_here: Call) -> None:
        code, out, _ = call_here("power")
        assert code == 0
        assert re.search(r"maxpool +-0\.10 +-0\.\d+ to \+0\.\d+ +undecided +0\.\d+ +3 +\d+ ", out)
        assert "no more than 0.5 points" in " ".join(out.split())
        made = json.loads(call_here("power", "--difference", "0.2", "--json")[1])
        assert (made["difference"], made["margin"]) == (0.2, None)
        assert "between 0 and 1" in refused(call_here("power", "--power", "80"))
        for value in ("0", "nan", "inf"):
            assert "in points" in refused(call_here("power", "--difference", value))
            assert "in points" in refused(call_here("power", "--margin", value))

    def test_effects_of_places(self, call_here: Call) -> None:
        single = [
            network(f"{address}=maxpool", 97.0 - 0.5 * i, seed=seed)
            for i, address in enumerate(ADDRESSES)
            for seed in (0, 1)
        ]
        leave_records("runs", network("original", 97.0), *single)
        code, out, _ = call_here("effects")
        assert code == 0
        assert re.search(r"stage2\.block2 +-1\.50", out)
        assert json.loads(call_here("effects", "--json")[1])[0]["level"] == "block"

    @pytest.mark.usefixtures("runs")
    def test_figures_are_written(self, call_here: Call) -> None:
        code, out, _ = call_here("figure", "--kind", "latency,curves", "--format", "svg")
        assert code == 0
        assert "curves: the runs have no metrics.csv here." in out
        assert Path("runs/figures/latency.svg").read_text().startswith("<svg")
        assert "kind of figure 'latencies' does not exist" in refused(
            call_here("figure", "--kind", "latencies")
        )
        assert "format 'gif' does not exist" in refused(call_here("figure", "--format", "gif"))

    @pytest.mark.usefixtures("runs")
    def test_a_report_is_one_file(self, call_here: Call) -> None:
        code, _, _ = call_here("report", "-o", "pages/report.html")
        assert code == 0
        assert [path.name for path in Path("pages").iterdir()] == ["report.html"]
        Path("taken").mkdir()
        assert "taken" in refused(call_here("report", "-o", "taken"))
