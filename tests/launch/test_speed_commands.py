"""`pfstudy speed` and what belongs to it, through the console."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pfstudy import files

pytestmark = pytest.mark.slow

Ended = subprocess.CompletedProcess[str]
Pfstudy = Callable[..., Ended]
PfstudyTogether = Callable[[Mapping[str, tuple[Path, Sequence[str]]]], dict[str, Ended]]

FEW = ("speed.num_processes=2", "speed.max_processes=2", "speed.num_rounds=5", "speed.max_load=99")
BRIEF = (*FEW[:2], "speed.max_seconds=1")
TRAINED = ("block.spatial=identity", "recipe.epochs=1", "recipe.lr=0.01", "logger=none", *FEW)


@dataclass(frozen=True)
class Walk:
    """Commands that were typed one after the other in one directory.

    Attributes:
        directory: Where.
        ended: How they ended, by name.
    """

    directory: Path
    ended: Mapping[str, Ended]

    @property
    def results(self) -> list[Path]:
        """The results files."""
        return sorted((self.directory / "runs" / "speed").glob("*.json"))


@pytest.fixture(scope="module")
def walk(
    pfstudy: Pfstudy, pfstudy_together: PfstudyTogether, tmp_path_factory: pytest.TempPathFactory
) -> Walk:
    here, layers, blocks = (tmp_path_factory.mktemp(name) for name in ("speed", "layers", "table"))
    axes = ("speed.layout=contiguous,channels_last", "speed.dtype=float32,bfloat16", *FEW)
    together = pfstudy_together(
        {
            "measured": (here, ["speed", "-m", "block.spatial=conv,maxpool,identity", *axes]),
            "layers": (
                layers,
                ["speed", "--by-layer", "block.stage1.spatial=maxpool", *BRIEF],
            ),
            "table": (
                blocks,
                ["speed", "table", "-m", "block.spatial=conv,maxpool", "--seconds", "2"],
            ),
        }
    )
    together |= pfstudy_together(
        {
            "again": (here, ["speed", "--json", "-m", "block.spatial=maxpool", *axes]),
            "trained": (here, [*TRAINED]),
            "plan": (
                blocks,
                ["plan", "-m", "block.stage1.spatial=maxpool,conv", "--seconds=0.1"],
            ),
        }
    )
    results = [str(path) for path in sorted((here / "runs" / "speed").glob("*float32*.json"))]
    together |= pfstudy_together(
        {
            "compared": (here, ["speed", "compare", *results]),
            "taken": (here, ["speed", "take", *results]),
            "predicted": (
                blocks,
                ["speed", "predict", "--json", "-m", "block.stage1.spatial=maxpool,conv"],
            ),
        }
    )
    shown = pfstudy(here, "table", "--speed", "layout=channels_last")
    return Walk(
        here, {**together, "shown": shown, "unknown": pfstudy(here, "table", "--speed=a=b")}
    )


def test_everything_succeeds(walk: Walk) -> None:
    failed = {name: ended.stderr for name, ended in walk.ended.items() if ended.returncode}
    assert list(failed) == ["unknown"]
    assert walk.ended["unknown"].returncode == 2
    assert failed["unknown"].startswith("pfstudy: the setting of speed 'a' does not exist")


class TestMeasured:
    def test_table_has_a_row_for_every_network_and_setting(self, walk: Walk) -> None:
        lines = [line.split() for line in walk.ended["measured"].stdout.splitlines()]
        found = {tuple(line[:3]) for line in lines if line[1:2] and "_" in line[1] + "_"}
        for operation in ("original", "maxpool", "identity"):
            for layout in ("contiguous", "channels_last"):
                for dtype in ("float32", "bfloat16"):
                    assert (operation, layout, dtype) in found

    def test_caption_names_the_rest_of_the_setting(self, walk: Walk) -> None:
        text = " ".join(walk.ended["measured"].stdout.split())
        assert "1 thread, batch 1, eager." in text
        assert "paired within rounds" in text

    def test_files_are_named_after_the_setting(self, walk: Walk) -> None:
        assert len(walk.results) == 4
        for path in walk.results:
            content = files.read_json(path)
            setting = content["setting"]
            for part in (setting["dtype"], setting["layout"], "b1", "t1", "eager"):
                assert f"_{part}_" in path.name
            assert f"torch{content['environment']['versions']['torch']}" in path.name

    def test_results_say_how_sure_they_are(self, walk: Walk) -> None:
        for path in walk.results:
            networks = {n["label"]: n["measured"] for n in files.read_json(path)["networks"]}
            assert list(networks) == ["original", "maxpool", "identity"]
            for measured in networks.values():
                low, high = (measured[f"relative_latency_{end}"] for end in ("low", "high"))
                assert 0 < low <= measured["relative_latency"] <= high
                assert measured["latency_p10_ms"] <= measured["latency_ms"]
                assert measured["latency_ms"] <= measured["latency_p90_ms"]
                assert measured["peak_memory_bytes"] > 50_000
                assert measured["num_processes"] == 2
                assert measured["stopped_by"] in ("interval_width", "max_processes")

    def test_bfloat16_takes_less_memory(self, walk: Walk) -> None:
        by_dtype: dict[str, int] = {}
        for path in walk.results:
            content = files.read_json(path)
            first = content["networks"][0]["measured"]
            by_dtype[content["setting"]["dtype"]] = first["peak_memory_bytes"]
        assert by_dtype["bfloat16"] < 0.7 * by_dtype["float32"]

    def test_what_is_known_is_not_measured_again(self, walk: Walk) -> None:
        again = walk.ended["again"]
        assert "4 measured before" in again.stderr
        assert "processes" not in again.stderr
        known = {
            n["measured"]["latency_ms"]
            for path in walk.results
            for n in files.read_json(path)["networks"]
        }
        shown: list[dict[str, Any]] = json.loads(again.stdout)
        assert {network["label"] for network in shown} == {"maxpool"}
        assert {network["measured"]["latency_ms"] for network in shown} <= known


class TestTaken:
    def test_measurements_lie_beside_the_records(self, walk: Walk) -> None:
        (variant,) = (walk.directory / "runs").glob("*-identity-*")
        assert len(list((variant / "speed").glob("*.json"))) == 2
        assert "1 network taken, beside 1 variant in" in walk.ended["taken"].stdout
        assert "no runs here have the networks of resnet_digits original" in (
            walk.ended["taken"].stdout
        )

    def test_table_shows_the_setting_that_is_chosen(self, walk: Walk) -> None:
        caption = " ".join(walk.ended["shown"].stdout.split())
        assert "batch 1, channels_last, float32, eager." in caption


def test_two_files_are_compared_network_by_network(walk: Walk) -> None:
    text = walk.ended["compared"].stdout
    rows = [line.split() for line in text.splitlines()]
    found = [row for row in rows if row and row[0] in ("original", "maxpool", "identity")]
    assert len(found) == 3
    assert all(row[-1] in ("agree", "differ") for row in found)
    assert "Kendall's tau" in " ".join(text.split())


class TestLayers:
    def test_table_has_stages_blocks_and_the_whole(self, walk: Walk) -> None:
        first = [
            line.split()[0] for line in walk.ended["layers"].stdout.splitlines() if line.split()
        ]
        places = [word for word in first if word.startswith(("stage", "block", "rest", "all"))]
        assert places == ["stage1", "block1", "block2", "stage2", "block1", "block2", "rest", "all"]

    def test_caption_names_setting_and_peaks(self, walk: Walk) -> None:
        text = " ".join(walk.ended["layers"].stdout.split())
        for words in ("batch 1, contiguous, float32, eager", "GMAC/s in a matrix product", "GB/s"):
            assert words in text

    def test_picture_is_written(self, walk: Walk) -> None:
        line = walk.ended["layers"].stdout.splitlines()[-1]
        assert line.startswith("written: ")
        assert line.count(".svg") == line.count(".png") == 1


class TestPrediction:
    def test_mixed_networks_are_predicted(self, walk: Walk) -> None:
        predicted = {p["label"]: p for p in json.loads(walk.ended["predicted"].stdout)}
        assert predicted["original"]["relative_latency"] == 1
        mixed = predicted["stage1=maxpool"]
        assert mixed["low"] <= mixed["relative_latency"] <= mixed["high"]

    def test_plan_takes_it(self, walk: Walk) -> None:
        text = " ".join(walk.ended["plan"].stdout.split())
        assert "Predicted from the block table: the latency of 2 variants" in text
        assert "1 thread, batch 1, contiguous, float32, eager" in text
