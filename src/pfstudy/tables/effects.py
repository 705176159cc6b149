"""Rows in, additive models of what each place contributes out."""

from __future__ import annotations

from pfstudy.schema.operations import ORIGINAL
from pfstudy.stats.effects import Additive, Level, fit_additive
from pfstudy.tables.columns import ACCURACY
from pfstudy.tables.rows import Rows


def fit_effects(rows: Rows, level: Level) -> Additive | None:
    """Fit an additive model to the largest family of variants.

    Returns:
        ``None`` if its variants cannot tell the effects apart.
    """
    families = rows.frame.groupby("family", sort=False)
    _, frame = max(families, key=lambda item: len(item[1]))
    if frame["operations"].map(len).nunique() != 1:
        return None
    return fit_additive(
        frame["operations"].tolist(),
        frame[ACCURACY].tolist(),
        frame["num_seeds"].tolist(),
        ORIGINAL,
        level,
    )
