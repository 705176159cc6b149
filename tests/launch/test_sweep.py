from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from configs import compose
from pfstudy import files, store
from pfstudy.errors import PfstudyError
from pfstudy.launch.sweep import (
    default_study_name,
    list_runs,
    name_runs,
    prepare_sweep,
    run_sweep,
)
from pfstudy.schema.config import Config, parse_config
from pfstudy.variant import make_variant, unflatten
from run_directories import write_record

GRID = ("block.spatial=conv,maxpool", "recipe.epochs=1", "seeds=2")

RECORD_KEYS = {
    "schema_version": None,
    "identity": {"hash", "baseline", "rules", "canonical"},
    "variant": {"model", "label", "is_baseline", "original", "operations"},
    "seed": None,
    "seeds": {"init", "order", "augmentation"},
    "data": None,
    "recipe": None,
    "metrics": {
        f"{split}_{figure}"
        for split in ("val", "test")
        for figure in ("top1_percent", "top5_percent", "loss")
    },
    "cost": {
        "params",
        "macs",
        "activations",
        "memory_traffic_bytes",
        "num_projected_sites",
        "counting",
        "macs_convention",
    },
    "training": {
        "seconds",
        "images_per_second",
        "test_seconds",
        "epochs",
        "effective_batch_size",
        "world_size",
        "num_threads",
        "accumulation",
        "lr",
        "channels_last",
        "compile",
        "skipped_images",
        "attempts",
        "precision",
    },
    "environment": {
        "host",
        "platform",
        "python",
        "cpu_model",
        "versions",
        "git",
        "device",
    },
}
SPEED_KEYS = {
    *("processes", "measuring"),
    "schema_version",
    "passes",
    "cache",
    "cuda_graph",
    "others_load",
    "max_load",
    "peak_memory_bytes",
    "energy_j",
    "fell_back",
    "device",
    "device_kind",
    "host",
    "batch_size",
    "layout",
    "dtype",
    "backend",
    "num_threads",
    "baseline_latency_ms",
    "latency_ms",
    "latency_p10_ms",
    "latency_p90_ms",
    "throughput_images_per_s",
    "relative_latency",
    "relative_latency_low",
    "relative_latency_high",
    "num_processes",
    "num_rounds",
    "stopped_by",
    "version",
    "environment",
}
STATE_KEYS = {
    *("state", "attempt", "host", "pid", "pid_started", "machine", "heartbeat"),
    *("epoch", "num_epochs", "val_top1_percent"),
}
METRICS_COLUMNS = [
    "epoch",
    "lr",
    "train_loss",
    "val_top1_percent",
    "val_top5_percent",
    "val_loss",
    "seconds",
]


@dataclass(frozen=True)
class Sweep:
    """A real sweep that has ended."""

    directory: Path
    done: subprocess.CompletedProcess[str]

    @property
    def runs_dir(self) -> Path:
        return self.directory / "runs"

    def run_dir(self, label: str, seed: int = 0) -> Path:
        (found,) = self.runs_dir.glob(f"*-{label}-*/seed{seed}")
        return found

    @property
    def study(self) -> str:
        (found,) = re.findall(r"^study\s+(\S+):", self.done.stderr, re.MULTILINE)
        return str(found)


@pytest.fixture(scope="module")
def both(
    tmp_path_factory: pytest.TempPathFactory, pfstudy_together: Any, quick_speed: Any
) -> dict[str, Sweep]:
    """Two sweeps, which are run together, as they mostly import."""
    grid = ("block.spatial=maxpool", "recipe.epochs=1", "recipe.lr=0.2,1e9")
    commands = {
        "sweep": ("-m", *GRID, *quick_speed),
        "failing": ("-m", *grid, "speed=none", "logger=none"),
    }
    directories = {name: tmp_path_factory.mktemp(name) for name in commands}
    done = pfstudy_together({name: (directories[name], commands[name]) for name in commands})
    return {name: Sweep(directories[name], done[name]) for name in commands}


@pytest.fixture(scope="module")
def sweep(both: dict[str, Sweep]) -> Sweep:
    """Two variants with two seeds each, all done."""
    return both["sweep"]


@pytest.fixture(scope="module")
def failing(both: dict[str, Sweep]) -> Sweep:
    """All-maxpool twice, without speed: as in the other sweep, and with a rate that diverges."""
    return both["failing"]


def tree(directory: Path) -> dict[str, int]:
    """When every file below a directory was last changed."""
    return {str(p): p.stat().st_mtime_ns for p in directory.rglob("*") if p.is_file()}


class TestRunDirectory:
    def test_sweep_succeeds(self, sweep: Sweep) -> None:
        assert sweep.done.returncode == 0, sweep.done.stderr
        assert "4 runs, 0 done before" in sweep.done.stderr
        assert "Traceback" not in sweep.done.stdout + sweep.done.stderr

    def test_only_the_runs_directory_is_made(self, sweep: Sweep) -> None:
        assert [path.name for path in sweep.directory.iterdir()] == ["runs"]

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("label", ["original", "maxpool"])
    def test_files(self, sweep: Sweep, label: str, seed: int) -> None:
        directory = sweep.run_dir(label, seed)
        visible = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
        assert visible == {
            "config.json",
            "config.yaml",
            "state.json",
            "record.json",
            "predictions.npz",
            "metrics.csv",
            "run.log",
            "attempts",
            "checkpoints",
            "wandb",
        }
        assert [p.name for p in (directory / "checkpoints").iterdir()] == ["last.safetensors"]

    def test_no_draft_is_left(self, sweep: Sweep) -> None:
        hidden = {path.name for path in sweep.runs_dir.rglob(".*")}
        assert hidden <= {".lock"}

    def test_state_is_done_after_one_attempt(self, sweep: Sweep) -> None:
        state = files.read_json(sweep.run_dir("maxpool") / "state.json")
        assert set(state) == STATE_KEYS
        assert (state["state"], state["attempt"]) == ("done", 1)
        assert (state["epoch"], state["num_epochs"]) == (1, 1)

    def test_each_run_has_a_process_of_its_own(self, sweep: Sweep) -> None:
        states = [files.read_json(path) for path in sweep.runs_dir.glob("*/seed*/state.json")]
        assert len({state["pid"] for state in states}) == len(states) == 4

    def test_config_reads_back_as_the_same_variant(self, sweep: Sweep) -> None:
        directory = sweep.run_dir("maxpool")
        written = files.read_json(directory / "config.json")
        config = parse_config(written["config"])
        assert {site.operation for site in config.sites} == {"maxpool"}
        fingerprint = written["identity"]["canonical"]["data"]["fingerprint"]
        assert directory.parent.name.endswith(f"-{make_variant(config, fingerprint).hash}")

    def test_yaml_and_json_config_agree(self, sweep: Sweep) -> None:
        directory = sweep.run_dir("maxpool")
        plain = yaml.safe_load((directory / "config.yaml").read_text())
        assert plain == files.read_json(directory / "config.json")["config"]

    def test_metrics_have_a_row_per_epoch(self, sweep: Sweep) -> None:
        with (sweep.run_dir("maxpool") / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == METRICS_COLUMNS
        assert [row["epoch"] for row in rows] == ["1"]

    def test_log_has_what_the_process_printed(self, sweep: Sweep) -> None:
        assert "`Trainer.fit` stopped" in (sweep.run_dir("maxpool") / "run.log").read_text()
        assert "Trainer.fit" not in sweep.done.stdout + sweep.done.stderr


class TestRecord:
    @pytest.fixture(params=["original", "maxpool"])
    def record(self, sweep: Sweep, request: pytest.FixtureRequest) -> dict[str, Any]:
        return files.read_json(sweep.run_dir(request.param) / "record.json")

    def test_keys_are_frozen(self, record: dict[str, Any]) -> None:
        found = {k: set(v) if isinstance(v, dict) else None for k, v in record.items()}
        assert found == RECORD_KEYS

    def test_versions(self, record: dict[str, Any]) -> None:
        versions = record["environment"]["versions"]
        assert {"pfstudy", "torch", "lightning", "timm", "wandb"} <= set(versions)
        assert all(versions.values())

    def test_training_is_as_asked(self, record: dict[str, Any]) -> None:
        training = record["training"]
        assert (
            training.items()
            >= {
                "epochs": 1,
                "effective_batch_size": 64,
                "world_size": 1,
                "num_threads": 1,
                "accumulation": 1,
                "attempts": 1,
                "precision": "32-true",
            }.items()
        )
        assert training["seconds"] > 0
        assert record["environment"]["device"] == "cpu"

    def test_images_per_second_counts_the_images_that_were_trained(
        self, record: dict[str, Any]
    ) -> None:
        num_images = (1797 - 500 - 150) // 64 * 64
        training = record["training"]
        # training alone, and the whole fit with its validation
        assert 0 < num_images / training["images_per_second"] < training["seconds"]

    def test_variant_and_baseline(self, sweep: Sweep) -> None:
        baseline = files.read_json(sweep.run_dir("original") / "record.json")
        maxpool = files.read_json(sweep.run_dir("maxpool") / "record.json")
        assert baseline["variant"]["is_baseline"]
        assert not maxpool["variant"]["is_baseline"]
        assert maxpool["identity"]["baseline"] == baseline["identity"]["hash"]
        assert set(maxpool["variant"]["operations"].values()) == {"maxpool"}
        assert maxpool["cost"]["params"] < baseline["cost"]["params"]
        assert maxpool["cost"]["macs"] < baseline["cost"]["macs"]

    def test_variants_share_seeds_and_seeds_differ(self, sweep: Sweep) -> None:
        seeds = {
            (label, seed): files.read_json(sweep.run_dir(label, seed) / "record.json")["seeds"]
            for label in ("original", "maxpool")
            for seed in (0, 1)
        }
        assert seeds["original", 0] == seeds["maxpool", 0]
        assert len({*seeds["maxpool", 0].values(), *seeds["maxpool", 1].values()}) == 6

    @pytest.mark.parametrize("seed", [0, 1])
    @pytest.mark.parametrize("label", ["original", "maxpool"])
    def test_accuracy_is_that_of_the_predictions(self, sweep: Sweep, label: str, seed: int) -> None:
        directory = sweep.run_dir(label, seed)
        metrics = files.read_json(directory / "record.json")["metrics"]
        with np.load(directory / "predictions.npz") as predictions:
            logits, labels = predictions["logits"].astype(np.float64), predictions["labels"]
        assert logits.shape == (500, 10)
        rank = np.argsort(-logits, axis=1)
        assert metrics["test_top1_percent"] == pytest.approx(100 * np.mean(rank[:, 0] == labels))
        in_top5 = (rank[:, :5] == labels[:, None]).any(axis=1)
        assert metrics["test_top5_percent"] == pytest.approx(100 * np.mean(in_top5))
        log_sum = np.log(np.exp(logits).sum(axis=1))
        loss = np.mean(log_sum - logits[np.arange(500), labels])
        assert metrics["test_loss"] == pytest.approx(loss, rel=1e-5)

    def test_validation_figures_are_those_of_the_last_epoch(self, sweep: Sweep) -> None:
        directory = sweep.run_dir("maxpool")
        metrics = files.read_json(directory / "record.json")["metrics"]
        with (directory / "metrics.csv").open() as file:
            last = list(csv.DictReader(file))[-1]
        for key in ("val_top1_percent", "val_top5_percent", "val_loss"):
            assert metrics[key] == float(last[key])

    def test_labels_are_the_test_split_in_its_order(self, sweep: Sweep) -> None:
        from pfstudy.data.tensors import load_splits

        directory = sweep.run_dir("maxpool")
        config = parse_config(files.read_json(directory / "config.json")["config"])
        with np.load(directory / "predictions.npz") as predictions:
            expected = load_splits(config.data)["test"].labels_N.numpy()
            np.testing.assert_array_equal(predictions["labels"], expected)

    @pytest.mark.parametrize("label", ["original", "maxpool"])
    def test_checkpoint_reproduces_the_predictions(self, sweep: Sweep, label: str) -> None:
        import torch
        from safetensors.torch import load_file

        from pfstudy.data.tensors import load_splits
        from pfstudy.network.surgery import build_network
        from pfstudy.worker.run import read_run

        directory = sweep.run_dir(label)
        variant, _ = read_run(directory)
        network = build_network(variant.config, seed=1234)
        network.load_state_dict(load_file(directory / "checkpoints" / "last.safetensors"))
        with torch.inference_mode():
            images = load_splits(variant.config.data)["test"].images_NCHW
            logits = network.eval()(images)
        with np.load(directory / "predictions.npz") as predictions:
            np.testing.assert_allclose(logits, predictions["logits"], rtol=1e-4, atol=1e-4)


class TestSpeed:
    def test_each_variant_is_measured_beside_its_runs(self, sweep: Sweep) -> None:
        for label in ("original", "maxpool"):
            (path,) = (sweep.run_dir(label).parent / "speed").glob("*.json")
            assert set(files.read_json(path)) == SPEED_KEYS

    def test_baseline_is_as_fast_as_itself(self, sweep: Sweep) -> None:
        (measured,) = store.read_speeds(sweep.run_dir("original").parent)
        ratios = [measured[f"relative_latency{end}"] for end in ("", "_low", "_high")]
        assert ratios == [1, 1, 1]

    def test_figures_agree_with_each_other(self, sweep: Sweep) -> None:
        (measured,) = store.read_speeds(sweep.run_dir("maxpool").parent)
        assert measured["latency_p10_ms"] <= measured["latency_ms"] <= measured["latency_p90_ms"]
        low, high = measured["relative_latency_low"], measured["relative_latency_high"]
        assert low <= measured["relative_latency"] <= high
        per_second = measured["throughput_images_per_s"] * measured["latency_ms"] / 1e3
        assert per_second == pytest.approx(measured["batch_size"])
        assert (measured["num_processes"], measured["num_rounds"]) == (2, 3)

    def test_measured_on_this_host_beside_the_same_backbone(self, sweep: Sweep) -> None:
        both = [store.read_speeds(sweep.run_dir(v).parent)[0] for v in ("original", "maxpool")]
        assert both[0]["baseline_latency_ms"] == both[1]["baseline_latency_ms"]
        record = files.read_json(sweep.run_dir("maxpool") / "record.json")
        assert {measured["host"] for measured in both} == {record["environment"]["host"]}
        assert {measured["device"] for measured in both} == {record["environment"]["cpu_model"]}


class TestStudyAndTable:
    def test_members_are_the_runs_by_seed(self, sweep: Sweep) -> None:
        study = files.read_json(sweep.runs_dir / "studies" / f"{sweep.study}.json")
        expected = [
            str(sweep.run_dir(label, seed).relative_to(sweep.runs_dir))
            for seed in (0, 1)
            for label in ("original", "maxpool")
        ]
        looks = {"declared": [], "taken": [2]}
        named = {"schema_version": 1, "name": sweep.study}
        assert study == {**named, "members": expected, "looks": looks}

    def test_table_is_printed_with_each_variant(self, sweep: Sweep) -> None:
        lines = sweep.done.stdout.splitlines()
        (baseline,) = [line for line in lines if line.strip().startswith("original (conv)")]
        (maxpool,) = [line for line in lines if line.strip().startswith("maxpool")]
        assert " 1.00 " in baseline
        assert "+0.00" in baseline
        assert " +- " in maxpool
        assert "2 seeds" in sweep.done.stdout

    def test_table_is_written(self, sweep: Sweep) -> None:
        directory = sweep.runs_dir / "studies" / sweep.study
        assert {path.name for path in directory.iterdir()} == {
            "table.md",
            "table.csv",
            "table.tex",
        }
        for path in directory.iterdir():
            assert str(path.relative_to(sweep.directory)) in sweep.done.stdout
        assert r"\toprule" in (directory / "table.tex").read_text()
        assert "| maxpool (no norm) |" in (directory / "table.md").read_text()

    def test_csv_has_the_mean_over_seeds_and_the_difference(self, sweep: Sweep) -> None:
        with (sweep.runs_dir / "studies" / sweep.study / "table.csv").open() as file:
            baseline, maxpool = csv.DictReader(file)
        mean = {}
        for label in ("original", "maxpool"):
            records = [
                files.read_json(sweep.run_dir(label, seed) / "record.json") for seed in (0, 1)
            ]
            mean[label] = np.mean([r["metrics"]["test_top1_percent"] for r in records])
        assert float(baseline["test_top1_percent"]) == pytest.approx(mean["original"])
        assert float(maxpool["test_top1_percent"]) == pytest.approx(mean["maxpool"])
        difference = mean["maxpool"] - mean["original"]
        assert float(maxpool["difference_points"]) == pytest.approx(difference)


class TestTracking:
    @pytest.fixture
    def offline_run(self, sweep: Sweep) -> Path:
        (found,) = (sweep.run_dir("maxpool") / "wandb").glob("offline-run-*")
        return found

    @staticmethod
    def inspect(offline_run: Path, *options: str) -> str:
        wandb = str(Path(sys.executable).with_name("wandb"))
        command = [wandb, "leet", "inspect", *options, "--json", str(offline_run)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        return done.stdout

    def test_config_and_summary(self, sweep: Sweep, offline_run: Path) -> None:
        found = json.loads(self.inspect(offline_run, "--summary"))
        assert (found["state"], found["exit_code"]) == ("finished", 0)
        written = files.read_json(sweep.run_dir("maxpool") / "config.json")["config"]
        written = json.loads(json.dumps(written))
        record = files.read_json(sweep.run_dir("maxpool") / "record.json")
        identity = record["identity"]
        assert found["config"] == {
            **written,
            "seed": 0,
            "label": "maxpool",
            "operations": unflatten(record["variant"]["operations"]),
            "identity": {"hash": identity["hash"], "seed": 0, "canonical": identity["canonical"]},
        }
        (speed,) = store.read_speeds(sweep.run_dir("maxpool").parent)
        expected = {
            **record["metrics"],
            **{key: record["cost"][key] for key in ("params", "macs")},
            **{key: speed[key] for key in ("latency_ms", "relative_latency")},
        }
        assert found["summary"].items() >= expected.items()

    def test_group_is_the_study_and_history_has_each_epoch(
        self, sweep: Sweep, offline_run: Path
    ) -> None:
        entries = [json.loads(line) for line in self.inspect(offline_run).splitlines()]
        (run,) = [entry["run"] for entry in entries if entry["type"] == "run"]
        assert sweep.study in run.values()
        history = [entry["history"]["item"] for entry in entries if entry["type"] == "history"]
        assert [row["epoch"] for row in history] == [1]
        assert set(METRICS_COLUMNS) <= set(history[0])

    def test_run_id_is_from_identity_seed_and_attempt(
        self, sweep: Sweep, offline_run: Path
    ) -> None:
        identity = sweep.run_dir("maxpool").parent.name.rpartition("-")[2]
        assert re.fullmatch(rf"offline-run-\d+_\d+-{identity}-0-1-[0-9a-f]{{6}}", offline_run.name)


class TestAgain:
    def test_same_command_does_nothing_and_prints_the_table(
        self, sweep: Sweep, pfstudy: Any, quick_speed: Any
    ) -> None:
        before = tree(sweep.runs_dir)
        done = pfstudy(sweep.directory, "-m", *GRID, *quick_speed)
        assert done.returncode == 0, done.stderr
        assert "4 runs, 4 done before" in done.stderr
        assert "importing torch" not in done.stderr
        assert done.stdout == sweep.done.stdout
        changed = {path for path, time in tree(sweep.runs_dir).items() if before.get(path) != time}
        assert all("/studies/" in path for path in changed)

    @pytest.mark.parametrize(
        "spelling",
        [
            pytest.param(
                ["block.stage1.spatial=maxpool", "block.stage2.spatial=maxpool"], id="stages"
            ),
            pytest.param(["site=[stage1,stage2]", "swap=maxpool"], id="sites"),
            pytest.param(
                [f"block.stage{s}.block{b}.spatial=maxpool" for s in (1, 2) for b in (1, 2)],
                id="blocks",
            ),
            pytest.param(
                ["block.spatial=maxpool", "recipe.name=other", "swap=conv"], id="unused-and-names"
            ),
        ],
    )
    def test_another_spelling_is_the_same_run(
        self, sweep: Sweep, pfstudy: Any, quick_speed: Any, spelling: list[str]
    ) -> None:
        before = sorted(path.name for path in sweep.runs_dir.iterdir())
        done = pfstudy(sweep.directory, *spelling, "recipe.epochs=1", "seeds=2", *quick_speed)
        assert done.returncode == 0, done.stderr
        assert "1 variant, 2 runs, 2 done before" in done.stderr
        assert sorted(path.name for path in sweep.runs_dir.iterdir()) == before

    @pytest.mark.slow
    def test_extended_sweep_trains_what_is_new(
        self, sweep: Sweep, pfstudy: Any, quick_speed: Any
    ) -> None:
        before = tree(sweep.runs_dir)
        longer = ("block.spatial=conv,maxpool,identity", *GRID[1:])
        done = pfstudy(sweep.directory, "-m", *longer, *quick_speed, "logger=none")
        assert done.returncode == 0, done.stderr
        assert "3 variants, 6 runs, 4 done before" in done.stderr
        trained = re.findall(r"\[\d/\d\] (.+?):", done.stderr)
        assert sorted(trained) == ["identity seed0", "identity seed1"]
        after = tree(sweep.runs_dir)
        pooled = {sweep.run_dir("original").parent / "speed", sweep.runs_dir / "speed"}
        for path, time in before.items():  # the backbone was measured beside the new variant
            assert after[path] == time or Path(path).parent in pooled, path
        assert not (sweep.run_dir("identity") / "wandb").exists()
        rows = [line.split()[0] for line in done.stdout.splitlines() if "+-" in line]
        assert rows == ["original", "maxpool", "identity"]


class TestFailing:
    def test_exit_code_and_one_sentence(self, failing: Sweep) -> None:
        assert failing.done.returncode == 1
        last = failing.done.stderr.strip().splitlines()[-1]
        assert last.startswith("pfstudy: 1 of 2 runs failed: ")
        assert "Traceback" not in failing.done.stderr

    def test_a_failed_run_is_an_outcome_of_the_look(self, failing: Sweep) -> None:
        assert store.read_looks(failing.runs_dir, failing.study).taken == (1,)

    def test_sentence_says_which_of_two_runs_that_differ_in_a_setting(self, failing: Sweep) -> None:
        last = failing.done.stderr.strip().splitlines()[-1]
        assert "maxpool lr=1000000000.0 seed0 (the training loss became NaN" in last

    def test_state_says_why(self, failing: Sweep) -> None:
        states = {}
        for path in failing.runs_dir.glob("*/seed0/config.json"):
            lr = files.read_json(path)["config"]["recipe"]["lr"]
            states[lr] = files.read_json(path.with_name("state.json"))
        assert states[0.2]["state"] == "done"
        assert states[1e9]["state"] == "failed"
        assert "training loss became NaN" in states[1e9]["reason"]

    def test_failed_run_leaves_no_record(self, failing: Sweep) -> None:
        assert len(list(failing.runs_dir.glob("*/seed0/record.json"))) == 1

    def test_table_has_the_others(self, failing: Sweep) -> None:
        rows = [line for line in failing.done.stdout.splitlines() if "maxpool (no norm)  " in line]
        assert len(rows) == 1
        assert "add the unsubstituted backbone" in failing.done.stdout

    def test_without_speed_nothing_is_measured(self, failing: Sweep) -> None:
        assert not list(failing.runs_dir.glob("*/speed"))

    def test_same_seed_gives_the_same_predictions_elsewhere(
        self, sweep: Sweep, failing: Sweep
    ) -> None:
        name = sweep.run_dir("maxpool").relative_to(sweep.runs_dir)
        with (
            np.load(sweep.runs_dir / name / "predictions.npz") as first,
            np.load(failing.runs_dir / name / "predictions.npz") as second,
        ):
            np.testing.assert_array_equal(first["logits"], second["logits"])

    @pytest.mark.slow
    def test_every_run_fails_when_tried_again_in_new_attempts(
        self, failing: Sweep, pfstudy: Any
    ) -> None:
        grid = ("block.spatial=maxpool", "recipe.epochs=1", "recipe.lr=1e9,1e10")
        done = pfstudy(failing.directory, "-m", *grid, "speed=none", "logger=none")
        assert done.returncode == 1, done.stderr
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("pfstudy: 2 of 2 runs failed: ")
        assert last.count("maxpool lr=") == 2
        assert "top-1" not in done.stdout
        attempts = {}
        for path in failing.runs_dir.glob("*/seed0/config.json"):
            lr = files.read_json(path)["config"]["recipe"]["lr"]
            attempts[lr] = files.read_json(path.with_name("state.json"))["attempt"]
        assert attempts == {0.2: 1, 1e9: 2, 1e10: 1}


class TestListRuns:
    def test_all_variants_with_the_first_seed_come_first(
        self, make_config: Callable[..., Config]
    ) -> None:
        variants = [
            make_variant(make_config(f"block.spatial={name}", "seeds=2", "seed=3"), "data")
            for name in ("identity", "maxpool")
        ]
        assert [(run.variant.label, run.seed) for run in list_runs(variants)] == [
            ("identity", 3),
            ("maxpool", 3),
            ("identity", 4),
            ("maxpool", 4),
        ]

    def test_variants_that_coincide_are_one_run(self, make_config: Callable[..., Config]) -> None:
        spellings = ("block.spatial=conv", "block.spatial=original", "swap=maxpool")
        variants = [make_variant(make_config(one), "data") for one in spellings]
        assert len(list_runs(variants)) == 1

    def test_overlapping_seeds_are_listed_once(self, make_config: Callable[..., Config]) -> None:
        variants = [make_variant(make_config(f"seed={s}", "seeds=2"), "data") for s in (0, 1)]
        assert [run.seed for run in list_runs(variants)] == [0, 1, 2]


class TestNameRuns:
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            pytest.param([["seed=3"]], ["original seed3"], id="one"),
            pytest.param(
                [["block.spatial=maxpool"], ["block.spatial=identity"]],
                ["maxpool seed0", "identity seed0"],
                id="operations",
            ),
            pytest.param(
                [["recipe.lr=0.1"], ["recipe.lr=0.2"]],
                ["original lr=0.1 seed0", "original lr=0.2 seed0"],
                id="setting",
            ),
            pytest.param(
                [["data=synthetic", "model=resnet18"], ["data=synthetic", "model=resnet50"]],
                ["resnet18 original seed0", "resnet50 original seed0"],
                id="models",
            ),
        ],
    )
    def test_names_say_what_differs(
        self, make_config: Callable[..., Config], asked: list[list[str]], expected: list[str]
    ) -> None:
        runs = list_runs([make_variant(make_config(*one), "data") for one in asked])
        assert list(name_runs(runs).values()) == expected


class TestDefaultStudyName:
    def test_does_not_depend_on_the_order(self, make_config: Callable[..., Config]) -> None:
        variants = [
            make_variant(make_config(f"block.spatial={name}"), "data")
            for name in ("identity", "maxpool")
        ]
        name = default_study_name(variants)
        assert name == default_study_name(variants[::-1])
        assert name != default_study_name(variants[:1])
        assert name.startswith("resnet_digits-digits-")


class TestLooks:
    """The end of a sweep whose runs were all done before is a look like any other."""

    def configs(self, root: Path, *overrides: str) -> list[Config]:
        quick = (f"runs_dir={root}", "speed=none", "logger=none", "study.name=mine", *overrides)
        return [compose(*quick, f"block.spatial={name}") for name in ("original", "maxpool")]

    def finish(self, root: Path, num_seeds: int) -> None:
        for run in prepare_sweep(self.configs(root, f"seeds={num_seeds}")).runs:
            store.prepare(run)
            write_record(run.directory)

    def test_sweep_by_sweep(self, tmp_path: Path) -> None:
        for num_seeds in (2, 3, 3, 2):
            self.finish(tmp_path, num_seeds)
            looks = ["study.looks=[2,5]"] if num_seeds == 2 else []
            run_sweep(self.configs(tmp_path, f"seeds={num_seeds}", *looks))
        looks_now = store.read_looks(tmp_path, "mine")
        assert looks_now == store.Looks(declared=(2, 5), taken=(2, 3))
        assert looks_now.undeclared == (3,)

    def test_another_declaration_is_refused_before_anything_is_written(
        self, tmp_path: Path
    ) -> None:
        self.finish(tmp_path, 2)
        run_sweep(self.configs(tmp_path, "seeds=2", "study.looks=[2,5]"))
        before = tree(tmp_path)
        with pytest.raises(PfstudyError, match=r"study\.looks=\[2,4\] comes too late"):
            run_sweep(self.configs(tmp_path, "seeds=4", "study.looks=[2,4]"))
        assert tree(tmp_path) == before

    @pytest.mark.parametrize("kind", [{"train": False}, {"is_whole": False}], ids=["plan", "job"])
    def test_none_where_nothing_is_trained_or_only_a_part(
        self, tmp_path: Path, kind: dict[str, bool]
    ) -> None:
        self.finish(tmp_path, 2)
        run_sweep(self.configs(tmp_path, "seeds=2", "study.looks=[2,5]"), **kind)
        assert store.read_looks(tmp_path, "mine") == store.Looks(declared=(2, 5))

    def test_are_no_part_of_any_identity(self, tmp_path: Path) -> None:
        hashes = {
            make_variant(config, "data").hash
            for looks in ((), ("study.looks=[2,5]",))
            for config in self.configs(tmp_path, *looks)[1:]
        }
        assert len(hashes) == 1
