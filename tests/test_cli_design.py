"""``pfstudy design`` in this process, over runs whose truth is planted."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import pfstudy
from configs import variant_of
from pfstudy import files, ledger, store
from pfstudy.launch import design as launched
from pfstudy.launch.sweep import SweepResult
from pfstudy.schema.config import Config
from pfstudy.speed.blocktable import BlockTable, save_table
from pfstudy.variant import make_variant
from studies import (
    COMBINED,
    SINGLES,
    SITES,
    accuracy_of,
    best_within,
    label,
    leave_run,
    leave_study,
    leave_table,
    make_block_table,
    overrides_of,
    record_of,
    time_of,
)

Answer = tuple[int | str | None, str, str]
Call = Callable[..., Answer]


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "runs"
    leave_study(root)
    return root


@pytest.fixture
def runs(call_here: Call, _made: Path) -> Path:
    """``runs`` in the working directory: a study, and no block table yet."""
    del call_here  # is in the directory
    shutil.copytree(_made, "runs")
    return Path("runs")


@pytest.fixture
def timed(runs: Path) -> Path:
    """The same with a block table."""
    leave_table(runs)
    return runs


def refused(answer: Answer) -> str:
    code, out, err = answer
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    return sentence.removeprefix("pfstudy: ")


def network_of(config: Config) -> tuple[str, ...]:
    return tuple(make_variant(config, "content").operations.values())


class TestDesign:
    def test_says_what_was_chosen_and_how_to_train_it(self, call_here: Call, timed: Path) -> None:
        code, out, err = call_here("design", "--latency", "0.8")
        assert (code, err) == (0, "")
        best = best_within(0.8)[0]
        assert f"chosen for 0.8: {label(best)}" in " ".join(out.split())
        assert f"{time_of(best):.3f}" in out
        name = re.search(r"pfstudy \+found=(design-resnet_digits-0\.8-\w{8})\n", out)
        assert name is not None
        assert (timed / "found" / f"{name[1]}.svg").read_text().startswith("<svg")
        assert network_of(pfstudy.compose([f"+found={name[1]}"])) == best
        heading = (timed / "found" / f"{name[1]}.yaml").read_text()
        assert "# Chosen by pfstudy design for 0.8 of the time of resnet_digits," in heading
        assert "Some CPU" in heading
        assert call_here("design", "--latency", "0.8") == (code, out, err)

    @pytest.mark.usefixtures("timed")
    def test_the_curve_alone(self, call_here: Call) -> None:
        code, out, err = call_here("design")
        assert (code, err) == (0, "")
        assert "chosen" not in out
        assert "train it" not in out
        assert [path.name for path in Path("runs/found").iterdir()] == [
            "design-resnet_digits-curve.svg"
        ]

    @pytest.mark.usefixtures("timed")
    def test_an_object_for_programs(self, call_here: Call) -> None:
        code, out, err = call_here(
            "design", "--study", "blocks", "--latency", "0.8", "--name", "mine", "--json"
        )
        assert (code, err) == (0, "")
        data = json.loads(out)
        assert tuple(data["chosen"]["operations"].values()) == best_within(0.8)[0]
        assert data["found"] == {
            "name": "mine",
            "command": "pfstudy +found=mine",
            "files": ["runs/found/mine.yaml", "runs/found/mine.svg"],
        }
        assert data["held_out"]["kendall_tau"] == pytest.approx(1)

    def test_runs_elsewhere(self, call_here: Call, timed: Path) -> None:
        timed.rename("others")
        code, out, _ = call_here("design", "others", "--latency", "0.8", "--name", "mine")
        assert code == 0
        assert "pfstudy +found=mine runs_dir=others\n" in out
        assert (
            network_of(pfstudy.compose(["+found=mine", "runs_dir=others"])) == best_within(0.8)[0]
        )

    def test_another_networks_name_is_not_taken(self, call_here: Call, timed: Path) -> None:
        assert call_here("design", "--latency", "0.8", "--name", "mine")[0] == 0
        before = (timed / "found" / "mine.yaml").read_text()
        said = refused(call_here("design", "--latency", "0.7", "--name", "mine"))
        assert "give this one another name" in said
        assert (timed / "found" / "mine.yaml").read_text() == before

    @pytest.mark.usefixtures("timed")
    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["--latency", "0.5"], "0.5 cannot be reached: the fastest network of these operations "
             "takes 0.680 of the unsubstituted backbone's time on Some CPU."),
            (["--latency", "0"], "such as 0.8, but got 0"),
            (["--train", "1"], "--train needs a budget"),
            (["--latency", "0.8", "--seeds", "2"], "--seeds says with how many seeds to train"),
            (["--latency", "0.8", "--name", "a b"], "cannot be that of an architecture"),
            (["--latency", "0.8", "--study", "none"], "study 'none' does not exist"),
            (["wandb:me/mine"], "is no directory of runs"),
            (["nowhere"], "there is no directory nowhere"),
            (["recipe.epochs=3"], "cannot be set here, as the rest is that of the runs"),
            (["speed.batch_size=none"], "speed.batch_size"),
            (["--search", "x", "--study", "y"], "--search takes one directory"),
            (["--search", "x"], "search 'x' does not exist; choose from: none"),
            (["--table", "nothing.json"], "nothing.json cannot be read"),
        ],
    )  # fmt: skip
    def test_mistakes(self, call_here: Call, arguments: Sequence[str], sentence: str) -> None:
        assert sentence in refused(call_here("design", *arguments))
        assert not Path("runs/found").exists()


class TestBlockTable:
    def test_without_one_the_command_that_measures_it_is_given(
        self, call_here: Call, runs: Path
    ) -> None:
        said = refused(call_here("design"))
        assert said == (
            "there is no block table of resnet_digits on this host in the setting of the runs, 1 "
            "thread, batch 1, contiguous, float32, eager; measure it: pfstudy speed table -m "
            "model=resnet_digits data=digits block.spatial=dwconv,maxpool."
        )
        runs.rename("others")
        assert refused(call_here("design", "others")).endswith("dwconv,maxpool runs_dir=others.")

    def test_the_command_measures_what_was_trained(self, call_here: Call) -> None:
        site = "block.stage1.block1"
        common = ("model.args.layers=[2,2]", "data=synthetic", "data.num_classes=7")
        leave_run(Path("runs"), *common, val=90)
        keeping = (f"{site}.spatial=maxpool", f"{site}.norm_act=keep", f"{site}.kernel_size=5")
        leave_run(Path("runs"), *common, *keeping, val=91)
        leave_run(Path("runs"), *common, f"{site}.spatial=avgpool", val=91)
        said = refused(call_here("design", "speed.batch_size=8", "speed.layout=channels_last"))
        command = said.rpartition("measure it: ")[2].removesuffix(".")
        assert set(command.split()[4:]) == {
            *("model=resnet_digits", "data=synthetic", "data.num_classes=7", "speed.batch_size=8"),
            *("block.spatial=maxpool,avgpool", "block.norm_act=auto,keep"),
            *("block.kernel_size=null,5", "speed.layout=channels_last"),
        }

    def test_of_other_settings_is_named(self, call_here: Call, runs: Path) -> None:
        path = leave_table(runs, make_block_table(batch_size=8, host="there"))
        said = refused(call_here("design"))
        assert f"{path} is of Some CPU, host there and not" in said
        assert "batch_size 8 and not 1: take it with --table FILE" in said
        code, out, _ = call_here("design", "--table", str(path), "--latency", "0.8", "--json")
        assert code == 0
        table = json.loads(out)["table"]
        assert (table["is_here"], table["setting"]["host"]) == (False, "there")
        code, out, _ = call_here("design", "--table", str(path), "--latency", "0.8")
        assert "batch 8" in out
        assert "(host there, which is another machine than this one)" in " ".join(out.split())
        said = refused(
            call_here("design", "--table", str(path), "--latency", "0.8", "--train", "1")
        )
        assert "--train compares with what is measured here, but the block table is of" in said

    def test_settings_choose_between_tables(self, call_here: Call, timed: Path) -> None:
        batched = variant_of("speed.batch_size=8")
        table = make_block_table(batched, error=0.05)
        leave_table(timed, table)
        code, out, _ = call_here("design", "speed.batch_size=8", "--json")
        assert code == 0
        assert json.loads(out)["table"]["setting"]["batch_size"] == 8

    @pytest.mark.usefixtures("timed")
    def test_of_another_backbone_is_refused(self, call_here: Call) -> None:
        path = Path("other.json")
        table = make_block_table()
        save_table(path, replace(table, model="vit_digits", backbone="0123456789"))
        said = refused(call_here("design", "--table", str(path)))
        assert said.startswith("other.json is of vit_digits (0123456789), but the runs are of ")

    def test_that_lacks_an_operation_is_refused(self, call_here: Call, runs: Path) -> None:
        table = make_block_table()
        cells = {
            site: {key: value for key, value in row.items() if key != "dwconv" or site == SITES[0]}
            for site, row in table.cells.items()
        }
        leave_table(runs, replace(table, cells=cells))
        said = refused(call_here("design"))
        assert "lacks dwconv at stage1.block2, stage2.block1-2; measure it there: pfstudy" in said
        assert said.endswith("data=digits block.spatial=dwconv.")


class TestTraining:
    @pytest.fixture
    def swept(self, monkeypatch: pytest.MonkeyPatch) -> list[Config]:
        """What is trained, which is pretended: networks have what they truly have."""
        asked: list[Config] = []

        def run_sweep(configs: Sequence[Config]) -> SweepResult:
            asked.extend(configs)
            root, table = Path(configs[0].runs_dir), make_block_table()
            members = []
            for config in configs:
                for seed in range(config.seeds or 1):
                    members.append(_leave(root, config, seed, table))
            study = {"schema_version": 1, "name": "mine", "members": members}
            files.write_json(root / store.STUDIES / "mine.json", study)
            return SweepResult(root, "mine", tuple(members))

        monkeypatch.setattr(launched, "run_sweep", run_sweep)
        return asked

    @pytest.mark.usefixtures("timed")
    def test_the_best_are_trained_and_compared(self, call_here: Call, swept: list[Config]) -> None:
        command = ("design", "--latency", "0.8", "--train", "2", "--seeds", "2", "--name", "mine")
        code, out, err = call_here(*command, "speed.max_load=2")
        assert (code, err) == (0, "")
        assert [network_of(config) for config in swept] == [
            ("original",) * 4,
            *best_within(0.8)[:2],
        ]
        assert {(c.seeds, c.study.name, c.runs_dir) for c in swept} == {(2, "design-mine", "runs")}
        assert all(c.speed.enabled and c.speed.max_load == 2 for c in swept)
        text = " ".join(out.split())
        assert "resnet_digits: predicted and measured" in text
        assert "2 of 2 measured times and 3 of 3 validation accuracies" in text
        assert "written: runs/studies/mine/table.md" in out

    @pytest.mark.usefixtures("timed", "swept")
    def test_as_an_object(self, call_here: Call) -> None:
        command = ("design", "--latency", "0.8", "--train", "1", "--name", "mine", "--json")
        code, out, err = call_here(*command)
        assert (code, err) == (0, "")
        first, baseline = json.loads(out)["trained"]
        assert tuple(first["operations"].values()) == best_within(0.8)[0]
        assert first["val_top1_percent"] == pytest.approx(accuracy_of(best_within(0.8)[0]))
        assert first["predicted_val_top1_percent"] == pytest.approx(first["val_top1_percent"])
        assert first["relative_latency"] == pytest.approx(time_of(best_within(0.8)[0]))
        assert (first["latency_holds"], first["num_seeds"]) == (True, 1)
        assert baseline["label"] == "original"


def _leave(root: Path, config: Config, seed: int, table: BlockTable) -> str:
    variant = make_variant(config, "content")
    network = tuple(variant.operations.values())
    run = store.make_run(variant, seed)
    store.prepare(run)
    record = record_of(variant, accuracy_of(network), 95.0, seed)
    files.write_json(run.directory / ledger.RECORD, record)
    measured = {
        "relative_latency": time_of(network),
        "latency_ms": 2 * time_of(network),
        "baseline_latency_ms": 2.0,
        "others_load": 0.0,
        "max_load": 1.0,
    }
    files.write_json(run.directory.parent / "speed" / "0.json", {**table.setting, **measured})
    return str(run.directory.relative_to(root))


@pytest.mark.slow
def test_a_design_from_beginning_to_end(
    tmp_path: Path, pfstudy: Any, quick_speed: tuple[str, ...]
) -> None:
    """Real runs, a real block table, a real network that is trained; the data are digits."""
    runs = ("recipe.epochs=1", "logger=none", "study.name=blocks")
    design = ("study.design=[one_at_a_time,random]", "study.num_samples=5")
    sites = ("site=glob(stage?.block*)", "swap=maxpool,identity")
    swept = pfstudy(tmp_path, "-m", *sites, *design, *runs, "speed=none")
    assert swept.returncode == 0, swept.stderr
    spatial = "block.spatial=maxpool,identity"
    timed = pfstudy(
        tmp_path, "speed", "table", "-m", spatial, "speed.max_load=99", "--seconds", "8"
    )
    assert timed.returncode == 0, timed.stderr
    curve = json.loads(pfstudy(tmp_path, "design", "--study", "blocks", "--json").stdout)["curve"]
    latency = f"{curve[len(curve) // 2]['relative_latency'] + 0.001:.3f}"
    command = ("design", "--study", "blocks", "--latency", latency, "--train", "1")
    done = pfstudy(tmp_path, *command, "--name", "mine", "--json", *quick_speed)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    network, baseline = data["trained"]
    assert network["operations"] == data["chosen"]["operations"]
    assert network["val_top1_percent"] is not None
    assert network["relative_latency"] > 0
    assert baseline["label"] == "original"
    written = yaml.safe_load((tmp_path / "runs/found/mine.yaml").read_text())
    assert written["defaults"] == [{"override /model": "resnet_digits"}]
    again = pfstudy(tmp_path, "+found=mine", *runs[:2], "speed=none")
    assert again.returncode == 0, again.stderr
    assert "1 run, 1 done before" in again.stderr


def test_what_is_planted_is_what_the_tests_say() -> None:
    assert len({*SINGLES, *COMBINED}) == 13
    assert overrides_of(COMBINED[0])[0] == "block.stage1.block1.spatial=maxpool"
