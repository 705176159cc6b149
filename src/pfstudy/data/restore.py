"""The config of a run whose data must still be what it was trained on."""

from __future__ import annotations

from pathlib import Path

from pfstudy import files, store
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config, parse_config


def read_config(directory: Path) -> Config:
    """Read the config of a run, and check that its data are there and unchanged.

    Raises:
        PfstudyError: They are gone, or other ones by now.
    """
    written = files.read_json(directory / store.CONFIG)
    config = parse_config(written["config"])
    if fingerprint(config.data) != written["identity"]["canonical"]["data"]["fingerprint"]:
        raise PfstudyError(
            f"the data of {directory} has been changed since; bring back what it was trained on."
        )
    return config
