from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

import wandb_server
from pfstudy.errors import PfstudyError
from pfstudy.tracking import dashboard as module
from pfstudy.tracking.dashboard import Dashboard, write_dashboard
from wandb_server import ENTITY, KEY, PROJECT, Server

pytest.importorskip("wandb_workspaces")

PATH = f"{ENTITY}/{PROJECT}"
DASHBOARD = Dashboard(
    "My study", "mine", "| variant |\n|:--|\n| maxpool |", ["All is fair."], ["recipe.lr"],
    ["stage1.block1", "stage1.block2"],
)  # fmt: skip


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    import wandb

    monkeypatch.setenv("WANDB_API_KEY", KEY)
    with wandb_server.serve() as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.url)
        wandb.teardown()
        yield server
    wandb.teardown()


def test_a_report_and_a_workspace_are_written(server: Server) -> None:
    report, workspace = write_dashboard(PATH, DASHBOARD)
    assert report.startswith(f"{server.url}/{PATH}/reports/")
    assert workspace.startswith(f"{server.url}/{PATH}?nw=")
    first, second = server.views
    assert (first["displayName"], first["type"]) == ("My study", "runs")
    assert (second["displayName"], second["type"]) == ("My study", "project-view")


def test_the_report_has_the_table_and_the_studys_runs(server: Server) -> None:
    write_dashboard(PATH, DASHBOARD)
    blocks = json.loads(server.views[0]["spec"])["blocks"]
    tables = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert tables == [DASHBOARD.table]
    texts = [child["text"] for block in blocks for child in block["children"]]
    assert "All is fair." in texts
    (grid,) = (block["metadata"] for block in blocks if block["type"] == "panel-grid")
    (runs,) = grid["runSets"]
    (only,) = runs["filters"]["filters"]
    assert (only["key"]["name"], only["value"]) == ("group", "mine")
    assert runs["grouping"] == [{"section": "config", "name": "label.value"}]


def test_what_stands_where_is_beside_the_figures(server: Server) -> None:
    write_dashboard(PATH, DASHBOARD)
    sections = json.loads(server.views[1]["spec"])["section"]["panelBankConfig"]["sections"]
    panels = sections[0]["panels"]
    assert [panel["viewType"] for panel in panels] == [
        *["Scatter Plot"] * 3,
        "Parallel Coordinates Plot",
    ]
    accessors = [column["accessor"] for column in panels[-1]["config"]["columns"]]
    assert accessors == [
        "config:operations.value.stage1.block1",
        "config:operations.value.stage1.block2",
        "config:recipe.value.lr",
        "summary:latency_ms",
        "summary:test_top1_percent",
    ]


@pytest.mark.parametrize("project", ["study", "/study", "me/", ""])
def test_a_path_that_is_none_is_refused(project: str) -> None:
    with pytest.raises(PfstudyError, match="--wandb takes ENTITY/PROJECT, but got"):
        write_dashboard(project, DASHBOARD)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(PfstudyError, match=r"pip install 'pfstudy\[dashboard\]'"):
        write_dashboard(PATH, replace(DASHBOARD, study=None))


def test_nobody_logged_in_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(PfstudyError, match="nobody is logged in"):
        write_dashboard(PATH, DASHBOARD)
    assert server.views == []
