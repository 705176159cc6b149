from __future__ import annotations

import struct
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from configs import variant_of
from measurements import NAMED, SETTING
from pfstudy.errors import PfstudyError
from pfstudy.speed.blocktable import BlockTable, HeldOut
from pfstudy.speed.layers import Layers, put_together
from pfstudy.speed.summary import Ceilings, SegmentTimings
from pfstudy.tables.layers import block_table, draw_layers, layers_data, layers_table

BASELINE, MAXPOOL = variant_of(), variant_of("block.stage2.spatial=maxpool")
BEFORE_MS, AFTER_MS = (1.0, 2.0, 4.0, 2.0, 1.0), (1.0, 2.0, 3.0, 2.2, 1.0)
MACS = ((10, 20, 40, 20, 1), (10, 20, 8, 5, 1))
CEILINGS = Ceilings(bytes_per_s=1e10, macs_per_s=1e11)


def timings(drift: float) -> SegmentTimings:
    """Three rounds, of which the median one is what it should be, times a process's drift."""
    segments = [
        [[drift * noise * ms for ms in times] for noise in (1.0, 0.5, 3.0)]
        for times in (BEFORE_MS, AFTER_MS)
    ]
    return SegmentTimings(segments, [], 0.0)


def make(**setting: Any) -> Layers:
    """The small residual network with max-pool in its second stage, in three processes."""
    costs = [
        [{"macs": 10**6 * number, "memory_traffic_bytes": 2 * 10**6} for number in row]
        for row in MACS
    ]
    processes = [timings(drift) for drift in (0.8, 1.0, 5.0)]
    (layers,) = put_together(
        [BASELINE, MAXPOOL], processes, costs, CEILINGS, {**SETTING, **setting}
    )
    return layers


def cells(table: Table) -> list[list[str]]:
    """The rows of a table."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


def test_times_are_medians_over_processes_of_medians_over_rounds() -> None:
    layers = make()
    assert tuple(place.before.milliseconds for place in layers.places) == BEFORE_MS
    assert tuple(place.after.milliseconds for place in layers.places) == AFTER_MS
    assert [place.address for place in layers.places] == [*BASELINE.operations, "rest"]
    assert [place.operation for place in layers.places] == ["original"] * 2 + ["maxpool"] * 2 + [""]


@pytest.mark.parametrize(
    ("setting", "macs", "num_bytes"),
    [
        pytest.param({}, 10**7, 2 * 10**6, id="one image"),
        pytest.param({"batch_size": 8}, 8 * 10**7, 16 * 10**6, id="batch"),
        pytest.param({"dtype": "bfloat16"}, 10**7, 10**6, id="half the bytes"),
    ],
)
def test_cost_is_of_the_batch_in_its_dtype(
    setting: dict[str, Any], macs: int, num_bytes: int
) -> None:
    segment = make(**setting).places[0].before
    assert (segment.macs, segment.num_bytes) == (macs, num_bytes)


def test_rates_are_shares_of_what_the_device_could_do() -> None:
    segment = make().places[0].before  # 10 M MACs and 2 MB in 1 ms
    assert segment.macs_share(CEILINGS) == pytest.approx(1e10 / 1e11)
    assert segment.bytes_share(CEILINGS) == pytest.approx(2e9 / 1e10)


def test_a_row_for_every_stage_block_and_the_whole() -> None:
    rows = cells(layers_table(make()))
    assert [row[0] for row in rows] == [
        *("stage1", "  block1", "  block2"),
        *("stage2", "  block1", "  block2"),
        *("rest", "all"),
    ]
    assert rows[3] == [
        *("stage2", "maxpool", "6.00", "5.20", "0.87x", "60.0 -> 13.0", "4.00 -> 4.00"),
        *("10 -> 2 %", "7 -> 8 %"),
    ]
    assert rows[5][1:5] == ["maxpool", "2.00", "2.20", "1.10x"]
    assert rows[7][1:5] == ["original, maxpool", "10.0", "9.20", "0.92x"]


def test_the_caption_names_setting_peaks_and_what_is_not_faster() -> None:
    assert layers_table(make()).caption == (
        f"{NAMED}. Peaks measured here: 100 GMAC/s in a matrix product, 10.0 GB/s in a copy; above "
        "100 % caches help. In all, MACs 0.48x, bytes 1.00x, time 0.92x. Fewer MACs, but not "
        "faster: stage2.block2."
    )
    assert layers_table(make()).title == "resnet_digits: stage2=maxpool"


def test_data_have_every_place_and_the_whole() -> None:
    found = layers_data(make())
    assert [place["address"] for place in found["places"]] == [*BASELINE.operations, "rest"]
    assert found["all"]["before"]["milliseconds"] == 10
    assert found["places"][0]["before"]["share_of_matrix_peak"] == pytest.approx(0.1)
    assert found["setting"] == SETTING


def test_pictures_are_drawn(tmp_path: Path) -> None:
    svg, png = draw_layers(make(), tmp_path / "new")
    name = "layers-resnet_digits-stage2=maxpool_some-cpu_here_float32_contiguous_b1_t1_eager"
    assert [svg.name, png.name] == [f"{name}.svg", f"{name}.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [png.name, svg.name]
    root = xml.etree.ElementTree.fromstring(svg.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    written = " ".join(root.itertext())
    for text in ("resnet_digits: stage2=maxpool", NAMED, "time (ms)", "share of ceiling", "rest"):
        assert text in written
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 500
    assert height > 500


def test_pictures_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PfstudyError, match=r"\.svg cannot be written: File exists\.$"):
        draw_layers(make(), tmp_path / "file")


class TestBlockTable:
    TABLE = BlockTable(
        SETTING,
        {},
        "resnet_digits",
        "0123456789",
        20.0,
        0.1,
        {
            "stage1.block1": {"original": 0.5, "maxpool": 0.25},
            "stage1.block2": {"original": 0.4, "[b]": 0.01},
        },
    )

    def test_milliseconds_of_every_operation_at_every_site(self) -> None:
        table = block_table(self.TABLE)
        assert [str(column.header) for column in table.columns] == [
            *("site", "original", "maxpool", r"\[b]"),
        ]
        assert cells(table) == [
            ["stage1.block1", "10.0", "5.00", ""],
            ["stage1.block2", "8.00", "", "0.200"],
            ["rest", "2.00", "2.00", "2.00"],
        ]

    def test_the_caption_without_mixed_networks(self) -> None:
        assert block_table(self.TABLE).caption == (
            f"{NAMED}. The unsubstituted backbone took 20.0 ms. How well it predicts mixed "
            "networks was not measured."
        )

    def test_the_caption_says_how_far_predictions_are_off(self) -> None:
        held_out = tuple(HeldOut("mixed", 1.0, 1 / (1 + error)) for error in (0.01, -0.01, 0.01))
        caption = str(block_table(replace(self.TABLE, held_out=held_out)).caption)
        assert "3 mixed networks, measured beside it, were off by 1.0 % on average" in caption
        assert "95 % interval of a prediction: ±3.2 %." in caption

    @pytest.mark.parametrize(("load", "is_said"), [(0.3, True), (0.05, False)])
    def test_the_caption_says_that_others_used_the_machine(
        self, load: float, is_said: bool
    ) -> None:
        table = block_table(replace(self.TABLE, others_load=load, max_load=0.1))
        assert ("measured while others used the machine" in str(table.caption)) == is_said
