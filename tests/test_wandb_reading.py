from __future__ import annotations

import json
from typing import Any

import pytest

from pfstudy.cli import main
from pfstudy.errors import PfstudyError
from pfstudy.sources import gather
from pfstudy.tracking import reading, stop_service
from pfstudy.tracking.reading import IDENTITY_KEY, RECORD_KEY, read_project
from records import make_record
from wandb_server import ENTITY, PROJECT, Server, run_node

PATH = f"{ENTITY}/{PROJECT}"


def record_of(seed: int) -> dict[str, Any]:
    return make_record(family="0123456789", seed=seed)


def node(seed: int, record: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    summary = {RECORD_KEY: json.dumps(record or record_of(seed))}
    return run_node(f"x{seed}", summary, name=f"run{seed}", config=config_of(seed), **changes)


def config_of(seed: int) -> dict[str, Any]:
    return {IDENTITY_KEY: {"hash": "0123456789", "seed": seed}, "recipe": {"lr": 0.1}}


def fails(capsys: pytest.CaptureFixture[str], source: str) -> str:
    """What the command says of a source that it cannot read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["pfstudy", "table", source])
        with pytest.raises(SystemExit) as exited:
            main()
    assert exited.value.code == 2
    said = capsys.readouterr().err.removeprefix(f"reading {source}\n")
    left_out, last = said[: said.rfind("pfstudy: ")], said[said.rfind("pfstudy: ") :]
    assert all(line.startswith("left out: ") for line in left_out.splitlines()), said
    assert last.count("\n") == 1, said
    return said


class TestRuns:
    def test_all_pages_are_read(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(reading, "_PAGE", 2)
        server.runs = [node(seed) for seed in range(5)]
        found = read_project(PATH)
        assert [run.record for run in found] == [record_of(seed) for seed in range(5)]
        assert [run.key for run in found] == [("0123456789", seed) for seed in range(5)]
        assert [run.name for run in found] == [f"run{seed}" for seed in range(5)]
        assert [asked["perPage"] for asked in server.asked] == [2, 2, 2]  # and none for each run

    def test_a_study_is_filtered_by_the_server(self, server: Server) -> None:
        server.runs = [node(0), node(1, group="another")]
        assert [run.name for run in read_project(PATH, "mine")] == ["run0"]
        assert json.loads(server.asked[0]["filters"]) == {"group": "mine"}

    def test_trials_of_tuning_are_in_their_study_alone(self, server: Server) -> None:
        server.runs = [node(0), node(1, group="mine-tuning", job_type="tune")]
        assert [run.name for run in read_project(PATH)] == ["run0"]
        assert [run.name for run in read_project(PATH, "mine-tuning")] == ["run1"]

    def test_runs_without_a_record_are_told_from_foreign_ones(self, server: Server) -> None:
        server.runs = [
            node(0),
            run_node("a", {}, name="run1", state="crashed", config=config_of(1)),
            run_node("b", {}, name="run2", state="finished", config=config_of(2)),
            run_node("c", {"loss": 1}, config={"identity": "of somebody else's"}),
        ]
        found = gather([f"wandb:{PATH}"])
        assert [record["seed"] for record in found.records] == [0]
        assert [(run.name, run.state, run.key[1]) for run in found.incomplete] == [
            ("run1", "crashed", 1),
            ("run2", "without a record", 2),
        ]
        assert found.num_foreign == 1


class TestPatience:
    def test_a_server_that_asks_for_it_gets_it(
        self, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "_SILENCE_S", 0.2)
        server.runs, server.refusals = [node(0)], [429]
        said: list[str] = []
        assert [run.name for run in read_project(PATH, say=said.append)] == ["run0"]
        assert server.refusals == []
        assert said == ["W&B does not answer yet; it has about a minute"]

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            (429, "W&B takes no more requests for now (rate limit); try again in some minutes."),
            (502, "W&B is out of order (HTTP 502); try again later."),
        ],
    )
    def test_it_has_an_end(
        self, server: Server, capsys: pytest.CaptureFixture[str], status: int, expected: str
    ) -> None:
        server.refusals = [status] * 9
        said = fails(capsys, f"wandb:{PATH}")
        assert said == f"pfstudy: wandb:{PATH} cannot be read: {expected}\n"
        assert len(server.refusals) == 7

    def test_a_figure_in_a_name_is_no_status(self, server: Server) -> None:
        with pytest.raises(PfstudyError, match="there is no such project") as raised:
            read_project("team500/429")
        assert "rate limit" not in str(raised.value)


class TestFailures:
    @pytest.mark.parametrize("project", ["me/none", "nobody/study"])
    def test_a_project_that_does_not_exist(
        self, server: Server, capsys: pytest.CaptureFixture[str], project: str
    ) -> None:
        said = fails(capsys, f"wandb:{project}")
        assert f"wandb:{project} cannot be read: there is no such project, or you may not" in said
        assert "give ENTITY/PROJECT as in its address." in said

    @pytest.mark.parametrize("project", ["", "/", "me/", "/study", "a/b/c"])
    def test_what_is_no_project(
        self, server: Server, capsys: pytest.CaptureFixture[str], project: str
    ) -> None:
        assert "a project of W&B is wandb:ENTITY/PROJECT, but got" in fails(
            capsys, f"wandb:{project}"
        )

    @pytest.mark.parametrize("status", [401, 403, 404])
    def test_a_server_that_refuses(
        self, server: Server, capsys: pytest.CaptureFixture[str], status: int
    ) -> None:
        server.refused = {"runs(filters": status}
        expected = {
            401: "W&B does not know the key (the server said no); run `wandb login --relogin`.",
            403: "there is no such project, or you may not enter it (the server said no)",
        }
        assert expected[min(status, 403)] in fails(capsys, f"wandb:{PATH}")

    def test_a_key_that_the_server_does_not_know(
        self, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.refused = {"viewer": 401}
        assert "W&B does not know the key" in fails(capsys, f"wandb:{PATH}")

    def test_nobody_is_logged_in(
        self,
        server: Server,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.delenv("WANDB_API_KEY")
        stop_service()
        expected = "cannot be read: nobody is logged in to W&B; run `wandb login`."
        assert fails(capsys, f"wandb:{PATH}") == f"pfstudy: wandb:{PATH} {expected}\n"
        stop_service()

    def test_a_malformed_key(
        self,
        server: Server,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("WANDB_API_KEY", "abc")
        stop_service()
        assert "the W&B key is malformed" in fails(capsys, f"wandb:{PATH}")
        stop_service()

    def test_no_network(
        self,
        server: Server,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
        stop_service()
        assert fails(capsys, f"wandb:{PATH}") == (
            f"pfstudy: wandb:{PATH} cannot be read: W&B does not answer (tcp 127.0.0.1:9: connect: "
            "connection refused); look whether there is a network.\n"
        )
        stop_service()

    def test_a_record_of_another_schema(
        self, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        server.runs = [node(0, {**record_of(0), "schema_version": 99})]
        said = fails(capsys, f"wandb:{PATH}")
        assert f"the run run0 of {PATH} has schema version 99, but this pfstudy reads 1." in said

    def test_a_damaged_record(self, server: Server, capsys: pytest.CaptureFixture[str]) -> None:
        server.runs = [run_node("x", {RECORD_KEY: '{"schema_ver'}, name="run0")]
        assert "the record of the W&B run run0 is damaged." in fails(capsys, f"wandb:{PATH}")

    def test_a_project_without_runs(
        self, server: Server, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no finished runs" in fails(capsys, f"wandb:{PATH}")
