from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from configs import variant_of
from measurements import ENVIRONMENT, NAMED, SETTING, measurement
from pfstudy.speed.blocktable import BlockTable, HeldOut, backbone_of
from pfstudy.speed.results import Network, Results, compare_results, network_of
from pfstudy.tables.speed import (
    comparison_data,
    comparison_table,
    milliseconds,
    prediction_data,
    prediction_table,
    speed_data,
    speed_tables,
)

BASELINE, MAXPOOL = variant_of(), variant_of("block.spatial=maxpool")
AVGPOOL = variant_of("block.spatial=avgpool")
ALONE = "Intervals of relative time are for each network alone."


def cells(table: Table) -> dict[str, list[str]]:
    """The columns of a table by their headers."""
    return {str(column.header): [str(cell) for cell in column.cells] for column in table.columns}


def headers(table: Table) -> list[str]:
    return [str(column.header) for column in table.columns]


def one_table(*measured: dict[str, Any]) -> Table:
    """The table of max-pool in several settings."""
    (table,) = speed_tables([network_of(MAXPOOL, each) for each in measured])
    return table


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=250, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_figures_of_every_network() -> None:
    (table,) = speed_tables(
        [network_of(BASELINE, measurement()), network_of(MAXPOOL, measurement(0.8))]
    )
    assert cells(table) == {
        "network": ["original", "maxpool"],
        "latency (ms)": ["2.00", "1.60"],
        "p10-p90": ["1.90-2.20", "1.52-1.76"],
        "images/s": ["500", "625"],
        "rel. time": ["1.000", "0.800"],
        "95 % interval": ["0.990-1.010", "0.792-0.808"],
        "memory (MiB)": ["3.00", "3.00"],
    }


def test_the_caption_names_the_setting_and_the_figures() -> None:
    assert one_table(measurement()).caption == (
        f"{NAMED}. Median over 5 fresh processes; time relative to the unsubstituted backbone, "
        f"paired within rounds, with its 95 % interval. {ALONE}"
    )


def test_the_caption_says_what_ended_measuring_too_early() -> None:
    table = one_table(measurement(), measurement(num_processes=10, stopped_by="max_processes"))
    assert "Median over 5 to 10 fresh processes" in str(table.caption)
    assert "Ended by max_processes before the interval was narrow." in str(table.caption)


@pytest.mark.parametrize(
    ("change", "mark", "meaning"),
    [
        pytest.param({"others_load": 0.3}, "*", "*: measured while others used", id="busy"),
        pytest.param({"fell_back": True}, "†", "†: computed eagerly", id="fell back"),
        pytest.param({"others_load": 0.3, "max_load": 0.5}, "", None, id="allowed"),
        pytest.param({"others_load": None}, "", "How busy the device was", id="not known"),
    ],
)
def test_figures_that_are_not_what_they_seem_are_marked(
    change: dict[str, Any], mark: str, meaning: str | None
) -> None:
    table = one_table(measurement(), measurement(**change))
    assert cells(table)["latency (ms)"] == ["2.00", f"2.00{mark}"]
    if meaning is None:
        assert str(table.caption).endswith(ALONE)
    else:
        assert meaning in str(table.caption)


@pytest.mark.parametrize(
    ("key", "value", "header", "left"),
    [
        ("batch_size", 8, "batch", "Some CPU, 1 thread, contiguous, float32, eager."),
        ("num_threads", 4, "threads", "Some CPU, batch 1, contiguous, float32, eager."),
        ("layout", "channels_last", "layout", "Some CPU, 1 thread, batch 1, float32, eager."),
        ("dtype", "bfloat16", "dtype", "Some CPU, 1 thread, batch 1, contiguous, eager."),
        ("backend", "compile", "backend", "Some CPU, 1 thread, batch 1, contiguous, float32."),
        ("passes", "forward_backward", "passes", f"{NAMED}."),
        ("cache", "cold", "cache", f"{NAMED}."),
        ("cuda_graph", True, "graph", f"{NAMED}."),
        ("version", "torch2.10.0", "version", f"{NAMED}."),
    ],
    ids=lambda value: str(value).split(",")[0],
)
def test_a_setting_that_varies_is_a_column(key: str, value: Any, header: str, left: str) -> None:
    table = one_table(measurement(), measurement(**{key: value}))
    assert headers(table)[1] == header
    assert cells(table)[header] == [str(SETTING[key]), str(value)]
    assert str(table.caption).startswith(f"{left} ")


def test_every_device_and_host_has_a_table_of_its_own() -> None:
    places = [("Some CPU", "here"), ("Some GPU", "here"), ("Some CPU", "there")]
    tables = speed_tables(
        [network_of(MAXPOOL, measurement(device=device, host=host)) for device, host in places]
    )
    assert [str(table.caption).split(",")[0] for table in tables] == [d for d, _ in places]


def test_networks_of_several_models_are_named_with_them() -> None:
    other = variant_of("model=vit_digits")
    (table,) = speed_tables([network_of(v, measurement()) for v in (BASELINE, other)])
    assert cells(table)["network"] == ["resnet_digits original", "vit_digits original"]


class TestBackbones:
    OTHER = variant_of("model=vit_digits")

    def caption(self, **beside: Any) -> str:
        """The caption of a table of two backbones, of which the second takes 3 times as long."""
        first = network_of(BASELINE, measurement())
        measured = measurement(latency_ms=6.0, baseline_latency_ms=6.0)
        if beside:
            reference = {"architecture": BASELINE.architecture_hash, "num_processes": 5}
            measured["beside"] = {**reference, **beside}
        (table,) = speed_tables([first, network_of(self.OTHER, measured)])
        return str(table.caption)

    def test_their_times_relative_to_each_other_are_named(self) -> None:
        ends = {"relative_latency_low": 2.9, "relative_latency_high": 3.1}
        caption = self.caption(relative_latency=3.0, **ends)
        assert caption.endswith(
            f"{ALONE} Timed side by side, vit_digits takes 3.000 (2.900-3.100) times as long as "
            "resnet_digits."
        )

    def test_those_that_were_timed_apart_are_uncertain(self) -> None:
        caption = self.caption()
        assert "Backbones were timed apart, so the time of each is uncertain by 5 %" in caption


def test_energy_is_a_column_where_it_is_known() -> None:
    table = one_table(measurement(energy_j=0.1234), measurement(peak_memory_bytes=None))
    assert cells(table)["energy (J)"] == ["0.123", ""]
    assert cells(table)["memory (MiB)"] == ["3.00", ""]


def test_a_measurement_of_old_is_shown() -> None:
    later = ("passes", "cache", "cuda_graph", "others_load", "max_load", "peak_memory_bytes",
             "energy_j", "fell_back")  # fmt: skip
    old = {key: value for key, value in measurement().items() if key not in later}
    table = one_table(old)
    assert str(table.caption).startswith(f"{NAMED}. ")
    assert "memory (MiB)" not in headers(table)


def test_a_name_looks_the_same_in_the_terminal() -> None:
    network = network_of(MAXPOOL, measurement(device="Some [bold]CPU"))
    odd = Network(**{**vars(network), "label": "[red]maxpool"})
    (table,) = speed_tables([odd])
    assert "[red]maxpool" in printed(table)
    assert "Some [bold]CPU" in printed(table)


def test_data_say_what_was_busy() -> None:
    found = speed_data([network_of(MAXPOOL, measurement(others_load=load)) for load in (0.0, 0.3)])
    assert [each["busy"] for each in found] == [False, True]
    assert found[0]["measured"] == measurement()


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.01234, "0.0123"), (1.0, "1.00"), (99.94, "99.9"), (99.96, "100"), (123.4, "123")],
)
def test_times_have_three_digits_or_more(value: float, written: str) -> None:
    assert milliseconds(value) == written


class TestComparison:
    @staticmethod
    def results(**times: float) -> Results:
        variants = {"original": BASELINE, "maxpool": MAXPOOL, "avgpool": AVGPOOL}
        found = [network_of(variants[label], measurement(t)) for label, t in times.items()]
        return Results(SETTING, ENVIRONMENT, tuple(found))

    def test_networks_side_by_side(self) -> None:
        compared = compare_results(
            self.results(original=1.0, maxpool=0.8), self.results(original=1.0, maxpool=0.9)
        )
        table = comparison_table(compared)
        columns = [[str(cell) for cell in column.cells] for column in table.columns]
        assert headers(table) == [
            *("network", "A (ms)", "A rel. time", "95 % interval"),
            *("B (ms)", "B rel. time", "95 % interval", "B/A", ""),
        ]
        assert [column[1] for column in columns] == [
            *("maxpool", "1.60", "0.800", "0.792-0.808"),
            *("1.80", "0.900", "0.891-0.909", "1.125", "differ"),
        ]
        assert columns[-1] == ["agree", "differ"]

    def test_the_caption_names_both_settings_and_what_is_in_one_alone(self) -> None:
        first = self.results(original=1.0, maxpool=0.8)
        second = Results(
            SETTING | {"device": "Some GPU", "batch_size": 8},
            {"versions": {"torch": "2.7.0"}},
            self.results(original=1.0, avgpool=0.9).networks,
        )
        assert comparison_table(compare_results(first, second)).caption == (
            f"A: {NAMED}, torch 2.9.0; B: Some GPU, 1 thread, batch 8, contiguous, float32, eager, "
            "torch 2.7.0. B/A: of the times relative to the baseline. Intervals are for each "
            "network alone; agree: they overlap when widened to hold for all networks at once. "
            "Only in A: resnet_digits maxpool. Only in B: resnet_digits avgpool."
        )

    def test_the_caption_speaks_of_one_setting_and_the_order(self) -> None:
        results = self.results(original=1.0, maxpool=0.8, avgpool=0.9)
        caption = str(comparison_table(compare_results(results, results)).caption)
        assert "Both are of one machine and setting." in caption
        assert "Kendall's tau of the relative times: 1.00." in caption

    @pytest.mark.parametrize(
        ("others", "expected"),
        [
            pytest.param({}, "differ", id="one network"),
            pytest.param({"original": 1.0, "avgpool": 0.9}, "agree", id="three networks"),
        ],
    )
    def test_intervals_hold_for_all_networks_at_once(
        self, others: dict[str, float], expected: str
    ) -> None:
        """They are 0.792 to 0.808 and 0.811 to 0.827 for the network alone."""
        results = [self.results(maxpool=time, **others) for time in (0.8, 0.819)]
        compared = compare_results(*results)
        (agreement,) = (list(column.cells) for column in comparison_table(compared).columns[-1:])
        assert agreement[0] == expected
        assert comparison_data(compared)["networks"][0]["agree"] is (expected == "agree")

    def test_data_have_both_measurements(self) -> None:
        results = self.results(original=1.0, maxpool=0.8)
        found = comparison_data(compare_results(results, self.results(maxpool=0.9)))
        (pair,) = found["networks"]
        assert (pair["name"], pair["agree"]) == ("resnet_digits maxpool", False)
        assert (pair["first"], pair["second"]) == (measurement(0.8), measurement(0.9))
        assert (found["only_first"], found["only_second"]) == (["resnet_digits original"], [])


class TestPrediction:
    @staticmethod
    def table(*held_out: HeldOut) -> BlockTable:
        """Every site takes a fifth, and half as much with max-pool."""
        cells = {site: {"original": 0.2, "maxpool": 0.1} for site in BASELINE.operations}
        return BlockTable(
            SETTING, ENVIRONMENT, "resnet_digits", backbone_of(BASELINE), 10.0, 0.2, cells, held_out
        )

    def test_with_an_interval(self) -> None:
        table = self.table(*[HeldOut("mixed", 1.0, 1.0 / (1 + e)) for e in (0.01, -0.01, 0.01)])
        written = prediction_table([(BASELINE, table), (MAXPOOL, table)])
        # 1 % off each time, and 3.182 is Student's t of 3 degrees of freedom
        assert cells(written) == {
            "network": ["original", "maxpool"],
            "rel. time": ["1.000", "0.600"],
            "95 % interval": ["0.968-1.032", "0.581-0.619"],
            "latency (ms)": ["10.0", "6.00"],
        }
        assert str(written.caption).startswith(f"{NAMED}. Predicted from block tables")

    def test_without_mixed_networks_there_is_no_interval(self) -> None:
        written = prediction_table([(MAXPOOL, self.table())])
        assert cells(written)["95 % interval"] == [""]
        (found,) = prediction_data([(MAXPOOL, self.table())])
        assert found["low"] is found["high"] is None

    @pytest.mark.parametrize(
        ("load", "mark", "remark"),
        [
            pytest.param(0.3, "*", "*: measured while others used the machine.", id="busy"),
            pytest.param(None, "", "How busy the device was is not known.", id="not known"),
        ],
    )
    def test_of_a_table_that_was_measured_beside_others(
        self, load: float | None, mark: str, remark: str
    ) -> None:
        table = replace(self.table(), others_load=load, max_load=0.1)
        written = prediction_table([(MAXPOOL, table)])
        assert cells(written)["latency (ms)"] == [f"6.00{mark}"]
        assert str(written.caption).endswith(f"beside them gave. {remark}")
        (found,) = prediction_data([(MAXPOOL, table)])
        assert found["speed_mark"] == mark

    def test_data(self) -> None:
        (found,) = prediction_data([(MAXPOOL, self.table())])
        assert (found["model"], found["label"]) == ("resnet_digits", "maxpool")
        assert found["setting"] == SETTING
        assert found["latency_ms"] == pytest.approx(6)
