"""Weights & Biases, and nobody else imports it: runs out, records in, dashboards."""

from pfstudy.tracking.anew import answer_agent
from pfstudy.tracking.runs import (
    Mode,
    Tracker,
    choose_mode,
    config_to_log,
    record_to_log,
    speed_to_log,
    start_service,
    stop_service,
)

__all__ = [
    "Mode",
    "Tracker",
    "answer_agent",
    "choose_mode",
    "config_to_log",
    "record_to_log",
    "speed_to_log",
    "start_service",
    "stop_service",
]
