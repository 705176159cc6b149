from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import wandb_server
from pfstudy.errors import PfstudyError
from pfstudy.tracking import reading
from pfstudy.tracking.reading import RECORD_KEY, read_project
from wandb_server import ENTITY, KEY, PROJECT, Server, run_node

PATH = f"{ENTITY}/{PROJECT}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(reading, "_WAITS_S", (0.0, 0.0))
    with wandb_server.serve() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()
        yield server
    wandb.teardown()


def record_of(seed: int) -> dict[str, Any]:
    return {"schema_version": 1, "seed": seed}


def node(seed: int, **changes: Any) -> dict[str, Any]:
    summary = {RECORD_KEY: json.dumps(record_of(seed))}
    return run_node(f"0123456789-{seed}-1-abcdef", summary, name=f"run{seed}", **changes)


def test_all_pages_are_read(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_PAGE", 2)
    server.runs = [node(seed) for seed in range(5)]
    found = read_project(PATH)
    assert [run.record for run in found] == [record_of(seed) for seed in range(5)]
    assert [run.key for run in found] == [("0123456789", seed) for seed in range(5)]
    assert [run.name for run in found] == [f"run{seed}" for seed in range(5)]
    assert [asked["perPage"] for asked in server.asked] == [2, 2, 2]  # and none for each run


def test_a_study_is_filtered_by_the_server(server: Server) -> None:
    server.runs = [node(0), node(1, group="another")]
    assert [run.name for run in read_project(PATH, "mine")] == ["run0"]
    assert json.loads(server.asked[0]["filters"]) == {"group": "mine"}


def test_states_are_told(server: Server) -> None:
    server.runs = [run_node("0123456789-0-1", {}, state="crashed"), run_node("somebodys", {})]
    found = read_project(PATH)
    assert [(run.state, run.record, run.key) for run in found] == [
        ("crashed", None, ("0123456789", 0)),
        ("finished", None, None),
    ]


def test_a_server_that_asks_for_patience_gets_it(server: Server) -> None:
    server.runs, server.refusals = [node(0)], [429, 429]
    said: list[str] = []
    assert [run.name for run in read_project(PATH, say=said.append)] == ["run0"]
    assert server.refusals == []


def test_a_project_that_does_not_exist_is_named(server: Server) -> None:
    with pytest.raises(PfstudyError, match=r"wandb:me/none cannot be read .*wandb:ENTITY/PROJECT"):
        read_project("me/none")


def test_nobody_logged_in_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(PfstudyError, match=r"nobody is logged in.*run `wandb login`"):
        read_project(PATH)


def test_no_network_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    with pytest.raises(PfstudyError, match=f"wandb:{PATH} cannot be read"):
        read_project(PATH)
