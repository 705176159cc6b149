"""Preloaded: what wandb imports only when a run starts, or logs for the first time."""

from __future__ import annotations

import importlib
from contextlib import suppress

for _name in (
    "wandb.apis.public",
    "wandb.sdk.launch.inputs.internal",
    "requests",
    "opentelemetry.sdk.metrics.export",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.semconv.attributes.code_attributes",
):
    with suppress(ImportError):  # another release of wandb may do without
        importlib.import_module(_name)
