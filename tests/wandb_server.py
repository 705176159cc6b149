"""A W&B server on the loopback interface: answers what wandb really asks, from memory."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "k" * 40
ENTITY, PROJECT = "me", "study"


def run_node(
    run_id: str,
    summary: Mapping[str, Any],
    *,
    name: str = "a run",
    state: str = "finished",
    group: str = "mine",
) -> dict[str, Any]:
    """A run, as the server answers with it."""
    return {
        "id": f"storage-{run_id}",
        "name": run_id,
        "displayName": name,
        "state": state,
        "group": group,
        "tags": [],
        "config": "{}",
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
        refusals: Status codes that the next queries for runs are answered with.
        asked: Variables of the queries for runs that were answered.
        views: Inputs of the mutations that save reports and workspaces.
        url: Where it listens.
    """

    runs: Sequence[Mapping[str, Any]] = ()
    refusals: list[int] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def answer(self, query: str, variables: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Answer a query of GraphQL."""
        if "runs(filters" in query:
            if self.refusals:
                return self.refusals.pop(0), {"errors": [{"message": "rate limit exceeded"}]}
            self.asked.append(dict(variables))
            return 200, {"data": {"project": self._page(variables)}}
        if "upsertView" in query:
            self.views.append(dict(variables))
            view = {"id": "VmlldzoxMjM0", "name": "x", "displayName": "x", "spec": "{}"}
            return 200, {"data": {"upsertView": {"view": view, "inserted": True}}}
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
        found = [run for run in self.runs if all(run[key] == v for key, v in filters.items())]
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


@contextmanager
def serve(runs: Sequence[Mapping[str, Any]] = ()) -> Iterator[Server]:
    """Serve some runs while the context lasts."""
    server = Server(runs)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"]))
            if not self.path.endswith("/graphql"):  # what wandb tells of itself
                self._send(200, {})
                return
            body = json.loads(text)
            status, answer = server.answer(body.get("query", ""), body.get("variables") or {})
            self._send(status, answer)

        def do_GET(self) -> None:
            self._send(200, {})

        def _send(self, status: int, answer: Mapping[str, Any]) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
