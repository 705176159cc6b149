"""Subcommands about the ledger: what is done, why, and what is kept of it."""

from __future__ import annotations
