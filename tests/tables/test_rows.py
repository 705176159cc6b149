from __future__ import annotations

import math
import statistics
from typing import Any

import pytest

from pfstudy.errors import PfstudyError
from pfstudy.tables.columns import COLUMNS
from pfstudy.tables.content import make_content
from pfstudy.tables.effects import fit_levels
from pfstudy.tables.marks import explain_marks, speed_mark
from pfstudy.tables.rows import Rows, make_rows
from pfstudy.tables.speeds import choose_speed
from pfstudy.tables.statistics import Criteria


def by_variant(rows: Rows, key: str) -> dict[str, Any]:
    return dict(zip(rows.frame["variant"], rows.frame[key], strict=True))


def test_seeds_are_averaged_with_the_standard_deviation_of_a_sample(record: Any) -> None:
    accuracies = [96.2, 97.0, 98.4]
    rows = make_rows([record("maxpool", a) for a in accuracies])
    (row,) = rows.frame.to_dict("records")
    assert row["test_top1_percent"] == pytest.approx(statistics.mean(accuracies))
    assert row["test_top1_percent_std"] == pytest.approx(statistics.stdev(accuracies))
    assert row["num_seeds"] == 3


def test_one_seed_has_no_standard_deviation(record: Any) -> None:
    (row,) = make_rows([record()]).frame.to_dict("records")
    assert math.isnan(row["test_top1_percent_std"])


def test_the_difference_is_taken_between_means(record: Any) -> None:
    records = [record("maxpool", 95.0), record("maxpool", 96.0), record("original", 97.0)]
    rows = make_rows([*records, record("original", 98.0)])
    difference = by_variant(rows, "difference_points")
    assert difference == pytest.approx({"original (conv)": 0, "maxpool": -2})
    assert rows.lacks_baseline == ()


def test_the_baseline_stands_first_and_the_others_in_their_order(record: Any) -> None:
    rows = make_rows([record(label) for label in ("maxpool", "avgpool", "original", "dwconv")])
    assert list(rows.frame["variant"]) == ["original (conv)", "maxpool", "avgpool", "dwconv"]


def test_without_a_baseline_the_difference_is_empty_and_the_variant_named(record: Any) -> None:
    rows = make_rows([record("maxpool"), record("avgpool")])
    assert rows.frame["difference_points"].isna().all()
    assert rows.lacks_baseline == ("maxpool", "avgpool")


def test_a_variant_is_compared_within_its_family(record: Any) -> None:
    rows = make_rows(
        [
            record("original", 97.0, family="a", lr=0.1),
            record("maxpool", 96.0, family="a", lr=0.1),
            record("original", 90.0, family="b", lr=0.2),
            record("maxpool", 93.0, family="b", lr=0.2),
            record("dwconv", 99.0, family="c", lr=0.3),
        ]
    )
    found = {(row["variant"], row["recipe.lr"]): row["difference_points"]
             for row in rows.frame.to_dict("records")}  # fmt: skip
    assert found["maxpool", 0.1] == -1
    assert found["maxpool", 0.2] == 3
    assert math.isnan(found["dwconv", 0.3])
    assert rows.lacks_baseline == ("dwconv",)
    assert rows.settings == ("recipe.lr",)


def test_settings_that_do_not_vary_are_no_columns(record: Any) -> None:
    assert make_rows([record(), record("maxpool")]).settings == ()


def test_several_models_become_one_column(record: Any) -> None:
    rows = make_rows(
        [
            record("original", model="resnet18", family="a"),
            record("original", model="resnet_digits", family="b"),
            record("maxpool", model="resnet_digits", family="b"),
        ]
    )
    assert rows.settings == ("model",)
    assert list(rows.frame["model"]) == ["resnet18", "resnet_digits", "resnet_digits"]


def test_another_variant_can_be_the_baseline(record: Any) -> None:
    records = [record("original", 97.0), record("maxpool", 95.0), record("dwconv", 96.5)]
    rows = make_rows(records, Criteria(baseline="maxpool"))
    expected = {"original (conv)": 2, "maxpool": 0, "dwconv": 1.5}
    assert by_variant(rows, "difference_points") == pytest.approx(expected)


def test_a_baseline_that_is_not_there_lists_the_choices(record: Any) -> None:
    with pytest.raises(PfstudyError) as caught:
        make_rows([record(), record("maxpool")], Criteria(baseline="maxpol"))
    assert str(caught.value) == (
        "baseline 'maxpol' does not exist; choose from: original, maxpool. Did you mean 'maxpool'?"
    )


def test_no_records_are_an_error() -> None:
    with pytest.raises(PfstudyError, match="there are no finished runs here"):
        make_rows([])


def test_speed_is_the_inverse_of_the_relative_latency(record: Any) -> None:
    rows = make_rows([record(speed=(2.0, 1.0)), record("maxpool", speed=(1.6, 0.8))])
    assert by_variant(rows, "relative_speed") == pytest.approx(
        {"original (conv)": 1, "maxpool": 1.25}
    )
    assert by_variant(rows, "latency_ms") == {"original (conv)": 2.0, "maxpool": 1.6}
    assert rows.speed["device"] == "Some CPU"


def test_latencies_are_as_measured_and_compared_by_ratios(record: Any) -> None:
    """The variant was timed later, when the machine was slower by half."""
    rows = make_rows([record(speed=(2.0, 1.0)), record("maxpool", speed=(2.4, 0.8))])
    assert by_variant(rows, "latency_ms") == {"original (conv)": 2.0, "maxpool": 2.4}
    assert by_variant(rows, "comparable_latency_ms") == {"original (conv)": 2.0, "maxpool": 1.6}


def test_without_the_baseline_its_latency_is_the_one_beside_the_variant(record: Any) -> None:
    rows = make_rows([record("maxpool", speed=(2.4, 0.8))])
    assert by_variant(rows, "latency_ms") == pytest.approx({"maxpool": 2.4})


def test_the_wanted_setting_is_shown_where_there_are_several(record: Any) -> None:
    small, large = record(speed=(2.0, 1.0)), record(speed=(9.0, 1.0), batch_size=64)
    both = {**small, "speed": [*small["speed"], *large["speed"]]}
    for batch_size in (1, 64):
        assert make_rows([both], speed={"batch_size": batch_size}).speed["batch_size"] == batch_size


def test_latencies_of_several_settings_are_not_mixed(record: Any) -> None:
    rows = make_rows(
        [
            record(speed=(2.0, 1.0)),
            record("maxpool", speed=(1.6, 0.8)),
            record("dwconv", speed=(9.0, 1.2), batch_size=64),
        ]
    )
    assert rows.speed["batch_size"] == 1
    assert math.isnan(by_variant(rows, "latency_ms")["dwconv"])


@pytest.fixture
def measured(record: Any) -> list[Any]:
    """Records on two devices, and on one of them in two settings."""
    return [
        record(speed=(2.0, 1.0)),
        record("maxpool", speed=(1.6, 0.8)),
        record("avgpool", speed=(9.0, 0.9), batch_size=64),
        record("dwconv", speed=(0.1, 0.7), device="NVIDIA A100-SXM4", host="there"),
        record("identity"),
    ]


@pytest.mark.parametrize(
    ("wanted", "device", "batch_size"),
    [
        pytest.param([], "Some CPU", 1, id="what most have"),
        pytest.param(["device=a100"], "NVIDIA A100-SXM4", 1, id="part of a device's name"),
        pytest.param(["host=ther"], "NVIDIA A100-SXM4", 1, id="part of a host's name"),
        pytest.param(["batch_size=64"], "Some CPU", 64, id="batch size"),
        pytest.param(["device=cpu", "dtype=FLOAT32"], "Some CPU", 1, id="several"),
        pytest.param(["cuda_graph=false", "device=cpu"], "Some CPU", 1, id="older than the key"),
    ],
)
def test_the_setting_of_speed_is_chosen(
    measured: Any, wanted: list[str], device: str, batch_size: int
) -> None:
    found = choose_speed(measured, wanted)
    assert (found["device"], found["batch_size"]) == (device, batch_size)
    assert make_rows(measured, speed=found).speed == found


def test_an_unknown_setting_of_speed_lists_the_choices(measured: Any) -> None:
    with pytest.raises(PfstudyError) as caught:
        choose_speed(measured, ["bach_size=64"])
    assert str(caught.value) == (
        "the setting of speed 'bach_size' does not exist; choose from: device, host, batch_size, "
        "layout, dtype, backend, passes, cache, cuda_graph, num_threads, version, driver, "
        "measuring. Did you mean 'batch_size'?"
    )


def test_a_setting_in_which_nothing_was_measured_lists_what_there_is(measured: Any) -> None:
    with pytest.raises(PfstudyError) as caught:
        choose_speed(measured, ["device=a100", "batch_size=64"])
    assert str(caught.value) == (
        "no speed was measured with device=a100 and batch_size=64; measured were: Some CPU, 1 "
        "thread, batch 1, contiguous, float32, eager (host here); Some CPU, 1 thread, batch 64, "
        "contiguous, float32, eager (host here); NVIDIA A100-SXM4, 1 thread, batch 1, contiguous, "
        "float32, eager (host there)."
    )


@pytest.mark.parametrize("value", ["6", "640"])
def test_only_names_may_be_given_in_part(measured: Any, value: str) -> None:
    with pytest.raises(PfstudyError, match="no speed was measured"):
        choose_speed(measured, [f"batch_size={value}"])


def test_without_any_measurement_there_is_nothing_to_choose(record: Any) -> None:
    with pytest.raises(PfstudyError, match=r"device=cpu; measured were: none\.$"):
        choose_speed([record()], ["device=cpu"])


@pytest.mark.parametrize(
    ("measured", "mark"),
    [
        pytest.param({}, "", id="of old"),
        pytest.param({"others_load": 0.1, "max_load": 0.1, "fell_back": False}, "", id="fine"),
        pytest.param({"others_load": 0.2, "max_load": 0.1}, "*", id="busy"),
        pytest.param({"others_load": None, "max_load": 0.1}, "", id="not known"),
        pytest.param({"fell_back": True}, "†", id="fell back"),
        pytest.param({"others_load": 0.2, "max_load": 0.1, "fell_back": True}, "*†", id="both"),
    ],
)
def test_a_figure_that_is_not_what_it_seems_is_marked(
    record: Any, measured: dict[str, Any], mark: str
) -> None:
    assert speed_mark(measured) == mark
    rows = make_rows([record(speed=(2.0, 1.0), **measured), record("maxpool")])
    assert by_variant(rows, "speed_mark") == {"original (conv)": mark, "maxpool": ""}
    assert list(rows.speed_remarks) == explain_marks([measured])


@pytest.mark.parametrize(
    ("measured", "sentences"),
    [
        pytest.param([], [], id="none"),
        pytest.param([{}, {"others_load": 0.1, "max_load": 0.1}], [], id="fine"),
        pytest.param(
            [{"fell_back": True}, {"others_load": 0.2, "max_load": 0.1}, {"fell_back": True}],
            [
                "*: measured while others used the machine.",
                "†: computed eagerly, as it does not compile.",
            ],
            id="marks",
        ),
        pytest.param(
            [{"others_load": 0.1, "max_load": 0.1}, {"others_load": None, "max_load": 0.1}],
            ["How busy the device was is not known."],
            id="not known",
        ),
    ],
)
def test_marks_are_explained_once(measured: list[Any], sentences: list[str]) -> None:
    assert explain_marks(measured) == sentences


def test_runs_that_were_not_measured_have_no_speed(record: Any) -> None:
    rows = make_rows([record()])
    assert rows.speed == {}
    assert rows.frame[["latency_ms", "relative_speed"]].isna().all(axis=None)


def test_a_projection_is_marked(record: Any) -> None:
    rows = make_rows([record("maxpool", num_projected_sites=1), record("conv3")])
    assert list(rows.frame["variant"]) == ["maxpool (+1x1)", "conv3"]


def test_every_column_is_there(record: Any) -> None:
    keys = {key for column in COLUMNS for key in (column.key, column.partner) if key}
    assert keys <= set(make_rows([record()]).frame)


@pytest.mark.parametrize(
    ("key", "value", "written"),
    [
        pytest.param("params", 14_232_232, "14.2", id="params"),
        pytest.param("params", 1_230, "0.00123", id="few params"),
        pytest.param("macs", 2_239_496_192, "2.24", id="macs"),
        pytest.param("latency_ms", 123.4, "123", id="latency"),
        pytest.param("relative_speed", 0.7251, "0.73", id="speed"),
        pytest.param("test_top1_percent", 97.456, "97.46", id="accuracy"),
        pytest.param("difference_points", -0.5, "-0.50", id="worse"),
        pytest.param("difference_points", 0.5, "+0.50", id="better"),
        pytest.param("difference_points", math.nan, "", id="no baseline"),
        pytest.param("latency_ms", None, "", id="not measured"),
    ],
)
def test_values_are_written_for_people(key: str, value: Any, written: str) -> None:
    (column,) = (column for column in COLUMNS if column.key == key)
    assert column.write(value) == written


def test_keys_of_columns_are_unique() -> None:
    keys = [column.key for column in COLUMNS]
    assert len(set(keys)) == len(keys)


class TestTrials:
    """Tuning trials are not tested: they show their validation accuracy, and nothing is judged."""

    @staticmethod
    def trial(record: Any, label: str, lr: float) -> Any:
        made = record(label, family=f"lr{lr}", lr=lr)
        made["metrics"] = {"val_top1_percent": 100 * lr}
        return made

    def test_a_table_of_trials_shows_validation_accuracy(self, record: Any) -> None:
        rows = make_rows([self.trial(record, "original", lr) for lr in (0.1, 0.2)])
        content = make_content(rows)
        keys = [column.key for column in content.columns]
        assert "val_top1_percent" in keys
        assert not [key for key in keys if key.startswith(("test", "difference", "verdict"))]
        assert content.caption.startswith("Validation accuracy on digits after the last epoch")
        assert "not tested" in content.caption
        assert rows.lacks_baseline == ()
        assert fit_levels(rows) == []

    def test_asked_for_test_columns_are_blank(self, record: Any) -> None:
        rows = make_rows([self.trial(record, "original", 0.1)])
        content = make_content(rows, columns=["test_top1_percent", "difference_points"])
        assert [cell.first for cell in content.lines[0][-2:]] == ["", ""]

    def test_runs_beside_them_are_judged_as_without_them(self, record: Any) -> None:
        runs = [record(label, a, seed=s) for label, a, s in
                (("original", 97, 0), ("original", 97.5, 1), ("maxpool", 95, 0), ("maxpool", 95.2, 1))]  # fmt: skip  # noqa: E501
        alone = make_rows(runs).frame.set_index("hash")
        beside = make_rows([self.trial(record, "original", 0.3), *runs]).frame.set_index("hash")
        keys = ["difference_points", "difference_low", "p_value", "verdict", "is_control", "front"]
        assert beside.loc[alone.index, keys].equals(alone[keys])
        assert beside.loc["lr0.3", keys].isna().sum() == 5
