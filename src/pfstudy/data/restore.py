"""The config of a run whose data must still be what it was trained on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pfstudy import files, store
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config, Data, parse_config


def read_config(directory: Path, identify: Callable[[Data], str] = fingerprint) -> Config:
    """Read the config of a run, and check that its data are there and unchanged.

    Args:
        directory: The run directory.
        identify: Finds the fingerprint of data; one that remembers serves several runs.

    Raises:
        PfstudyError: They are gone, or other ones by now.
    """
    written = files.read_json(directory / store.CONFIG)
    config = parse_config(written["config"])
    if identify(config.data) != written["identity"]["canonical"]["data"]["fingerprint"]:
        raise PfstudyError(
            f"the data of {directory} has been changed since; bring back what it was trained on."
        )
    return config
