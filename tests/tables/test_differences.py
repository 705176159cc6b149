from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console, RenderableType

from pfstudy.tables.differences import (
    comparison_data,
    render_comparison,
    render_verdicts,
    verdict_data,
)
from pfstudy.why import Difference, Verdict, compare
from run_directories import write_record, write_run


def written(rendered: RenderableType) -> list[str]:
    """What a person sees, line by line, with single spaces."""
    out = io.StringIO()
    Console(file=out, width=400).print(rendered)
    lines = (" ".join(line.split()) for line in out.getvalue().splitlines())
    return [line for line in lines if line.strip("─ ")]


class TestComparison:
    def test_sites_stand_together_and_what_is_recorded_apart(self, tmp_path: Path) -> None:
        left = write_run(tmp_path, "recipe.label_smoothing=0.2")
        right = write_run(tmp_path, "block.stage1.spatial=maxpool", "recipe.label_smoothing=0.1")
        write_record(left)
        write_record(right, training={"num_threads": 4})
        comparison = compare(left, right)
        assert written(render_comparison(comparison)) == [
            "two variants",
            f"{left} {right}",
            "stage1.block1-2 original maxpool",
            "recipe.label_smoothing 0.2 0.1",
            "recorded, but no part of the identity:",
            f"{left} {right}",
            "num_threads 1 4",
        ]
        data = json.loads(json.dumps(comparison_data(comparison)))
        keys = [each["key"] for each in data["differences"]]
        assert keys == ["stage1.block1", "stage1.block2", "recipe.label_smoothing"]
        assert data["recorded"] == [{"key": "num_threads", "left": 1, "right": 4}]
        assert (data["left"], data["right"]) == (str(left), str(right))

    def test_the_same_run(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        assert written(render_comparison(compare(run, run))) == ["the same run"]
        assert comparison_data(compare(run, run))["recorded"] is None


VERDICTS = (
    Verdict(Path("a"), "done", "skipped", "done since [long] ago"),
    Verdict(Path("b"), "new", "trained", "new", Path("a"), (Difference("seed", 0, 1),)),
    Verdict(Path("c"), "running", "left", "somebody trains it"),
)
NAMES = {Path(name): f"run {name}" for name in "abc"}


class TestVerdicts:
    def test_several(self) -> None:
        assert written(render_verdicts(VERDICTS, NAMES)) == [
            "run why",
            "run a skipped done since [long] ago",
            "run b trained new",
            "run c left somebody trains it",
        ]

    def test_one(self) -> None:
        (line,) = written(render_verdicts(VERDICTS[:1], NAMES))
        assert line == "run a would be skipped: done since [long] ago"

    def test_data(self) -> None:
        assert json.loads(json.dumps(verdict_data(VERDICTS[1]))) == {
            "directory": "b",
            "state": "new",
            "action": "trained",
            "reason": "new",
            "nearest": "a",
            "differences": [{"key": "seed", "left": 0, "right": 1}],
        }
        assert verdict_data(VERDICTS[0])["nearest"] is None
