"""Weights & Biases, and nobody else imports it: runs out, records in, dashboards."""

from pfstudy.tracking.runs import (
    Mode,
    Tracker,
    choose_mode,
    start_service,
    stop_service,
)

__all__ = ["Mode", "Tracker", "choose_mode", "start_service", "stop_service"]
