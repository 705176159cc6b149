"""When a differentiable search ends, and which epoch's probabilities are what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pfstudy.schema.search import Differentiable

Row = Mapping[str, Any]
"""What a search logs of an epoch."""

Reason = Literal["epochs", "patience", "collapse"]

CHOSEN = "chosen."
PROBABILITY = "probability."


def reason_to_end(rows: Sequence[Row], search: Differentiable) -> Reason | None:
    """Say why a search ends behind the last of some epochs, if it does.

    The two rules are those of DARTS+ (Liang et al. 2019): what is chosen has stayed, or an
    operation that searches are known to collapse to has taken over.

    Args:
        rows: Of all epochs so far.
        search: Its settings.
    """
    if len(rows) <= search.warmup_epochs:
        return None
    if is_collapsed(rows[-1], search):
        return "collapse"
    if len(rows) == search.epochs:
        return "epochs"
    behind_warmup = rows[search.warmup_epochs :]
    if search.patience is not None and len(behind_warmup) > search.patience:
        recent = [_chosen(row) for row in behind_warmup[-search.patience - 1 :]]
        if all(chosen == recent[0] for chosen in recent):
            return "patience"
    return None


def is_collapsed(row: Row, search: Differentiable) -> bool:
    """Whether operations that searches collapse to have too much of the probability.

    What is chosen does not tell: behind the warm-up it is hardly more probable than the rest.
    """
    named = [key.rpartition(".") for key in row if key.startswith(PROBABILITY)]
    sites = {site for site, _, _ in named}
    collapsed = sum(
        row[f"{site}.{name}"] for site, _, name in named if name in search.collapse_operations
    )
    return bool(collapsed > search.collapse_share * len(sites))


def found_row(rows: Sequence[Row], search: Differentiable) -> Row:
    """The epoch whose probabilities are found: the last one that was not collapsed."""
    sound = [row for row in rows if not is_collapsed(row, search)]
    return sound[-1] if sound else rows[-1]


def _chosen(row: Row) -> list[Any]:
    return [value for key, value in row.items() if key.startswith(CHOSEN)]
