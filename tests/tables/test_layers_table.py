from __future__ import annotations

import statistics
import struct
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.table import Table

from configs import variant_of
from measurements import NAMED, SETTING
from pfstudy.counting import MACS_SENTENCE
from pfstudy.errors import PfstudyError
from pfstudy.speed.blocktable import BlockTable, HeldOut
from pfstudy.speed.layers import Layers, put_together
from pfstudy.speed.setting import name_setting
from pfstudy.speed.summary import Ceilings, SegmentTimings
from pfstudy.tables.layers import (
    block_table,
    draw_layers,
    layers_data,
    layers_table,
    picture_name,
)
from pfstudy.variant import Variant, make_variant

BASELINE, MAXPOOL = variant_of(), variant_of("block.stage2.spatial=maxpool")
BEFORE_MS, AFTER_MS = (1.0, 2.0, 4.0, 2.0, 1.0), (1.0, 2.0, 3.0, 2.2, 1.0)
MACS = ((10, 20, 40, 20, 1), (10, 20, 8, 5, 1))
CEILINGS = Ceilings(bytes_per_s=1e10, macs_per_s=1e11)


def timings(drift: float, load: float | None = 0.0, noise: float = 0.0) -> SegmentTimings:
    """Three rounds, of which the median one is what it should be, times a process's drift.

    Args:
        drift: Of the process.
        load: What others used.
        noise: By how much, relatively, the variant alone is slower in the second round.
    """
    segments = [
        [[drift * speed * ms for ms in times] for speed in (1.0, 0.5, 3.0)]
        for times in (BEFORE_MS, AFTER_MS)
    ]
    segments[1][1] = [(1 + noise) * ms for ms in segments[1][1]]
    return SegmentTimings(segments, [], load)


def make(
    variant: Variant = MAXPOOL,
    load: float | None = 0.0,
    noise: float = 0.0,
    **setting: Any,
) -> Layers:
    """The small residual network with max-pool in its second stage, in three processes."""
    costs = [
        [{"macs": 10**6 * number, "memory_traffic_bytes": 2 * 10**6} for number in row]
        for row in MACS
    ]
    processes = [timings(drift, load, noise) for drift in (0.8, 1.0, 5.0)]
    (layers,) = put_together(
        [BASELINE, variant], processes, costs, CEILINGS, {**SETTING, **setting}
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


def test_ratios_are_paired_within_rounds() -> None:
    """However the machine drifts, they are exact."""
    layers = make()
    expected = [after / before for before, after in zip(BEFORE_MS, AFTER_MS, strict=True)]
    assert [place.ratio for place in layers.places] == pytest.approx(expected)
    assert [place.ratio_error for place in layers.places] == pytest.approx([0] * 5)
    assert [stage.address for stage in layers.stages] == ["stage1", "stage2", "rest"]
    assert [stage.ratio for stage in layers.stages] == pytest.approx([1, 5.2 / 6, 1])
    assert layers.whole.ratio == pytest.approx(9.2 / 10)


def test_the_noise_of_rounds_is_the_error_of_a_ratio() -> None:
    place = make(noise=0.3).places[0]
    rounds = [1.0, 1.3, 1.0]
    assert place.ratio == pytest.approx(statistics.mean(rounds))
    error = statistics.stdev(rounds) / 9**0.5  # three rounds in each of three processes
    assert place.half_interval == pytest.approx(1.96 * error)


@pytest.mark.parametrize(
    ("setting", "macs", "num_bytes"),
    [
        pytest.param({}, 10**7, 2 * 10**6, id="one image"),
        pytest.param({"batch_size": 8}, 8 * 10**7, 16 * 10**6, id="batch"),
        pytest.param({"dtype": "bfloat16"}, 10**7, 10**6, id="half the bytes"),
        pytest.param({"dtype": "tf32"}, 10**7, 2 * 10**6, id="tf32"),
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
        *("stage2", "maxpool", "6.00", "5.20", "0.87 ±0.00", "60.0 -> 13.0", "4.00 -> 4.00"),
        *("10 -> 2 %", "7 -> 8 %"),
    ]
    assert rows[5][1:5] == ["maxpool", "2.00", "2.20", "1.10 ±0.00"]
    assert rows[7][1:5] == ["original, maxpool", "10.0", "9.20", "0.92 ±0.00"]


def test_the_caption_names_setting_peaks_and_what_is_not_faster() -> None:
    assert layers_table(make()).caption == (
        f"{NAMED}. {MACS_SENTENCE} A block's time begins where the block with a site before it "
        "ends; stage1.block1 is with the stem. Ratios are of the times in the same round, ±: half "
        "the 95 % interval of each alone. Peaks measured here: 100 GMAC/s in a matrix product, "
        "10.0 GB/s in a copy; above 100 % caches help. In all, MACs 0.48x, bytes 1.00x, time "
        "0.92x. Fewer MACs, but not faster: stage2.block2."
    )
    assert layers_table(make()).title == "resnet_digits: stage2=maxpool"


@pytest.mark.parametrize(
    ("noise", "is_said"),
    [
        pytest.param(0.0, True, id="sure"),
        pytest.param(-0.145, False, id="sure of this block alone"),
        pytest.param(-0.2, False, id="noise"),
    ],
)
def test_only_what_is_sure_is_said_to_be_not_faster(noise: float, is_said: bool) -> None:
    layers = make(noise=noise)
    place = layers.places[3]
    assert place.ratio > 1
    assert (place.ratio - place.half_interval > 0.98) == (noise > -0.2)
    assert ("not faster" in str(layers_table(layers).caption)) == is_said


def test_a_compiler_that_fuses_moves_fewer_bytes_than_are_counted() -> None:
    variant = variant_of("block.stage2.spatial=maxpool", "speed.backend=compile")
    caption = str(layers_table(make(variant)).caption)
    assert (
        "10.0 GB/s in a copy; bytes are those of the operators one by one, and above 100 % a "
        "compiler that fuses them moves fewer, or caches help. In all," in caption
    )


@pytest.mark.parametrize(
    ("load", "mark", "remark"),
    [
        pytest.param(0.05, "", "stage2.block2.", id="fine"),
        pytest.param(0.3, "*", "*: measured while others used the machine.", id="busy"),
        pytest.param(None, "", "How busy the device was is not known.", id="not known"),
    ],
)
def test_times_beside_others_are_marked(
    tmp_path: Path, load: float | None, mark: str, remark: str
) -> None:
    layers = make(load=load)
    table = layers_table(layers)
    headers = [str(column.header) for column in table.columns]
    assert headers[2:5] == [f"before (ms){mark}", f"after (ms){mark}", f"ratio{mark}"]
    assert str(table.caption).endswith(remark)
    data = layers_data(layers)
    assert (data["others_load"], data["max_load"], data["speed_mark"]) == (load, 0.1, mark)


def test_data_have_every_place_and_the_whole() -> None:
    found = layers_data(make())
    assert [place["address"] for place in found["places"]] == [*BASELINE.operations, "rest"]
    assert found["all"]["before"]["milliseconds"] == 10
    assert found["places"][0]["before"]["share_of_matrix_peak"] == pytest.approx(0.1)
    assert found["setting"] == SETTING
    assert found["places"][3]["ratio"] == pytest.approx(1.1)
    assert found["places"][3]["ratio_error"] == pytest.approx(0)


def test_pictures_are_drawn(tmp_path: Path) -> None:
    svg, png = draw_layers(make(load=0.3), tmp_path / "new")
    network = f"resnet_digits-digits-stage2=maxpool-{MAXPOOL.architecture_hash}"
    name = f"layers-{network}_{name_setting(SETTING)}"
    assert [svg.name, png.name] == [f"{name}.svg", f"{name}.png"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [png.name, svg.name]
    root = xml.etree.ElementTree.fromstring(svg.read_text())
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    written = " ".join(root.itertext())
    for text in ("resnet_digits: stage2=maxpool", NAMED, "time (ms)*", "share of ceiling", "rest"):
        assert text in written
    assert "*: measured while others used the machine." in written
    content = png.read_bytes()
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">II", content[16:24])
    assert width > 500
    assert height > 500


def test_pictures_of_any_mixture_have_a_name_of_their_own_that_fits() -> None:
    backbone = variant_of("model=resnet50", "data=synthetic")
    names = []
    for last in ("maxpool", "identity"):
        operations = [*(["maxpool", "avgpool", "dwconv"] * 5), last]
        pairs = zip(backbone.config.sites, operations, strict=True)
        sites = tuple(replace(site, operation=operation) for site, operation in pairs)
        variant = make_variant(replace(backbone.config, sites=sites), "content")
        assert len(variant.label) > 255
        names.append(picture_name(replace(make(), variant=variant)))
    assert names[0] != names[1]
    assert max(map(len, names)) < 200


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
            f"{NAMED}. The unsubstituted backbone took 20.0 ms. A block's time begins where the "
            "block with a site before it ends; stage1.block1 is with the stem. How well it "
            "predicts mixed networks was not measured."
        )

    def test_the_caption_says_how_far_predictions_are_off(self) -> None:
        held_out = tuple(HeldOut("mixed", 1.0, 1 / (1 + error)) for error in (0.01, -0.01, 0.01))
        caption = str(block_table(replace(self.TABLE, held_out=held_out)).caption)
        assert "3 mixed networks, measured beside it, were off by 1.0 % on average" in caption
        assert "95 % interval of a prediction: ±3.2 %." in caption

    @pytest.mark.parametrize(
        ("load", "mark", "remark"),
        [
            pytest.param(0.05, "", "was not measured.", id="fine"),
            pytest.param(0.3, "*", "*: measured while others used the machine.", id="busy"),
            pytest.param(None, "", "How busy the device was is not known.", id="not known"),
        ],
    )
    def test_times_beside_others_are_marked(
        self, load: float | None, mark: str, remark: str
    ) -> None:
        table = block_table(replace(self.TABLE, others_load=load, max_load=0.1))
        assert str(table.title).endswith(f"milliseconds from one site's block to the next{mark}")
        assert str(table.caption).endswith(remark)
