from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from pfstudy.errors import PfstudyError
from pfstudy.tracking import dashboard as module
from pfstudy.tracking import stop_service
from pfstudy.tracking.dashboard import Dashboard, write_dashboard
from wandb_server import ENTITY, PROJECT, Server

pytest.importorskip("wandb_workspaces")

PATH = f"{ENTITY}/{PROJECT}"
DASHBOARD = Dashboard(
    "My study", "mine", "| variant |\n|:--|\n| maxpool |", ["All is fair."], ["recipe.lr"],
    ["stage1.block1", "stage1.block2"],
)  # fmt: skip


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
    is_of_study_by_variant(runs)


def is_of_study_by_variant(runs: Mapping[str, Any]) -> None:
    (only,) = runs["filters"]["filters"]
    assert (only["key"]["section"], only["key"]["name"]) == ("run", "group")
    assert (only["op"], only["value"]) == ("=", "mine")
    assert runs["grouping"] == [{"section": "config", "name": "label.value"}]


def test_the_workspace_has_the_studys_runs(server: Server) -> None:
    write_dashboard(PATH, DASHBOARD)
    (runs,) = json.loads(server.views[1]["spec"])["section"]["runSets"]
    is_of_study_by_variant(runs)


def test_without_a_study_all_runs_are_shown(server: Server) -> None:
    write_dashboard(PATH, replace(DASHBOARD, study=None))
    (runs,) = json.loads(server.views[1]["spec"])["section"]["runSets"]
    assert runs["filters"]["filters"] == []


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
        "config:identity.value.canonical.recipe.lr",
        "summary:latency_ms",
        "summary:test_top1_percent",
    ]


@pytest.mark.parametrize("project", ["study", "/study", "me/", "", "a/b/c"])
def test_a_path_that_is_none_is_refused(project: str) -> None:
    with pytest.raises(PfstudyError, match="--wandb takes ENTITY/PROJECT, but got"):
        write_dashboard(project, DASHBOARD)


def test_what_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(PfstudyError, match=r"pip install 'pfstudy\[dashboard\]'"):
        write_dashboard(PATH, replace(DASHBOARD, study=None))


def test_a_name_that_breaks_the_filter_is_refused() -> None:
    with pytest.raises(PfstudyError, match="cannot filter by a study with an apostrophe, it's"):
        write_dashboard(PATH, replace(DASHBOARD, study="it's"))


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (403, "there is no such project, or you may not enter it (the server said no); give"),
        (503, "W&B is out of order (HTTP 503); try again later."),
    ],
)
def test_a_server_that_refuses_is_quoted(server: Server, status: int, sentence: str) -> None:
    server.refused = {"upsertView": status}
    with pytest.raises(PfstudyError) as raised:
        write_dashboard(PATH, DASHBOARD)
    assert str(raised.value).startswith(f"the report cannot be written to {PATH}: {sentence}")
    assert "\n" not in str(raised.value)


def test_no_network_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    stop_service()
    with pytest.raises(PfstudyError, match=r"W&B does not answer .*connection refused"):
        write_dashboard(PATH, DASHBOARD)
    stop_service()


def test_nobody_logged_in_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    stop_service()
    with pytest.raises(PfstudyError, match="nobody is logged in"):
        write_dashboard(PATH, DASHBOARD)
    assert server.views == []
    stop_service()
