from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from configs import variant_of
from measurements import NAMED, SETTING
from pfstudy.launch.planned import (
    Duplicate,
    Plan,
    PlannedRun,
    PlannedVariant,
    reconcile_latencies,
)
from pfstudy.speed.blocktable import Prediction
from pfstudy.tables.plan import as_data, describe_problems, render, state_of
from pfstudy.worker.findings import Trial

TRIAL = Trial(
    seconds_per_step=2.0,
    images_per_s=1.0,
    seconds_per_evaluation_batch=3.0,
    seconds_between_epochs=0.0,
    seconds_to_start=0.0,
    num_steps=17,
    num_validation_batches=1,
    num_test_batches=2,
    peak_memory_bytes=1_234_567_890,
)
RUN_S = 15 * (17 * 2 + 3) + 2 * 3
ROW_KEYS = {
    "name",
    "variant",
    "model",
    "hash",
    "settings",
    "params",
    "macs",
    "latency_ms",
    "prediction",
    "latency_is_estimate",
    "speed_mark",
    "peak_memory_bytes",
    "seconds_per_step",
    "seconds_per_run",
    "seconds_per_run_is_estimate",
    "num_parts",
    "state",
    "problem",
    "runs",
}
RUN_KEYS = {
    "directory",
    "seed",
    "state",
    "epochs_done",
    "num_epochs",
    "seconds",
    "seconds_left",
}
TOTAL_KEYS = {
    "num_variants",
    "num_runs",
    "num_done",
    "num_left",
    "num_trials",
    "num_trials_left",
    "trial_seconds",
    "num_problems",
    "num_slots",
    "devices_per_run",
    "seconds",
    "device_hours",
    "seconds_done",
}


def a_run(state: str = "new", epochs_done: int = 0, *, seed: int = 0) -> PlannedRun:
    seconds = 42.0 if state == "done" else None
    left = RUN_S if state in ("new", "pending", "interrupted") else 0.0
    return PlannedRun(f"runs/x/seed{seed}", seed, state, epochs_done, 40, seconds, left)


def runs(*states: str, epochs_done: int = 0) -> tuple[PlannedRun, ...]:
    return tuple(a_run(state, epochs_done, seed=seed) for seed, state in enumerate(states))


def a_row(
    operation: str = "maxpool",
    *states: str,
    settings: Mapping[str, Any] | None = None,
    **changes: Any,
) -> PlannedVariant:
    row = PlannedVariant(
        variant_of(f"block.spatial={operation}"),
        settings or {},
        runs(*states or ("new",)),
        params=29_690,
        macs=747_776,
        latency_ms=0.4687,
        latency_is_estimate=True,
        trial=TRIAL,
    )
    return replace(row, **changes)


DONE = a_row("conv", "done", trial=None, latency_is_estimate=False)


def a_plan(*rows: PlannedVariant, **changes: Any) -> Plan:
    plan = Plan("mine", rows, (), (), 2, 1, 12_000.0, 6.6, SETTING)
    return replace(plan, **changes)


def written(plan: Plan) -> list[str]:
    text = io.StringIO()
    Console(file=text, width=160).print(render(plan), soft_wrap=True)
    return [line.strip() for line in text.getvalue().splitlines() if line.strip()]


def row_of(plan: Plan, name: str) -> str:
    (found,) = [line for line in written(plan) if line.startswith(name)]
    return " ".join(found.split())


class TestLatency:
    @pytest.mark.parametrize(
        ("measured", "mark", "remark"),
        [
            pytest.param({"others_load": 0.0, "max_load": 0.1}, "", "", id="fine"),
            pytest.param(
                {"others_load": 0.3, "max_load": 0.1},
                "*",
                " *: measured while others used the machine.",
                id="busy",
            ),
            pytest.param(
                {"fell_back": True},
                "†",
                " †: computed eagerly, as it does not compile.",
                id="fell back",
            ),
            pytest.param(
                {"others_load": None}, "", " How busy the device was is not known.", id="not known"
            ),
        ],
    )
    def test_what_is_not_what_it_seems_is_marked(
        self, measured: Mapping[str, Any], mark: str, remark: str
    ) -> None:
        plan = a_plan(replace(DONE, latency_source=measured))
        assert row_of(plan, "original") == f"original 0.0297 0.000748 0.469{mark} 42 s done"
        assert f"Latency: {NAMED}.{remark}" in written(plan)
        assert as_data(plan)["rows"][0]["speed_mark"] == mark

    @pytest.mark.parametrize(
        ("interval", "words"),
        [
            pytest.param((0.76, 0.84), " of 1 variant, within 5.0 % in 95 of 100 cases.", id=""),
            pytest.param((None, None), " of 1 variant.", id="not known"),
        ],
    )
    def test_how_sure_a_prediction_is(
        self, interval: tuple[float | None, float | None], words: str
    ) -> None:
        plan = a_plan(a_row(prediction=Prediction(0.8, *interval, 4.0)))
        assert f"Predicted from the block table: the latency{words}" in written(plan)
        assert as_data(plan)["rows"][0]["prediction"]["low"] == interval[0]


class TestReconciledLatencies:
    MAXPOOL = a_row(
        latency_source={"latency_ms": 1.6, "baseline_latency_ms": 3.0, "relative_latency": 0.5}
    )

    def latencies(self, *rows: PlannedVariant) -> list[float | None]:
        return [row.latency_ms for row in reconcile_latencies(rows)]

    def test_that_are_predicted_are_referred_to_the_time_of_the_backbone(self) -> None:
        """The backbone was measured when the machine was faster."""
        backbone = {"latency_ms": 2.1, "baseline_latency_ms": 2.0, "relative_latency": 1.0}
        predicted = a_row(
            "avgpool",
            latency_source={"baseline_latency_ms": 5.0},
            prediction=Prediction(0.8, None, None, 4.0),
        )
        done = replace(DONE, latency_source=backbone)
        measured = replace(self.MAXPOOL, latency_is_estimate=False)
        assert self.latencies(measured, predicted, done) == pytest.approx([1.6, 1.6, 2.1])
        assert self.latencies(predicted, measured) == pytest.approx([2.4, 1.6])
        assert self.latencies(predicted) == pytest.approx([4.0])

    def test_are_as_they_are_where_they_were_timed_for_a_moment(self) -> None:
        assert self.latencies(self.MAXPOOL, a_row("avgpool")) == pytest.approx([1.6, 0.4687])

    def test_are_not_referred_to_another_backbone(self) -> None:
        other = replace(
            a_row(latency_source={"baseline_latency_ms": 7.0, "relative_latency": 1.0}),
            variant=variant_of("model=vit_digits"),
        )
        assert self.latencies(other, self.MAXPOOL) == pytest.approx([7.0, 1.6])


class TestState:
    @pytest.mark.parametrize(
        ("found", "expected"),
        [
            (runs("new"), "new"),
            (runs("new", "new"), "new"),
            (runs("done"), "done"),
            (runs("done", "done", "done"), "done 3/3"),
            (runs("done", "new", "done"), "done 2/3"),
            (runs("interrupted", epochs_done=12), "interrupted at 12/40"),
            (runs("interrupted", "new", epochs_done=12), "interrupted at 12/40, 1 new"),
            (runs("done", "failed", "new"), "done 1/3, failed at 0/40"),
            (runs("pending"), "pending"),
            (runs("pending", "new"), "1 pending, 1 new"),
            (runs("running", epochs_done=3), "running at 3/40"),
            (
                (a_run("interrupted", 3), a_run("interrupted", 7, seed=1)),
                "2 interrupted",
            ),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_in_words(self, found: tuple[PlannedRun, ...], expected: str) -> None:
        assert state_of(a_row(runs=found)) == expected


class TestTable:
    def test_what_is_to_come_is_an_estimate(self) -> None:
        line = row_of(a_plan(a_row()), "maxpool")
        assert line == "maxpool 0.0297 0.000748 ~0.469 1,235 ~9 min new"

    def test_what_is_done_is_not(self) -> None:
        line = row_of(a_plan(DONE, a_row()), "original")
        assert line == "original 0.0297 0.000748 0.469 42 s done"

    def test_columns_without_a_figure_are_left_out(self) -> None:
        header = written(a_plan(replace(DONE, latency_ms=None)))[0]
        assert "time per run" in header
        assert "latency" not in header
        assert "memory" not in header

    def test_settings_that_vary_are_columns(self) -> None:
        rows = [a_row(settings={"model": "a", "recipe.lr": lr}) for lr in (0.1, 0.2)]
        lines = written(a_plan(*rows))
        assert lines[0].split()[:3] == ["variant", "model", "lr"]
        assert [line.split()[:3] for line in lines[2:4]] == [
            ["maxpool", "a", "0.1"],
            ["maxpool", "a", "0.2"],
        ]

    def test_reason_of_a_failure_is_in_its_row(self) -> None:
        row = a_row(problem="stage1.block1: [it] is too large.", trial=None, params=None)
        line = row_of(a_plan(row, a_row("avgpool")), "maxpool")
        assert line.endswith("new; fails: stage1.block1: [it] is too large")

    def test_long_reason_leaves_the_figures_alone(self) -> None:
        row = a_row(problem="too large and " * 30, trial=None, params=None)
        assert "0.000748" in row_of(a_plan(a_row("avgpool"), row), "avgpool")

    def test_batch_in_parts_is_said(self) -> None:
        assert row_of(a_plan(a_row(num_parts=4)), "maxpool").endswith("new; batch in 4 parts")


class TestTotals:
    def sentence(self, plan: Plan) -> str:
        (found,) = [line for line in written(plan) if re.match(r"\d+ runs?\b", line)]
        return found

    def test_what_is_left(self) -> None:
        plan = a_plan(a_row("maxpool", "new", "new"))
        expected = "2 runs: 2 to train, about 3 h 20 min on 2 slots (6.6 device-hours)."
        assert self.sentence(plan) == expected

    def test_trials_come_first(self) -> None:
        trials = (a_run("done"), a_run(), a_run())
        plan = a_plan(a_row("maxpool"), trials=trials, trial_seconds=600.0)
        assert self.sentence(plan) == (
            "1 run: 1 to train after 3 trials (1 done) of about 10 min, about 3 h 20 min on 2 "
            "slots (6.6 device-hours)."
        )

    def test_what_is_done_and_under_way(self) -> None:
        plan = a_plan(DONE, a_row("maxpool", "running", "new"), num_slots=1)
        assert self.sentence(plan) == (
            "3 runs: 1 to train, about 3 h 20 min on 1 slot (6.6 device-hours); 1 done, which took "
            "42 s; 1 being trained by other processes."
        )

    def test_all_done(self) -> None:
        assert self.sentence(a_plan(DONE)) == "1 run, all done: took 42 s."

    def test_several_devices(self) -> None:
        plan = a_plan(a_row(), devices_per_run=2)
        assert "on 2 slots of 2 devices" in self.sentence(plan)
        assert any("its share of each batch" in line for line in written(plan))

    def test_what_would_fail_is_not_counted(self) -> None:
        plan = a_plan(a_row(problem="no.", trial=None), a_row("avgpool"))
        assert self.sentence(plan).startswith("2 runs: 1 to train")
        assert "Not counted: 1 variant that would fail." in written(plan)

    def test_nothing_can_be_trained(self) -> None:
        plan = a_plan(a_row(problem="no.", trial=None), num_slots=0)
        assert self.sentence(plan) == "1 run: 0 to train."


class TestRemarks:
    def test_duplicates(self) -> None:
        duplicates = (
            Duplicate("original", ("original", "conv", "conv")),
            Duplicate("maxpool lr=0.2", ("maxpool", "maxpool")),
        )
        assert (
            "3 variants coincide with others: original (asked for 3 times, as original and conv), "
            "maxpool lr=0.2 (asked for 2 times)."
        ) in written(a_plan(a_row(), duplicates=duplicates))

    def test_many_duplicates_are_not_all_listed(self) -> None:
        many = tuple(Duplicate(f"v{number}", ("a", "a")) for number in range(25))
        (line,) = [x for x in written(a_plan(a_row(), duplicates=many)) if "coincide" in x]
        assert line.startswith("25 variants coincide")
        assert line.endswith("v9 (asked for 2 times) and 15 more.")

    def test_dropped(self) -> None:
        dropped = ((a_row("maxpool"), "sites <= 3"), (a_row("avgpool"), "sites <= 3"))
        lines = written(a_plan(a_row("dwconv"), dropped=dropped))
        assert "sites <= 3 drops 2 variants: maxpool, avgpool." in lines

    def test_sign_of_an_estimate_is_explained_where_it_stands(self) -> None:
        assert any(line.startswith("~: ") for line in written(a_plan(a_row())))
        assert not any(line.startswith("~: ") for line in written(a_plan(DONE)))


class TestData:
    def test_keys_are_frozen(self) -> None:
        duplicates = (Duplicate("maxpool", ("maxpool", "maxpool")),)
        dropped = ((a_row("avgpool"), "sites <= 3"),)
        data = as_data(a_plan(a_row(), duplicates=duplicates, dropped=dropped))
        assert set(data) == {"study", "speed_setting", "rows", "totals", "duplicates", "dropped"}
        assert set(data["rows"][0]) == ROW_KEYS
        assert set(data["rows"][0]["runs"][0]) == RUN_KEYS
        assert set(data["totals"]) == TOTAL_KEYS
        assert data["duplicates"] == [{"name": "maxpool", "asked": ("maxpool", "maxpool")}]
        assert set(data["dropped"][0]) == {"name", "hash", "constraint"}

    def test_figures_are_not_rounded(self) -> None:
        (row,) = as_data(a_plan(a_row(settings={"recipe.lr": 0.1})))["rows"]
        assert (row["params"], row["macs"], row["latency_ms"]) == (29_690, 747_776, 0.4687)
        assert row["latency_is_estimate"] is True
        assert row["peak_memory_bytes"] == 1_234_567_890
        assert (row["seconds_per_run"], row["seconds_per_run_is_estimate"]) == (RUN_S, True)
        assert row["settings"] == {"recipe.lr": 0.1}

    def test_time_of_what_is_done_was_recorded(self) -> None:
        (row,) = as_data(a_plan(DONE))["rows"]
        assert (row["seconds_per_run"], row["seconds_per_run_is_estimate"]) == (42.0, False)
        assert row["peak_memory_bytes"] is None

    def test_totals(self) -> None:
        failing = a_row("dwconv", problem="no.", trial=None)
        data = as_data(a_plan(DONE, a_row("maxpool", "new", "running"), failing))
        assert data["totals"] == {
            "num_variants": 3,
            "num_runs": 4,
            "num_done": 1,
            "num_left": 1,
            "num_trials": 0,
            "num_trials_left": 0,
            "trial_seconds": 0.0,
            "num_problems": 1,
            "num_slots": 2,
            "devices_per_run": 1,
            "seconds": 12_000.0,
            "device_hours": 6.6,
            "seconds_done": 42.0,
        }

    def test_can_be_written(self) -> None:
        plan = a_plan(DONE, a_row(settings={"model": "a", "backbone.args.channels": [16, 32]}))
        assert json.loads(json.dumps(as_data(plan)))["study"] == "mine"


class TestProblems:
    def test_none(self) -> None:
        assert describe_problems(a_plan(a_row())) is None

    def test_variants_are_named_by_reason(self) -> None:
        rows = [a_row("maxpool", problem="too large.", settings={"recipe.lr": lr}) for lr in (1, 2)]
        plan = a_plan(DONE, *rows, a_row("avgpool", problem="too small."))
        assert describe_problems(plan) == (
            "3 of 4 variants would fail: maxpool lr=1, maxpool lr=2 (too large); "
            "avgpool (too small)"
        )
