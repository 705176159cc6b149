"""Learning curves, read from what runs leave behind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pfstudy import store
from pfstudy.errors import PfstudyError

COLUMNS = ("hash", "seed", "epoch", "val_top1_percent")


def read_curves(records: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Read the validation accuracy by epoch of every run that has a directory.

    Raises:
        PfstudyError: A file is damaged.

    Returns:
        Columns ``hash``, ``seed``, ``epoch`` and ``val_top1_percent``; the last attempt at an
        epoch counts.
    """
    frames = []
    for record in records:
        path = Path(record["directory"]) / store.METRICS if record.get("directory") else None
        if path is None or not path.exists():
            continue
        try:
            curve = pd.read_csv(path, usecols=["epoch", "val_top1_percent"]).dropna()
        except ValueError:
            raise PfstudyError(f"{path} is damaged; move it away, and no curve is drawn.") from None
        curve = curve.drop_duplicates("epoch", keep="last")
        curve["hash"], curve["seed"] = record["identity"]["hash"], record["seed"]
        frames.append(curve)
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=list(COLUMNS))
