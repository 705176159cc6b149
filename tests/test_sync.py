from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from pfstudy import files, ledger, store
from pfstudy.schema.config import Logger
from pfstudy.sources import gather
from pfstudy.tracking import Tracker, failures, stop_service
from pfstudy.tracking.reading import IDENTITY_KEY, RECORD_KEY
from pfstudy.tracking.runs import LOST
from wandb_server import ENTITY, PROJECT, SWEEP, Server

PATH = f"{ENTITY}/{PROJECT}"
VARIANTS = ("original", "maxpool")
SHARED = (
    *("variant", "params", "macs", "latency_ms", "speed_setting"),
    *("test_top1_percent", "difference_points", "num_seeds"),
)
"""Columns that need no predictions, which W&B has not."""


class Ended(NamedTuple):
    """How a command ended."""

    code: Any
    out: str
    err: str


@pytest.fixture(scope="module")
def sweep(
    tmp_path_factory: pytest.TempPathFactory, pfstudy: Callable[..., Any], quick_speed: Any
) -> Path:
    """A real sweep without an account; returns its directory of runs."""
    directory = tmp_path_factory.mktemp("offline")
    settings = ("recipe.epochs=2", f"logger.project={PROJECT}", "study.name=mine", *quick_speed)
    done = pfstudy(directory, "-m", f"block.spatial={','.join(VARIANTS)}", *settings)
    assert done.returncode == 0, done.stderr
    return directory / "runs"


@pytest.fixture
def root(sweep: Path, tmp_path: Path) -> Path:
    """The sweep's directory of runs, to be changed."""
    return Path(shutil.copytree(sweep, tmp_path / "runs", symlinks=True))


@pytest.fixture
def run(call_here: Callable[..., Any]) -> Callable[..., Ended]:
    """Give a command, in this process."""
    return lambda *arguments: Ended(*call_here(*map(str, arguments)))


@pytest.fixture
def asked_by_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], None]]:
    """Set what an agent of a sweep sets for the command that it starts."""

    def ask(run_id: str) -> None:
        parameters = tmp_path / f"config-{run_id}.yaml"
        parameters.write_text("wandb_version: 1\nseed:\n  value: 0\n")
        monkeypatch.setenv("WANDB_SWEEP_ID", SWEEP)
        monkeypatch.setenv("WANDB_RUN_ID", run_id)
        monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(parameters))
        stop_service()

    yield ask
    monkeypatch.undo()
    stop_service()


def run_dir(root: Path, label: str) -> Path:
    (found,) = root.glob(f"*-{label}-*/seed0")
    return found


def lose(directory: Path) -> None:
    """Let a run look as if W&B had been lost from its beginning."""
    for path in (directory / "wandb").glob("offline-run-*"):
        shutil.rmtree(path)
    (directory / LOST).touch()


def markers(root: Path) -> list[str]:
    return sorted(path.name for path in root.rglob("*.sync*"))


def by_identity(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Records without where they lie."""
    return {
        record["identity"]["hash"]: {k: v for k, v in record.items() if k != "directory"}
        for record in records
    }


def test_what_was_logged_offline_is_uploaded_whole(
    server: Server, root: Path, run: Callable[..., Ended]
) -> None:
    assert run("sync", root, "--dry-run").out == (
        "to upload: 2 attempts logged offline, 0 runs whose tracking was lost\n"
    )
    assert server.runs == []
    ended = run("sync", root)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "uploading 1 to 2 of 2\nuploaded: 2 attempts\n"
    by_label = {server.config(node["name"])["label"]: node for node in server.runs}
    assert set(by_label) == set(VARIANTS)
    for label, node in by_label.items():
        directory, name = run_dir(root, label), node["name"]
        record = files.read_json(directory / ledger.RECORD)
        assert (node["group"], node["state"], server.exit_codes[name]) == ("mine", "finished", 0)
        config, summary = server.config(name), server.summary(name)
        whose = {key: record["identity"][key] for key in ("hash", "canonical")}
        assert config[IDENTITY_KEY] == {**whose, "seed": 0}
        assert config["recipe"]["epochs"] == 2
        assert config["operations"]["stage1"]["block1"] in (label, "conv")
        (measured,) = store.read_speeds(directory.parent)
        assert json.loads(summary[RECORD_KEY]) == {**record, "speed": [measured]}
        assert summary["latency_ms"] == measured["latency_ms"]
        assert summary["test_top1_percent"] == record["metrics"]["test_top1_percent"]
        assert [row["epoch"] for row in server.history[name]] == [1, 2]

    again = run("sync", root)
    assert again == (0, "nothing to upload: W&B knows all runs that are not running\n", "")
    assert not Path("wandb").exists()  # W&B leaves notes where it is called

    here, there = gather([root], "mine").records, gather([f"wandb:{PATH}"], "mine").records
    assert by_identity(there) == by_identity(here)
    tables = [run("table", source, "--json") for source in (root, f"wandb:{PATH}")]
    first, second = (json.loads(ended.out) for ended in tables)
    assert [[row[key] for key in SHARED] for row in first] == [
        [row[key] for key in SHARED] for row in second
    ]
    assert None not in [row[key] for row in second for key in SHARED]
    assert tables[1].err == f"reading wandb:{PATH}\n"


def test_a_dashboard_shows_what_was_uploaded(
    server: Server, root: Path, run: Callable[..., Ended]
) -> None:
    run("sync", root)
    ended = run("report", root, "--study=mine", "--wandb", PATH)
    assert ended.code == 0, ended.err
    assert ended.out.count(f"written: {server.url}/{PATH}") == 2
    report, workspace = (json.loads(view["spec"]) for view in server.views)
    (table,) = [b["content"] for b in report["blocks"] if b["type"] == "markdown-block"]
    assert "maxpool" in table
    panels = workspace["section"]["panelBankConfig"]["sections"][0]["panels"]
    shown = {a for p in panels for k, a in p["config"].items() if k in ("xAxis", "yAxis")}
    shown |= {c["accessor"] for p in panels for c in p["config"].get("columns", [])}
    assert "config:operations.value.stage2.block2" in shown
    for node in server.runs:
        config, summary = json.loads(node["config"]), server.summary(node["name"])
        for accessor in shown:
            kind, _, path = accessor.partition(":")
            found = config if kind == "config" else summary
            for key in path.split("."):
                found = found[key]
            assert isinstance(found, str if kind == "config" else float | int)


def test_run_directories_are_not_needed(root: Path, tmp_path: Path) -> None:
    """What W&B wrote offline is a source by itself."""
    for label in VARIANTS:
        shutil.copytree(run_dir(root, label) / "wandb", tmp_path / "moved" / label, symlinks=True)
    here, moved = gather([root]), gather([tmp_path / "moved"])
    assert moved.incomplete == ()
    assert by_identity(moved.records) == by_identity(here.records)
    assert len(here.records) == 2


def test_what_was_lost_is_logged_anew(
    server: Server, root: Path, run: Callable[..., Ended]
) -> None:
    directory = run_dir(root, "maxpool")
    lose(directory)
    said = run("sync", directory, "--dry-run", "--json").out
    assert json.loads(said) == {"offline": 0, "lost": 1}
    ended = run("sync", directory)
    assert ended.out.endswith("uploaded: 1 attempt, 1 run of them logged anew from its files\n")
    assert not (directory / LOST).exists()
    (node,) = server.runs
    record = files.read_json(directory / ledger.RECORD)
    summary, config = server.summary(node["name"]), server.config(node["name"])
    assert json.loads(summary[RECORD_KEY]) == {
        **record,
        "speed": store.read_speeds(directory.parent),
    }
    assert (node["group"], config["label"], "latency_ms" in summary) == ("mine", "maxpool", True)
    assert [row["epoch"] for row in server.history[node["name"]]] == [1, 2]
    assert node["displayName"] == "resnet_digits-digits-maxpool-seed0"


def test_what_is_lost_again_stays_lost(
    server: Server, root: Path, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = run_dir(root, "maxpool")
    lose(directory)
    monkeypatch.setenv("WANDB_SERVICE", "nonsense")
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    ended = run("sync", directory)
    assert (ended.code, server.runs) == (1, [])
    assert "tracking is lost (division by zero)" in ended.err
    assert (directory / LOST).exists()


def test_a_log_that_was_cut_off_is_uploaded_as_far_as_it_goes(
    server: Server, root: Path, run: Callable[..., Ended]
) -> None:
    """As killed attempts leave it; one was killed before anything was written."""
    (log,) = run_dir(root, "maxpool").glob("wandb/offline-run-*/run-*.wandb")
    log.write_bytes(log.read_bytes()[:-4000])
    (other,) = run_dir(root, "original").glob("wandb/offline-run-*/run-*.wandb")
    other.write_bytes(b"")
    server.refused = {"upsertBucket": 503}
    assert "(HTTP 503)" in run("sync", log.parents[2]).err
    server.refused = {}
    assert run("sync", root).out.endswith("uploaded: 1 attempt\n")
    (node,) = server.runs
    assert server.config(node["name"])["label"] == "maxpool"
    assert RECORD_KEY not in server.summary(node["name"])
    assert run("sync", root).out.startswith("nothing to upload")


@pytest.mark.parametrize(
    ("refused", "reason"),
    [
        pytest.param({"upsertBucket": 401}, "the server said no", id="key"),
        pytest.param({"upsertBucket": 503}, "W&B is out of order (HTTP 503)", id="down"),
        pytest.param({"file_stream": 403}, "Fatal error while uploading data", id="curves"),
    ],
)
def test_a_server_that_refuses_changes_nothing(
    server: Server, root: Path, run: Callable[..., Ended], refused: dict[str, int], reason: str
) -> None:
    server.refused = refused
    ended = run("sync", root)
    assert ended.code == 1
    assert "uploaded: 0 attempts" in ended.out
    assert ended.err.startswith("pfstudy: 2 not uploaded, such as ")
    assert reason in ended.err
    assert ended.err.count("\n") == 1
    assert markers(root) == []


def test_no_network_changes_nothing(
    server: Server, root: Path, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    stop_service()
    lose(run_dir(root, "maxpool"))
    ended = run("sync", root, "--json")
    assert ended.code == 1
    assert "2 not uploaded" in ended.err
    assert "W&B does not answer (tcp 127.0.0.1:9: connect: connection refused)" in ended.err
    assert json.loads(ended.out)["uploaded"] == []
    assert markers(root) == []

    # a part of it, and then the rest
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    stop_service()
    assert "uploaded: 1 attempt" in run("sync", run_dir(root, "original")).out
    assert "uploaded: 1 attempt" in run("sync", root).out
    assert len(server.runs) == 2


def test_an_agent_that_asks_for_what_is_done_gets_its_figures(
    server: Server,
    root: Path,
    run: Callable[..., Ended],
    asked_by_agent: Callable[[str], None],
    quick_speed: Any,
) -> None:
    asked_by_agent("agentsrun")
    settings = ("recipe.epochs=2", "study.name=mine", f"runs_dir={root}", *quick_speed)
    ended = run("block.spatial=maxpool", "seed=0", *settings)
    assert ended.code == 0, ended.err
    assert [node["name"] for node in server.runs] == ["agentsrun"]
    assert server.sweeps == {"agentsrun": SWEEP}
    record = files.read_json(run_dir(root, "maxpool") / ledger.RECORD)
    summary = server.summary("agentsrun")
    assert summary["test_top1_percent"] == record["metrics"]["test_top1_percent"]
    assert server.run("agentsrun")["state"] == "finished"


def test_an_agents_run_is_that_of_the_first_attempt(
    server: Server, tmp_path: Path, asked_by_agent: Callable[[str], None]
) -> None:
    asked_by_agent("agentsrun")
    for number in range(2):
        tracker = Tracker(Logger("wandb"), "online", tmp_path, print)
        tracker.start(f"own{number}", "maxpool-seed0", "mine", {"seed": 0, "recipe": {"lr": 0.1}})
        tracker.finish(number)
        stop_service()  # the next one is in another process
    assert server.exit_codes == {"agentsrun": 0, "own1": 1}
    assert server.sweeps == {"agentsrun": SWEEP}
    assert server.config("agentsrun")["recipe"] == {"lr": 0.1}


@pytest.mark.slow
def test_agents_drive_a_sweep(server: Server, tmp_path: Path, executable: str) -> None:
    """As `docs/sweep.yaml` has them, the second time for what is done."""
    settings = Path(__file__).parents[1] / "docs" / "sweep.yaml"
    binaries = Path(executable).parent
    environment = os.environ | {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("WANDB_SERVICE", None)

    def give(*arguments: str) -> None:
        command = [str(binaries / "wandb"), *arguments]
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)

    give("sweep", str(settings))
    content = yaml.safe_load(server.sweep_config)
    content["command"] += ["recipe.epochs=1", "speed=none"]
    server.sweep_config = yaml.safe_dump(content)
    asked = {"block.spatial": {"value": "maxpool"}, "seed": {"value": 0}}
    server.asked_runs = [{"run_id": name, "args": asked} for name in ("first", "second")]
    give("agent", f"{ENTITY}/pfstudy/{SWEEP}")
    assert server.exit_codes == {"first": 0, "second": 0}
    assert server.sweeps == {"first": SWEEP, "second": SWEEP}
    figures = [server.summary(name)["test_top1_percent"] for name in ("first", "second")]
    assert figures[0] == figures[1]
    (record,) = (tmp_path / "runs").glob("*/seed0/record.json")
    assert files.read_json(record)["metrics"]["test_top1_percent"] == figures[0]


def test_nobody_is_logged_in(
    root: Path, run: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    stop_service()
    ended = run("sync", root)
    sentence = "nothing is uploaded: nobody is logged in to W&B; run `wandb login`."
    assert (ended.code, ended.err) == (2, f"pfstudy: {sentence}\n")
    assert markers(root) == []


def test_a_run_that_goes_on_is_left_for_later(root: Path, run: Callable[..., Ended]) -> None:
    directory = run_dir(root, "maxpool")
    (directory / ledger.RECORD).unlink()
    claimed = ledger.claim(directory)
    assert claimed is not None
    said = run("sync", directory, "--dry-run", "--json").out
    assert json.loads(said) == {"offline": 0, "lost": 0}
    claimed.end("interrupted")
    said = run("sync", directory, "--dry-run", "--json").out
    assert json.loads(said) == {"offline": 1, "lost": 0}


def test_wandb_has_about_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_MAX", "99")
    for name in ("WANDB__FILE_STREAM_RETRY_MAX", "WANDB_SILENT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    failures.be_patient()
    assert os.environ["WANDB__FILE_STREAM_RETRY_MAX"] == "5"
    assert os.environ["WANDB__GRAPHQL_RETRY_MAX"] == "99"  # what the user has set stands


def test_what_searches_logged_offline_is_to_be_uploaded(run: Callable[..., Ended]) -> None:
    directory = Path("runs/searches/mine")
    log = directory / "wandb" / "offline-run-1-x" / "run-x.wandb"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"something")
    (directory / LOST).touch()
    for name in (store.CONFIG, ledger.RECORD):
        (directory / name).write_text("{}")
    assert json.loads(run("sync", "--dry-run", "--json").out) == {"offline": 1, "lost": 0}
