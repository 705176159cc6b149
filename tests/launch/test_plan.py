"""Plans: with processes that are made up, and real ones through the console."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from configs import compose
from measurements import measurement
from pfstudy import files, ledger, store
from pfstudy.data import fingerprint
from pfstudy.errors import ChildFailedError, PfstudyError
from pfstudy.launch import plan as planning
from pfstudy.launch import training
from pfstudy.launch.plan import make_plan
from pfstudy.launch.planned import Plan, PlannedVariant, runs_per_device, schedule_s
from pfstudy.launch.trials import Candidate, Tried
from pfstudy.schema.config import Config, Study
from pfstudy.speed import archive
from pfstudy.speed.blocktable import BlockTable, backbone_of, save_table, table_path
from pfstudy.speed.setting import setting_of
from pfstudy.tasks import Checked, Device, Slot
from pfstudy.variant import Variant, make_variant
from pfstudy.worker.findings import Findings, Trial

Ended = subprocess.CompletedProcess[str]

CPU = Device("cpu", "cpu", "Some CPU")
GPUS = tuple(Device("gpu", f"GPU-{number}", "Some GPU") for number in range(2))
TRIAL = Trial(
    seconds_per_step=2.0,
    images_per_s=1.0,
    seconds_per_evaluation_batch=3.0,
    seconds_between_epochs=0.0,
    seconds_to_start=0.0,
    num_steps=17,
    num_validation_batches=1,
    num_test_batches=2,
    peak_memory_bytes=1000,
)
EPOCH_S = 17 * 2 + 3
TEST_S = 2 * 3
RUN_S = 15 * EPOCH_S + TEST_S
COST = {"params": 10, "macs": 20}
TWO_WORKERS = ("launcher.num_workers=2", "trainer.accelerator=cpu")


class FakeProcesses:
    """Stands for the check of a sweep, its slots and its trials.

    Attributes:
        devices: What the check finds.
        dropped: Constraints by label.
        misfits: Reasons by label.
        refusal: What the check raises, whatever is checked.
        problems: Why trials fail, by label.
        latency_ms: What trials find.
        checked: The labels of every check.
        tried: The candidates.
    """

    def __init__(self) -> None:
        self.devices: tuple[Device, ...] = (CPU,)
        self.dropped: dict[str, str] = {}
        self.misfits: dict[str, str] = {}
        self.refusal: PfstudyError | None = None
        self.problems: dict[str, str] = {}
        self.latency_ms: float | None = None
        self.checked: list[list[str]] = []
        self.tried: list[Candidate] = []

    def __call__(self, *_: Any) -> FakeProcesses:
        return self

    def __enter__(self) -> FakeProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, function: str, variants: Sequence[Variant], log: Path) -> Any:
        assert str(log) == "/dev/null"
        if function == "pfstudy.worker.trial:find_misfits":
            return {v.hash: self.misfits[v.label] for v in variants if v.label in self.misfits}
        assert function == "pfstudy.launch.check:check_variants"
        self.checked.append([variant.label for variant in variants])
        if self.refusal is not None:
            raise self.refusal
        for variant in variants:
            if variant.label in self.misfits:
                raise PfstudyError(f"{variant.label}: {self.misfits[variant.label]}")
        dropped = {v.hash: self.dropped[v.label] for v in variants if v.label in self.dropped}
        return Checked(self.devices, self.devices[0], {}, dropped)

    def run(self, candidates: Sequence[Candidate]) -> list[Tried]:
        self.tried += candidates
        return [self.answer(candidate.variant) for candidate in candidates]

    def answer(self, variant: Variant) -> Tried:
        problem = self.problems.get(variant.label)
        if problem is not None:
            return Tried(None, COST, 1, problem)
        return Tried(Findings(TRIAL, self.latency_ms), COST)


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeProcesses:
    monkeypatch.chdir(tmp_path)
    made = FakeProcesses()
    monkeypatch.setattr(planning, "Pool", made)
    monkeypatch.setattr(planning, "Trials", made)
    return made


def configs_of(*jobs: Sequence[str], **changes: Any) -> list[Config]:
    return [replace(compose(*TWO_WORKERS, *job), **changes) for job in jobs]


def rows_of(plan: Plan) -> dict[str, PlannedVariant]:
    return {row.name: row for row in plan.variants}


def write_run(
    config: Config, *, seed: int = 0, record: Mapping[str, Any] | None = None, **state: Any
) -> Path:
    """Make the directory of a run in this directory."""
    run = store.make_run(make_variant(config, fingerprint(config.data)), seed)
    store.prepare(run)
    files.write_json(run.directory / ledger.STATE, {"attempt": 0, **state})
    if record is not None:
        files.write_json(run.directory / ledger.RECORD, record)
    return run.directory


RECORD = {"training": {"seconds": 40.0, "test_seconds": 2.0}, "cost": {"params": 7, "macs": 8}}
MAXPOOL, AVGPOOL = ("block.spatial=maxpool",), ("block.spatial=avgpool",)


class TestWhatIsTried:
    def test_every_variant_that_is_new(self, processes: FakeProcesses) -> None:
        plan = make_plan(configs_of((), MAXPOOL))
        assert [c.variant.label for c in processes.tried] == ["original", "maxpool"]
        row = rows_of(plan)["maxpool"]
        assert (row.params, row.macs, row.trial) == (10, 20, TRIAL)
        assert [run.state for run in row.runs] == ["new"]

    @pytest.mark.parametrize(
        ("jobs", "num_tried"),
        [
            ([("recipe.lr=0.1",), ("recipe.lr=0.2",)], 1),
            ([("recipe.epochs=2",), ("recipe.epochs=3",)], 1),
            ([("seeds=3",)], 1),
            ([("recipe.batch_size=32",), ("recipe.batch_size=64",)], 2),
            ([("trainer.precision=32-true",), ("trainer.precision=bf16-mixed",)], 2),
            ([("recipe.momentum=0",), ("recipe.momentum=0.9",)], 2),
            ([("data.num_validation=100",), ("data.num_validation=200",)], 2),
            ([("block.kernel_size=3", *MAXPOOL), ("block.kernel_size=5", *MAXPOOL)], 2),
        ],
        ids=lambda value: value[0][0] if isinstance(value, list) else "",
    )
    def test_what_trains_alike_is_tried_once(
        self, processes: FakeProcesses, jobs: Sequence[Sequence[str]], num_tried: int
    ) -> None:
        plan = make_plan(configs_of(*jobs))
        assert len(processes.tried) == num_tried
        assert all(row.trial is TRIAL for row in plan.variants)

    def test_nothing_where_all_is_done(self, processes: FakeProcesses) -> None:
        (config,) = configs_of(())
        write_run(config, record=RECORD)
        plan = make_plan([config])
        assert processes.checked == []
        assert processes.tried == []
        (row,) = plan.variants
        assert (row.params, row.macs) == (7, 8)
        assert (row.runs[0].state, row.runs[0].seconds) == ("done", 42.0)
        assert (plan.num_slots, plan.seconds, plan.device_hours) == (0, 0.0, 0.0)

    def test_what_is_done_is_not_tried_beside_what_is_new(self, processes: FakeProcesses) -> None:
        configs = configs_of((), MAXPOOL)
        write_run(configs[0], record=RECORD)
        plan = make_plan(configs)
        assert [c.variant.label for c in processes.tried] == ["maxpool"]
        assert rows_of(plan)["original"].trial is None

    def test_latency_only_where_none_was_measured(self, processes: FakeProcesses) -> None:
        processes.latency_ms = 5.0
        configs = configs_of((), MAXPOOL)
        measured = make_variant(configs[0], fingerprint(configs[0].data))
        place = {"host": platform.node(), "device": CPU.name, "device_kind": "cpu"}
        setting = setting_of(configs[0].speed)
        figures = measurement(baseline_latency_ms=1.5, latency_ms=1.5)
        archive.save(measured, {**figures, **place, **setting})
        rows = rows_of(make_plan(configs))
        assert [c.times_latency for c in processes.tried] == [False, True]
        assert (rows["original"].latency_ms, rows["original"].latency_is_estimate) == (1.5, False)
        assert (rows["maxpool"].latency_ms, rows["maxpool"].latency_is_estimate) == (5.0, True)

    def test_latencies_of_what_is_done_are_of_one_device(self, processes: FakeProcesses) -> None:
        """Of the one that most were measured on, as no check says which it would be."""
        configs = configs_of((), MAXPOOL, AVGPOOL)
        setting = setting_of(configs[0].speed)
        times = {"Some CPU": (2.0, [0.5, 0.8]), "Some GPU": (0.1, [1.0])}
        for device, (baseline_ms, ratios) in times.items():
            place = {"host": platform.node(), "device": device, "device_kind": "cpu"}
            for config, ratio in zip(configs[1:], ratios, strict=False):
                variant = make_variant(config, fingerprint(config.data))
                figures = measurement(ratio, latency_ms=baseline_ms * ratio)
                archive.save(variant, {**figures, **place, **setting})
        for config in configs:
            write_run(config, record=RECORD)
        plan = make_plan(configs)
        assert processes.checked == []
        assert plan.setting["device"] == "Some CPU"
        assert [row.latency_ms for row in plan.variants] == [None, 1.0, 1.6]

    def test_predictions_for_what_is_done_name_their_device(self, processes: FakeProcesses) -> None:
        configs = configs_of((), MAXPOOL)
        variants = [make_variant(config, fingerprint(config.data)) for config in configs]
        place = {"host": platform.node(), "device": "Some CPU", "device_kind": "cpu"}
        setting = {**place, **setting_of(configs[0].speed)}
        cells = {site: {"original": 0.2, "maxpool": 0.1} for site in variants[0].operations}
        backbone = backbone_of(variants[0])
        table = BlockTable(setting, {}, "resnet_digits", backbone, 10.0, 0.2, cells)
        save_table(table_path(Path("runs"), variants[0], setting), table)
        for config in configs:
            write_run(config, record=RECORD)
        plan = make_plan(configs)
        assert processes.checked == []
        assert plan.setting["device"] == "Some CPU"
        assert [row.latency_ms for row in plan.variants] == pytest.approx([10.0, 6.0])

    def test_no_latency_where_the_sweep_measures_none(self, processes: FakeProcesses) -> None:
        make_plan(configs_of(("speed=none",)))
        assert [c.times_latency for c in processes.tried] == [False]


class TestEstimates:
    def test_seeds_are_runs_on_slots(self, processes: FakeProcesses) -> None:
        plan = make_plan(configs_of(("seeds=3",)))
        assert [run.seconds_left for run in plan.variants[0].runs] == [RUN_S] * 3
        assert (plan.num_slots, plan.seconds) == (2, 2 * RUN_S)
        assert plan.device_hours == pytest.approx(3 * RUN_S / 3600)

    def test_no_more_slots_than_runs(self, processes: FakeProcesses) -> None:
        assert make_plan(configs_of(())).num_slots == 1

    def test_interrupted_run_goes_on_from_its_checkpoint(self, processes: FakeProcesses) -> None:
        (config,) = configs_of(())
        directory = write_run(config, state="interrupted", epoch=12, num_epochs=15)
        (directory / "checkpoints").mkdir()
        (directory / store.RESUME).touch()
        (run,) = make_plan([config]).variants[0].runs
        assert (run.state, run.epochs_done, run.num_epochs) == ("interrupted", 12, 15)
        assert run.seconds_left == 3 * EPOCH_S + TEST_S

    def test_interrupted_run_without_one_begins_anew(self, processes: FakeProcesses) -> None:
        (config,) = configs_of(())
        write_run(config, state="interrupted", epoch=12, num_epochs=15)
        (run,) = make_plan([config]).variants[0].runs
        assert (run.epochs_done, run.seconds_left) == (0, RUN_S)

    def test_run_of_another_process_is_not_counted(self, processes: FakeProcesses) -> None:
        (config,) = configs_of(("seeds=2",))
        directory = write_run(config)
        claimed = ledger.claim(directory)
        assert claimed is not None
        claimed.write(epoch=4)
        plan = make_plan([config])
        assert [run.state for run in plan.variants[0].runs] == ["running", "new"]
        assert [run.seconds_left for run in plan.variants[0].runs] == [0.0, RUN_S]
        assert plan.seconds == RUN_S

    @pytest.mark.parametrize(
        ("settings", "num_slots", "seconds", "device_runs"),
        [
            (("launcher.slots_per_gpu=1",), 2, 2 * RUN_S, 4),
            (("launcher.slots_per_gpu=2",), 4, RUN_S, 2),
            (("trainer.devices=2",), 1, 4 * RUN_S, 8),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else "",
    )
    def test_gpus(
        self,
        processes: FakeProcesses,
        settings: tuple[str, ...],
        num_slots: int,
        seconds: float,
        device_runs: float,
    ) -> None:
        processes.devices = GPUS
        plan = make_plan([compose("seeds=4", *settings)])
        assert (plan.num_slots, plan.seconds) == (num_slots, seconds)
        assert plan.device_hours == pytest.approx(device_runs * RUN_S / 3600)
        assert plan.devices_per_run == (2 if "trainer.devices=2" in settings else 1)

    @pytest.mark.parametrize(
        ("seconds", "num_slots", "expected"),
        [([], 0, 0.0), ([3.0], 4, 3.0), ([5.0, 1.0, 1.0, 1.0, 4.0], 2, 7.0), ([2.0] * 5, 1, 10.0)],
    )
    def test_schedule(self, seconds: list[float], num_slots: int, expected: float) -> None:
        """In their order, each on the slot that is free first."""
        assert schedule_s(seconds, num_slots) == expected

    def test_cores_are_not_shared(self) -> None:
        assert runs_per_device([Slot("cpu 0", (CPU, CPU)), Slot("cpu 1", (CPU, CPU))]) == 1


class TestFailures:
    def test_variant_that_does_not_fit_is_a_row(self, processes: FakeProcesses) -> None:
        processes.misfits = {"maxpool": "stage1.block1: too large."}
        plan = make_plan(configs_of((), MAXPOOL, AVGPOOL))
        rows = rows_of(plan)
        assert rows["maxpool"].problem == "stage1.block1: too large."
        assert rows["maxpool"].runs[0].seconds_left is None
        assert [c.variant.label for c in processes.tried] == ["original", "avgpool"]
        assert processes.checked == [["original", "maxpool", "avgpool"], ["original", "avgpool"]]
        assert plan.seconds == RUN_S

    def test_where_none_fits_the_rest_is_checked_by_a_backbone(
        self, processes: FakeProcesses
    ) -> None:
        processes.misfits = {"maxpool": "too large.", "avgpool": "too large."}
        plan = make_plan(configs_of(MAXPOOL, AVGPOOL))
        assert processes.checked[-1] == ["original"]
        assert [row.problem for row in plan.variants] == ["too large."] * 2
        assert processes.tried == []

    @pytest.mark.parametrize("misfits", [{}, {"maxpool": "too large."}], ids=["", "misfits"])
    def test_what_concerns_the_sweep_stops_it(
        self, processes: FakeProcesses, misfits: dict[str, str]
    ) -> None:
        processes.misfits = misfits
        processes.refusal = PfstudyError("the images cannot be read.")
        with pytest.raises(PfstudyError, match=r"^the images cannot be read\.$"):
            make_plan(configs_of((), MAXPOOL))

    def test_trial_that_fails_is_a_row(self, processes: FakeProcesses) -> None:
        processes.problems = {"maxpool": "its process was killed by SIGKILL"}
        plan = make_plan(configs_of((), (*MAXPOOL, "recipe.lr=0.1"), (*MAXPOOL, "recipe.lr=0.3")))
        problems = {row.name: row.problem for row in plan.variants}
        reason = "its process was killed by SIGKILL"
        assert problems == {
            "original lr=0.2": None,
            "maxpool lr=0.1": reason,
            "maxpool lr=0.3": reason,
        }
        assert rows_of(plan)["maxpool lr=0.1"].params == 10
        assert plan.seconds == RUN_S

    def test_number_of_slots_that_cannot_be_probed(
        self, processes: FakeProcesses, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def probe(*_: Any) -> None:
            raise ChildFailedError("it fell over")

        monkeypatch.setattr(training, "probe_slots", probe)
        plan = make_plan(configs_of(("launcher.slots=auto", "seeds=4")))
        assert plan.num_slots == 2


class TestTuning:
    TUNED = ("tune.trials=3", "tune.epochs=2")

    def test_trials_are_counted_and_take_their_time(self, processes: FakeProcesses) -> None:
        plan = make_plan(configs_of(self.TUNED, (*self.TUNED, *MAXPOOL)))
        assert len(plan.trials) == 6
        assert plan.num_slots == 2
        assert plan.trial_seconds == 3 * (2 * EPOCH_S + TEST_S)
        assert plan.seconds == plan.trial_seconds + RUN_S

    def test_what_is_done_needs_none(self, processes: FakeProcesses) -> None:
        configs = configs_of(self.TUNED, (*self.TUNED, *MAXPOOL))
        write_run(configs[0], record=RECORD)
        assert len(make_plan(configs).trials) == 3

    def test_what_cannot_be_trained_needs_none(self, processes: FakeProcesses) -> None:
        processes.problems = {"maxpool": "it is too large"}
        assert len(make_plan(configs_of(self.TUNED, (*self.TUNED, *MAXPOOL))).trials) == 3


class TestDropped:
    STUDY = Study(constraints=("params <= 0.7x",))

    def test_is_neither_tried_nor_a_row(self, processes: FakeProcesses) -> None:
        processes.dropped = {"maxpool": "params <= 0.7x"}
        plan = make_plan(configs_of((), MAXPOOL, study=self.STUDY))
        assert [row.name for row in plan.variants] == ["original"]
        assert [(row.name, why) for row, why in plan.dropped] == [("maxpool", "params <= 0.7x")]
        assert [c.variant.label for c in processes.tried] == ["original"]
        assert plan.seconds == RUN_S

    def test_where_nothing_is_left_there_is_no_plan(self, processes: FakeProcesses) -> None:
        processes.dropped = {"maxpool": "params <= 0.7x"}
        with pytest.raises(PfstudyError, match="leave no variant to train"):
            make_plan(configs_of(MAXPOOL, study=self.STUDY))


class TestDuplicates:
    def found(self, *jobs: Sequence[str]) -> list[tuple[str, tuple[str, ...]]]:
        return [(d.name, d.asked) for d in make_plan(configs_of(*jobs)).duplicates]

    def test_what_coincides_is_named_as_it_was_asked_for(self, processes: FakeProcesses) -> None:
        conv, stages = ("block.spatial=conv",), ("site=[stage1,stage2]", "swap=maxpool")
        assert self.found((), conv, MAXPOOL, stages, AVGPOOL) == [
            ("original", ("original", "conv")),
            ("maxpool", ("maxpool", "maxpool")),
        ]

    def test_kernel_and_norm_that_change_nothing_are_named(self, processes: FakeProcesses) -> None:
        kernel, norm = ("block.kernel_size=5",), ("block.norm_act=drop",)
        assert self.found((), kernel, norm) == [
            ("original", ("original", "original5x5", "original-norm"))
        ]

    def test_another_seed_is_none(self, processes: FakeProcesses) -> None:
        assert self.found(("seed=0",), ("seed=1",)) == []

    def test_rows_are_named_by_what_varies(self, processes: FakeProcesses) -> None:
        jobs = [("model=resnet20", "data=digits"), MAXPOOL, (*MAXPOOL, "recipe.lr=0.3")]
        assert list(rows_of(make_plan(configs_of(*jobs)))) == [
            "resnet20 original lr=0.2",
            "resnet_digits maxpool lr=0.2",
            "resnet_digits maxpool lr=0.3",
        ]


def test_nothing_is_written(processes: FakeProcesses, tmp_path: Path) -> None:
    make_plan(configs_of((), MAXPOOL))
    assert list(tmp_path.iterdir()) == []


TROUBLE = """
from pfstudy import Operation, register


def pool(layer, before):
    from torch import nn

    class Pool(nn.Module):
        def forward(self, x):
            if x.device.type != "meta":
                before(x, self.training)
            return nn.functional.avg_pool2d(x, layer.stride, layer.stride)

    return Pool()


def raising(layer):
    def fail(x, training):
        print("printed by an operation")
        if training:
            raise RuntimeError("the paint is wet")

    return pool(layer, fail)


def dying(layer):
    import os
    import signal

    def die(x, training):
        if training:
            os.kill(os.getpid(), signal.SIGKILL)

    return pool(layer, die)


def growing(layer):
    from torch import nn

    return nn.Upsample(scale_factor=2)


for make in (raising, dying, growing):
    register(Operation(make.__name__, make, trainable=False))
"""


@dataclass(frozen=True)
class Planned:
    """A real plan."""

    directory: Path
    done: Ended
    before: Mapping[str, int]

    @property
    def rows(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = json.loads(self.done.stdout)["rows"]
        return {row["name"]: row for row in rows}


def tree(directory: Path) -> dict[str, int]:
    """When everything below a directory was last changed."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in directory.rglob("*")
        if "__pycache__" not in path.parts
    }


@pytest.fixture(scope="module")
def planned(
    tmp_path_factory: pytest.TempPathFactory,
    pfstudy_together: Callable[..., Mapping[str, Ended]],
    own_sweep: Any,
) -> Mapping[str, Planned]:
    """Plans of what is new, of what is partly done, and of what would fail."""
    new, trouble = tmp_path_factory.mktemp("new"), tmp_path_factory.mktemp("trouble")
    (trouble / "trouble_ops.py").write_text(TROUBLE)
    plan = ("plan", "--seconds", "0.05")
    grid = ("imports=[my_ops]", "block.spatial=original,mine,maxpool", "recipe.epochs=1")
    operations = "block.spatial=maxpool,raising,dying,growing"
    quick = ("logger=none", "speed.num_processes=2", "speed.max_processes=2", "speed.num_rounds=3")
    commands: dict[str, tuple[Path, tuple[str, ...]]] = {
        "new": (new, (*plan, "-m", "block.spatial=conv,original,dwconv", "seeds=2")),
        "partly done": (own_sweep.directory, (*plan, "--json", "-m", *grid, *quick)),
        "trouble": (
            trouble,
            (*plan, "-m", "imports=[trouble_ops]", operations, "speed=none", "--json"),
        ),
    }
    before = {name: tree(directory) for name, (directory, _) in commands.items()}
    done = pfstudy_together(commands)
    return {
        name: Planned(directory, done[name], before[name])
        for name, (directory, _) in commands.items()
    }


@pytest.mark.slow
class TestConsole:
    @pytest.mark.parametrize("name", ["new", "partly done", "trouble"])
    def test_nothing_is_written(self, planned: Mapping[str, Planned], name: str) -> None:
        found = planned[name]
        assert tree(found.directory) == found.before

    def test_table_on_stdout_and_progress_on_stderr(self, planned: Mapping[str, Planned]) -> None:
        done = planned["new"].done
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        (original,) = [line for line in lines if line.startswith("  original")]
        (dwconv,) = [line for line in lines if line.startswith("  dwconv")]
        assert original.split()[1:3] == ["0.0529", "0.00134"]
        assert dwconv.split()[1:3] == ["0.0307", "0.000775"]
        assert all(line.split()[3].startswith("~") for line in (original, dwconv))
        assert all(line.split()[-1] == "new" for line in (original, dwconv))
        assert "4 runs: 4 to train, about " in done.stdout
        remark = "1 variant coincides with others: original (asked for 2 times, as conv and "
        assert remark + "original)." in done.stdout
        assert [line.split()[0] for line in done.stderr.splitlines() if line[0] != " "] == [
            "plan",
            "check",
            "try",
        ]

    def test_what_is_done_keeps_what_was_measured(
        self, planned: Mapping[str, Planned], own_sweep: Any
    ) -> None:
        found = planned["partly done"]
        assert found.done.returncode == 0, found.done.stderr
        mine, maxpool = found.rows["mine"], found.rows["maxpool"]
        training = files.read_json(own_sweep.run_dir("mine") / "record.json")["training"]
        took = training["seconds"] + training["test_seconds"]
        assert (mine["state"], mine["seconds_per_run"]) == ("done", took)
        assert mine["seconds_per_run_is_estimate"] is False
        (measured,) = store.read_speeds(own_sweep.run_dir("mine").parent)
        assert mine["latency_ms"] == measured["latency_ms"]
        assert mine["latency_is_estimate"] is False
        assert mine["peak_memory_bytes"] is None
        assert (maxpool["state"], maxpool["latency_is_estimate"]) == ("new", True)
        assert maxpool["peak_memory_bytes"] > 0
        assert maxpool["seconds_per_run"] > 0

    def test_failing_variants_are_rows_and_the_others_go_on(
        self, planned: Mapping[str, Planned]
    ) -> None:
        found = planned["trouble"]
        assert found.done.returncode == 1
        problems = {name: row["problem"] for name, row in found.rows.items()}
        growing = problems.pop("growing")
        assert problems == {
            "maxpool": None,
            "raising": "RuntimeError: the paint is wet",
            "dying": "its process was killed by SIGKILL",
        }
        assert growing.startswith("stage1.block1: growing puts out (2, 16, 16, 16), but ")
        assert found.rows["maxpool"]["seconds_per_run"] > 0
        assert found.rows["raising"]["params"] == found.rows["maxpool"]["params"]

    def test_last_line_names_what_would_fail(self, planned: Mapping[str, Planned]) -> None:
        sentence = planned["trouble"].done.stderr.splitlines()[-1]
        assert sentence.startswith("pfstudy: 3 of 4 variants would fail: ")
        assert "dying (its process was killed by SIGKILL)" in sentence

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (("-m", "block.spatial=conv,maxpol"), "operation 'maxpol' does not exist"),
            (("recipe.epochs=0",), "recipe.epochs"),
            (("--seconds", "0"), "--seconds must be more than 0"),
            (
                ("-m", "hydra/launcher=slurm", "hydra.launcher.name=x", "block.spatial=maxpol"),
                "operation 'maxpol' does not exist",
            ),
        ],
        ids=["operation", "value", "seconds", "another launcher"],
    )
    def test_mistakes(
        self,
        pfstudy: Callable[..., Ended],
        tmp_path: Path,
        arguments: Sequence[str],
        sentence: str,
    ) -> None:
        done = pfstudy(tmp_path, "plan", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith("pfstudy: ")
        assert sentence in line
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "module", ["pfstudy.launch.plan", "pfstudy.tables.plan", "pfstudy.worker.findings"]
)
def test_parent_needs_no_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120, check=False).returncode == 0
