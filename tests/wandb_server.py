"""A W&B server on the loopback interface: answers what wandb really asks, from memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from pfstudy.tracking import stop_service

KEY = "k" * 40
ENTITY, PROJECT = "me", "study"
SWEEP = "sweep123"

QUICK = {
    "WANDB__GRAPHQL_RETRY_MAX": "1",
    "WANDB__GRAPHQL_RETRY_WAIT_MIN_SECONDS": "1",  # 0 would be wandb's own, which is longer
    "WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS": "1",
    "WANDB__FILE_STREAM_RETRY_MAX": "1",
    "WANDB__FILE_STREAM_RETRY_WAIT_MIN_SECONDS": "1",
    "WANDB__FILE_STREAM_RETRY_WAIT_MAX_SECONDS": "1",
}
"""Variables that make wandb impatient."""


def run_node(
    run_id: str,
    summary: Mapping[str, Any],
    *,
    config: Mapping[str, Any] | None = None,
    name: str = "a run",
    state: str = "finished",
    group: str = "mine",
    job_type: str = "train",
) -> dict[str, Any]:
    """A run, as the server answers with it."""
    return {
        "id": f"storage-{run_id}",
        "name": run_id,
        "displayName": name,
        "state": state,
        "group": group,
        "jobType": job_type,
        "tags": [],
        "config": json.dumps({key: {"value": value} for key, value in (config or {}).items()}),
        "summaryMetrics": json.dumps(summary),
        "systemMetrics": "{}",
        "historyKeys": None,
        "historyLineCount": 0,
        "createdAt": "2026-01-01T00:00:00",
        "heartbeatAt": "2026-01-01T00:00:00",
        "readOnly": False,
        "user": {"name": "Me", "username": ENTITY},
        "projectId": "1",
    }


@dataclass
class Server:
    """What it has, and what it was asked.

    Attributes:
        runs: Of the one project.
        history: Rows of the curves, by id of the run.
        exit_codes: By id of the run.
        sweeps: The sweep that each run of one says it belongs to.
        refusals: Status codes that the next queries for runs are answered with.
        refused: Status codes, by part of a query or of an address, that these are answered with.
        asked: Variables of the queries for runs that were answered.
        views: Inputs of the mutations that save reports and workspaces.
        sweep_config: The sweep's, as text of YAML.
        asked_runs: Ids and arguments of the runs that agents are asked for, one after the other.
        url: Where it listens.
    """

    runs: list[dict[str, Any]] = field(default_factory=list)
    history: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    exit_codes: dict[str, int] = field(default_factory=dict)
    sweeps: dict[str, str] = field(default_factory=dict)
    refusals: list[int] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    sweep_config: str = ""
    asked_runs: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def clear(self) -> None:
        """Forget everything but the address."""
        fresh = Server(url=self.url)
        self.__dict__.update(fresh.__dict__)

    def run(self, run_id: str) -> dict[str, Any]:
        """A run by its id."""
        (found,) = (run for run in self.runs if run["name"] == run_id)
        return found

    def config(self, run_id: str) -> dict[str, Any]:
        """The config of a run."""
        return {k: v["value"] for k, v in json.loads(self.run(run_id)["config"]).items()}

    def summary(self, run_id: str) -> dict[str, Any]:
        """The summary of a run."""
        found: dict[str, Any] = json.loads(self.run(run_id)["summaryMetrics"])
        return found

    def answer(self, path: str, text: bytes) -> tuple[int, dict[str, Any]]:
        """Answer a request, with its status code."""
        is_query = path.endswith("/graphql")
        body = json.loads(text) if text and (is_query or path.endswith("/file_stream")) else {}
        query = body.get("query", "") if is_query else path
        for part, status in self.refused.items():
            if part in query:
                return status, {"errors": [{"message": "the server said no"}]}
        if is_query:
            return self._answer_query(query, body.get("variables") or {})
        if path.endswith("/file_stream"):
            self._stream(path.split("/")[-2], body)
        return 200, {}

    def _answer_query(self, query: str, variables: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        if "runs(filters" in query:
            if self.refusals:
                return self.refusals.pop(0), {"errors": [{"message": "rate limit exceeded"}]}
            self.asked.append(dict(variables))
            return 200, {"data": {"project": self._page(variables)}}
        if "upsertBucket" in query:
            return 200, {"data": {"upsertBucket": self._upsert(variables)}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/storage/{name}"} for name in variables["files"]]  # fmt: skip  # noqa: E501
            made = {"runID": "1", "uploadHeaders": [], "files": files}
            return 200, {"data": {"createRunFiles": made}}
        if "upsertView" in query:
            self.views.append(dict(variables))
            view = {"id": "VmlldzoxMjM0", "name": "x", "displayName": "x", "spec": "{}"}
            return 200, {"data": {"upsertView": {"view": view, "inserted": True}}}
        if "upsertSweep" in query:
            self.sweep_config = variables["config"]
            project = {"name": variables["projectName"], "entity": {"name": ENTITY}}
            made = {"name": SWEEP, "project": project}
            return 200, {"data": {"upsertSweep": {"sweep": made, "configValidationWarnings": []}}}
        if "createAgent" in query:
            return 200, {"data": {"createAgent": {"agent": {"id": "agent"}}}}
        if "agentHeartbeat" in query:
            commands: list[dict[str, Any]] = []
            if not json.loads(variables["runState"]):  # nothing is running
                asked = self.asked_runs.pop(0) if self.asked_runs else None
                run = {"type": "run", "program": None, **(asked or {})}
                commands = [run if asked else {"type": "exit"}]
            answer = {"agent": {"id": "agent"}, "commands": json.dumps(commands)}
            return 200, {"data": {"agentHeartbeat": answer}}
        if "sweep(sweepName" in query:
            sweep = {"id": "1", "name": SWEEP, "config": self.sweep_config, "runs": {"edges": []}}
            return 200, {"data": {"project": {"sweep": {**sweep, "state": "RUNNING"}}}}
        if "models" in query:
            info = {"endCursor": None, "hasNextPage": False, "typename__": "PageInfo"}
            mine = {"id": "1", "name": PROJECT, "entityName": ENTITY, "createdAt": "", "isBenchmark": False}  # fmt: skip  # noqa: E501
            mine |= {"user": None, "__typename": "Project"}
            return 200, {"data": {"models": {"pageInfo": info, "edges": [{"node": mine}]}}}
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "flags": "{}"}
        viewer |= {"teams": {"edges": []}, "email": "", "admin": False, "apiKeys": {"edges": []}}
        project = {"id": "1", "internalId": "1", "name": PROJECT, "entityName": ENTITY}
        return 200, {
            "data": {"viewer": viewer, "serverInfo": None, "project": project, "model": project}
        }

    def _page(self, variables: Mapping[str, Any]) -> dict[str, Any] | None:
        if (variables["entity"], variables["project"]) != (ENTITY, PROJECT):
            return None
        filters = json.loads(variables["filters"])
        found = [run for run in self.runs if all(_fits(run[k], v) for k, v in filters.items())]
        start = int(variables.get("cursor") or 0)
        end = start + int(variables["perPage"])
        edges = [{"node": run, "cursor": str(start + i + 1)} for i, run in enumerate(found[start:end])]  # fmt: skip  # noqa: E501
        info = {"endCursor": str(end), "hasNextPage": end < len(found)}
        return {
            "internalId": "1",
            "runCount": len(found),
            "readOnly": False,
            "runs": {"edges": edges, "pageInfo": info},
        }

    def _upsert(self, variables: Mapping[str, Any]) -> dict[str, Any]:
        """Make a run, or change one."""
        name = variables["name"]
        known = [run for run in self.runs if run["name"] == name]
        run = known[0] if known else run_node(name, {}, state="running", group="")
        if not known:
            self.runs.append(run)
        taken = {"groupName": "group", "displayName": "displayName", "jobType": "jobType"}
        for theirs, ours in taken.items():
            if variables.get(theirs) is not None:
                run[ours] = variables[theirs]
        run["config"] = variables.get("config") or run["config"]
        if variables.get("sweep"):
            self.sweeps[name] = variables["sweep"]
        entity = {"id": "1", "name": variables["entity"] or ENTITY}
        project = {"id": "1", "name": variables["project"], "entity": entity}
        bucket = {key: run[key] for key in ("id", "name", "displayName", "config")}
        bucket |= {"description": None, "sweepName": variables.get("sweep"), "project": project}
        return {"bucket": {**bucket, "historyLineCount": 0}, "inserted": not known}

    def _stream(self, run_id: str, body: Mapping[str, Any]) -> None:
        """Take rows of the curves, the summary, and how the run ended."""
        run = self.run(run_id)
        for name, part in (body.get("files") or {}).items():
            rows = [json.loads(row) for row in part["content"]]
            if name == "wandb-history.jsonl":
                self.history.setdefault(run_id, [])[part["offset"] :] = rows
            elif name == "wandb-summary.json":
                run["summaryMetrics"] = json.dumps(rows[-1])
        if body.get("complete"):
            self.exit_codes[run_id] = body["exitcode"]
            run["state"] = "failed" if body["exitcode"] else "finished"


def _fits(value: Any, wanted: Any) -> bool:
    """Whether a value passes a filter as MongoDB writes it: a value, or one that it must not be."""
    return value != wanted["$ne"] if isinstance(wanted, dict) else value == wanted


@contextmanager
def serve_logged_in() -> Iterator[Server]:
    """Serve while somebody is logged in, and let wandb be impatient; starts no service yet."""
    with pytest.MonkeyPatch.context() as patch, serve() as server:
        for name, value in {**QUICK, "WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}.items():
            patch.setenv(name, value)
        stop_service()
        yield server
        stop_service()


@contextmanager
def serve(runs: Sequence[dict[str, Any]] = ()) -> Iterator[Server]:
    """Serve some runs while the context lasts."""
    server = Server(list(runs))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, answer = server.answer(self.path, text)
            sent = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_PUT = do_POST

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
