"""`pfstudy search` from the command line, without and with real processes."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfstudy import searches
from pfstudy.errors import PfstudyError
from pfstudy.launch import search as launched
from pfstudy.launch.search import Searched, choose_found, comparable_configs
from pfstudy.schema.config import Config
from pfstudy.searches import Asked, Times
from pfstudy.space import make_space

Make = Callable[..., Config]
Call = Callable[..., tuple[int | str | None, str, str]]
Pfstudy = Callable[..., subprocess.CompletedProcess[str]]

OPERATIONS = "search.operations=[conv,maxpool,identity]"
TIMES = Times(((0.2, 0.1, 0.05),) * 4, 0.2, {"device": "Some CPU", "host": "here"}, 0.05)


def asked_of(config: Config, times: Times | None = TIMES) -> Asked:
    space = make_space(config)
    return Asked(space, times, searches.identify(space, {}, times))


def preferring(name: str, asked: Asked, second: str = "maxpool") -> dict[str, Any]:
    """A record in which an operation is the most probable at every site."""
    worth = {name: np.log(0.7), second: np.log(0.2)}
    names = asked.space.operations
    of_site = {other: float(worth.get(other, np.log(0.1))) for other in names}
    return {"log_probabilities": dict.fromkeys(asked.space.sites, of_site)}


class TestChooseFound:
    def test_is_the_most_probable(self, make_config: Make) -> None:
        asked = asked_of(make_config("search=darts", OPERATIONS), None)
        assert choose_found(asked, preferring("identity", asked)) == (2, 2, 2, 2)

    def test_is_within_the_budget(self, make_config: Make) -> None:
        asked = asked_of(make_config("search=darts", OPERATIONS, "search.latency=0.81"))
        found = choose_found(asked, preferring("conv", asked))
        assert sorted(found) == [0, 0, 1, 1]
        assert TIMES.predict(found) == pytest.approx(0.8)

    def test_keeps_what_is_shared_together(self, make_config: Make) -> None:
        stage = ("search.latency=0.81", "search.sharing=stage")
        asked = asked_of(make_config("search=darts", OPERATIONS, *stage))
        found = choose_found(asked, preferring("conv", asked))
        assert found in ((0, 0, 1, 1), (1, 1, 0, 0))

    def test_of_evaluations_the_fastest_of_the_best(self, make_config: Make) -> None:
        asked = asked_of(make_config("search=evolution", OPERATIONS))
        sites = asked.space.sites

        def evaluated(name: str, accuracy: float) -> dict[str, Any]:
            return {"operations": dict.fromkeys(sites, name), "val_top1_percent": accuracy}

        some = [evaluated("conv", 98.0), evaluated("maxpool", 98.0), evaluated("identity", 97.0)]
        assert choose_found(asked, {"evaluations": some}) == (1, 1, 1, 1)


class TestComparable:
    def test_random_networks_are_as_fast(self, make_config: Make, tmp_path: Path) -> None:
        asked = asked_of(make_config("search=darts", OPERATIONS))
        searched = Searched("mine", asked, {}, (0, 0, 1, 1), tmp_path)
        baseline, found, *others = comparable_configs(searched, 4)
        assert {site.operation for site in baseline.sites} == {"original"}
        assert [site.operation for site in found.sites] == ["conv", "conv", "maxpool", "maxpool"]
        assert len(others) == 4
        for config in others:
            choice = tuple(asked.space.operations.index(site.operation) for site in config.sites)
            assert TIMES.predict(choice) == pytest.approx(0.8, rel=0.1)
            assert choice != searched.choice
        assert {config.study.name for config in (baseline, found, *others)} == {"search-mine"}

    def test_a_space_that_has_no_more_gives_what_there_is(
        self, make_config: Make, tmp_path: Path
    ) -> None:
        only = ("search.operations=[conv,maxpool]", "search.sharing=unified")
        fixed = [f"block.stage{s}.block{b}.spatial=shift" for s, b in ((1, 1), (1, 2), (2, 1))]
        asked = asked_of(make_config("search=darts", *only, *fixed), None)
        searched = Searched("mine", asked, {}, (1,), tmp_path)
        assert len(comparable_configs(searched, 4)) == 3


class TestBudget:
    def test_out_of_reach_says_what_is_reachable(self, make_config: Make) -> None:
        space = make_space(make_config("search=darts", OPERATIONS, "search.latency=0.3"))
        with pytest.raises(PfstudyError, match=r"latency=0.3 cannot be reached: .* takes 0.400 of"):
            launched._check_budget(space, TIMES)

    def test_what_is_shared_reaches_less(self, make_config: Make) -> None:
        uneven = Times(((0.2, 0.1), (0.1, 0.2)) * 2, 0.2, TIMES.setting)
        two = ("search.operations=[conv,maxpool]", "search.latency=0.7")
        launched._check_budget(make_space(make_config("search=darts", *two)), uneven)
        shared = make_space(make_config("search=darts", *two, "search.sharing=unified"))
        with pytest.raises(PfstudyError, match=r"takes 0.800 of"):
            launched._check_budget(shared, uneven)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["search=dart"], "search 'dart' does not exist.*Did you mean 'darts'"),
        (["search.operations=[conv]"], "search.operations: .*at least 2"),
        (["search=evolution", "search.sampler=evolve"], "search.sampler 'evolve' does not exist"),
        (["search.warmup_epochs=40"], "would never be trained"),
        (["trainer.devices=2"], "a search takes one device"),
        (["trainer.precision=16-mixed"], "use trainer.precision=bf16-mixed"),
        (["search.name=seed0"], "cannot be that of a run directory"),
        (["search.name=../up"], "search.name: "),
        (["--random", "-1"], "--random must be 0 or more"),
        (["study=one_block"], "a preset of study= is a sweep of its own"),
        (
            ["-m", "search=darts,evolution", "search.name=mine"],
            "search.name is the same for several searches",
        ),
        (
            ["recipe.augmentation.mixup=0.2", "recipe.clip_norm=1"],
            r"a search does without recipe\.clip_norm and recipe\.augmentation\.mixup;",
        ),
        (["search.order=2", "recipe.optimizer=adamw"], "looks a step of SGD ahead"),
        (["search.epoch=3"], "search: the key 'epoch' does not exist.*Did you mean 'epochs'"),
    ],
)
def test_bad_input_is_one_sentence(arguments: list[str], sentence: str, call_here: Call) -> None:
    code, out, err = call_here("search", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("pfstudy: ")
    assert err.count("\n") == 1
    assert re.search(sentence, err)
    assert not list(Path().iterdir())


def test_a_name_that_is_taken_is_refused_before_anything_runs(call_here: Call) -> None:
    found = Path("runs/found/mine.yaml")
    found.parent.mkdir(parents=True)
    found.write_text("block: {spatial: maxpool}")
    code, _, err = call_here("search", "search.name=mine")
    assert code == 2
    assert "runs/found/mine.yaml is there already, and stays as it is" in err
    assert found.read_text() == "block: {spatial: maxpool}"
    assert not Path("runs/searches").exists()


def test_training_refuses_a_search(call_here: Call) -> None:
    code, _, err = call_here("search=darts", "block.spatial=maxpool")
    assert code == 2
    assert "search= is for pfstudy search" in err


def test_a_report_needs_searches(call_here: Call, record: Any) -> None:
    from records import leave_records

    leave_records("runs", record())
    code, _, err = call_here("search", "report")
    assert code == 2
    assert "there are no searches in runs; run pfstudy search first" in err


QUICK = ("model.args.channels=[4,4]", "logger=none", OPERATIONS, "recipe.epochs=1", "speed=none")


@pytest.mark.slow
class TestCommand:
    """Real processes, killed and gone on with."""

    @pytest.fixture(scope="class")
    def done(self, tmp_path_factory: pytest.TempPathFactory, pfstudy: Pfstudy) -> Path:
        directory = tmp_path_factory.mktemp("search")
        sizes = ("search.epochs=12", "search.warmup_epochs=2", "search.name=mine")
        found = pfstudy(directory, "search", *QUICK, *sizes, "--train", "--random", "6")
        assert found.returncode == 0, found.stderr
        (directory / "printed").write_text(found.stdout)
        return directory

    def test_what_is_found_can_be_trained(self, done: Path, pfstudy: Pfstudy) -> None:
        printed = (done / "printed").read_text()
        assert "train it: pfstudy +found=mine" in printed
        again = pfstudy(done, "+found=mine", *QUICK[:2], *QUICK[3:])
        assert again.returncode == 0, again.stderr
        assert "1 done before" in again.stderr

    def test_the_report_compares(self, done: Path, pfstudy: Pfstudy) -> None:
        one_shot = ("search=evolution", "search.epochs=2", "search.num_evaluations=8")
        found = pfstudy(done, "search", *QUICK, *one_shot, "search.name=other", "--json")
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)[0]["command"] == "pfstudy +found=other"
        report = pfstudy(done, "search", "report", "--json")
        assert report.returncode == 0, report.stderr
        said = json.loads(report.stdout)
        assert {"full training", "mine", "other", "MACs"} <= set(said["scores"])
        assert len(said["networks"]) == 8
        assert (done / "runs" / "searches" / "shares.svg").exists()

    def test_killed_and_gone_on_with(
        self, tmp_path: Path, executable: str, environment: Mapping[str, str], pfstudy: Pfstudy
    ) -> None:
        sizes = ("search.epochs=30", "search.warmup_epochs=2", "search.patience=null")
        command = [executable, "search", *QUICK, *sizes, "search.name=mine"]
        frequent = "trainer.checkpoint_minutes=0.001"
        process = subprocess.Popen(
            [*command, frequent], cwd=tmp_path, env=environment, start_new_session=True
        )
        directory = tmp_path / "runs" / "searches" / "mine"
        deadline = time.monotonic() + 200
        while not (directory / "checkpoints" / "resume.ckpt").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert not (directory / "record.json").exists()
        again = pfstudy(tmp_path, *command[1:], frequent)
        assert again.returncode == 0, again.stderr
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        whole = pfstudy(elsewhere, *command[1:])
        assert whole.returncode == 0, whole.stderr
        records = [
            json.loads((root / "runs/searches/mine/record.json").read_text())
            for root in (tmp_path, elsewhere)
        ]
        assert records[0]["log_probabilities"] == records[1]["log_probabilities"]
