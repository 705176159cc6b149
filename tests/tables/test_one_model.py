"""Table, effects, power, figure and page of one study cannot contradict each other."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pfstudy.cli.results import Judging, make_table
from pfstudy.figures.draw import KINDS
from records import draw_study, leave_study

Said = dict[str, tuple[float, float, float, str]]
"""Difference, both ends and verdict, by variant."""

POPULATIONS = ("both", "seeds", "images")


@pytest.fixture
def say(call_here: Callable[..., Any]) -> Callable[..., Any]:
    """Call a command for the study, and give what it printed for programs."""

    def call(command: str, *options: str) -> Any:
        code, out, err = call_here(command, *options, "--json")
        assert code in (0, None), err
        return json.loads(out)

    return call


def leave(tmp_path: Path, num_seeds: int = 3) -> None:
    losses = {"maxpool": 0.005, "dwconv": 0.02, "avgpool": 0.05, "identity": 0.15}
    leave_study(tmp_path / "runs", draw_study(num_seeds=num_seeds, **losses))


def in_table(rows: list[dict[str, Any]]) -> Said:
    keys = ("difference_points", "difference_low", "difference_high", "verdict")
    return {row["variant"]: tuple(row[key] for key in keys) for row in rows if row["verdict"]}  # type: ignore[misc]


def in_effects(models: list[dict[str, Any]]) -> Said:
    keys = ("points", "low", "high", "verdict")
    found = next(model["effects"] for model in models if model["level"] == "block")
    return {effect["operation"]: tuple(effect[key] for key in keys) for effect in found}  # type: ignore[misc]


def in_power(needs: list[dict[str, Any]]) -> Said:
    keys = ("difference", "low", "high", "verdict")
    return {need["name"]: tuple(need[key] for key in keys) for need in needs}  # type: ignore[misc]


def on_page(text: str) -> Said:
    found = re.search(r'<script[^>]*id="data"[^>]*>(.*?)</script>', text, re.DOTALL)
    assert found
    values = json.loads(found[1])["values"]
    columns = (values["difference_points"], values["difference_low"], values["verdict"])
    highs = re.findall(r"([+-][\d.]+) to ([+-][\d.]+)</td>", text)
    rows = zip(values["variant"], *columns, strict=True)
    compared = [(name, *rest) for name, *rest in rows if rest[-1]]
    return {
        name: (points, low, float(high), verdict)
        for (name, points, low, verdict), (_, high) in zip(compared, highs, strict=False)
    }


def in_figure(judging: Judging) -> Said:
    """What the figure of the differences is drawn from, by the function that the command calls."""
    found, content = make_table(["runs"], judging=judging)
    chart = KINDS["differences"](content.rows, found.records).to_dict()
    keys = ("difference_points", "difference_low", "difference_high", "verdict")
    rows = [row for data in chart["datasets"].values() for row in data if "verdict" in row]
    return {row["variant"]: tuple(row[key] for key in keys) for row in rows}  # type: ignore[misc]


def assert_same(one: Said, other: Said, tolerance: float = 1e-9) -> None:
    assert one.keys() == other.keys()
    for name, figures in one.items():
        assert figures[:3] == pytest.approx(other[name][:3], abs=tolerance)
        assert figures[3] == other[name][3]


@pytest.mark.parametrize("margin", [None, 2.5], ids=["no margin", "margin"])
@pytest.mark.parametrize("population", POPULATIONS)
def test_all_say_the_same_of_one_study(
    say: Callable[..., Any],
    call_here: Callable[..., Any],
    tmp_path: Path,
    population: str,
    margin: float | None,
) -> None:
    leave(tmp_path)
    asked = ["--population", population, *(["--margin", str(margin)] if margin else [])]
    table = in_table(say("table", *asked))
    assert len({verdict for *_, verdict in table.values()}) > 1
    assert_same(table, in_effects(say("effects", *asked)))
    if population != "images":
        assert_same(table, in_power(say("power", *asked)["needs"]))
    assert_same(table, in_figure(Judging(None, population, margin)))
    code, _, err = call_here("report", *asked)
    assert code in (0, None), err
    assert_same(table, on_page((tmp_path / "runs" / "report.html").read_text()), 6e-3)


def test_one_seed_says_the_same_in_table_and_effects(
    say: Callable[..., Any], tmp_path: Path
) -> None:
    leave(tmp_path, num_seeds=1)
    table = in_table(say("table"))
    assert table["identity"][3] == "worse"
    assert_same(table, in_effects(say("effects")))


def test_a_margin_turns_undecided_into_not_worse(say: Callable[..., Any], tmp_path: Path) -> None:
    leave(tmp_path)
    before, after = (in_table(say("table", *asked)) for asked in ((), ("--margin", "2.5")))
    assert before["maxpool"][3] == "undecided"
    assert after["maxpool"][3] == "not worse"
    assert before["identity"][3] == after["identity"][3] == "worse"


@pytest.mark.parametrize("population", ["seeds", "both"])
def test_one_seed_says_nothing_of_new_trainings(
    call_here: Callable[..., Any], tmp_path: Path, population: str
) -> None:
    leave(tmp_path, num_seeds=1)
    code, out, err = call_here("table", "--population", population)
    assert (code, out) == (2, "")
    assert f"--population {population} is about new trainings" in err
    assert "there is one seed" in err
    assert "--population images" in err


@pytest.mark.parametrize("population", ["images", "both"])
def test_without_predictions_images_are_no_population(
    call_here: Callable[..., Any], tmp_path: Path, population: str
) -> None:
    leave(tmp_path)
    for path in (tmp_path / "runs").rglob("predictions.npz"):
        path.unlink()
    code, out, err = call_here("table", "--population", population)
    assert (code, out) == (2, "")
    assert "predictions.npz" in err
    assert "--population seeds" in err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(
            ["table", "--population", "seed"], "choose from: both, seeds, images", id="population"
        ),
        pytest.param(["table", "--margin", "0"], "--margin is a loss in points", id="no margin"),
        pytest.param(["figure", "--margin=-1"], "--margin is a loss in points", id="below 0"),
        pytest.param(
            ["power", "--margin", "1", "--difference", "1"], "two questions", id="both questions"
        ),
    ],
)
def test_what_cannot_be_asked_is_said(
    call_here: Callable[..., Any], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    leave(tmp_path)
    code, out, err = call_here(*arguments)
    assert (code, out) == (2, "")
    assert expected in err
