"""The config of a run whose data must still be what it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pfstudy import files, store
from pfstudy.data import identify as identify_content
from pfstudy.errors import PfstudyError
from pfstudy.identity import Content
from pfstudy.schema.config import Config, Data, parse_config


def read_config(directory: Path, identify: Callable[[Data], Content] = identify_content) -> Config:
    """Read the config of a run, and check that its data are there and unchanged.

    Args:
        directory: The run directory.
        identify: Identifies data; one that remembers serves several runs.

    Raises:
        PfstudyError: They are gone, or other ones by now.
    """
    written = files.read_json(directory / store.CONFIG)
    config = parse_config(written["config"])
    if not identify(config.data).has(written["identity"]):
        raise PfstudyError(
            f"the data of {directory} has been changed since; bring back what it was trained on."
        )
    return config
