"""How far rankings agree, as a table for the terminal and as plain data."""

from __future__ import annotations

from dataclasses import asdict
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.markup import escape
from rich.table import Table

from pfstudy.launch.ranking import MACS, TRAINED
from pfstudy.stats.ranking import RankCorrelation, rank_correlation
from pfstudy.words import counted

if TYPE_CHECKING:
    from pfstudy.launch.ranking import Ranking

_LEAST = 2


def correlate(ranking: Ranking, first: str, second: str) -> RankCorrelation | None:
    """Rank correlation of two scores over the networks that both say something of."""
    ours, theirs = ranking.scores[first], ranking.scores[second]
    both = np.isfinite(ours) & np.isfinite(theirs)
    if both.sum() < _LEAST:
        return None
    errors = None
    if TRAINED in (first, second) and ranking.errors is not None:
        errors = ranking.errors[both]
    if first == TRAINED:
        ours, theirs = theirs, ours  # errors are of the second one
    return rank_correlation(ours[both], theirs[both], errors=errors)


def ranking_table(ranking: Ranking) -> Table:
    """Table for the terminal: Kendall's tau of every ranking with every other one."""
    table = Table(box=box.SIMPLE_HEAD, title="Kendall's tau", title_justify="left")
    names = list(ranking.scores)
    table.add_column("", overflow="fold")
    for name in names[:-1]:
        table.add_column(escape(name), justify="right", overflow="fold")
    for row, name in enumerate(names[1:], 1):
        cells = [_write(correlate(ranking, other, name)) for other in names[:row]]
        table.add_row(escape(name), *cells)
    return table


def describe_ranking(ranking: Ranking) -> str:
    """Say what is compared, and how sure that is."""
    least, most = ranking.num_seeds
    seeds = counted(most, "seed") if least == most else f"{least} to {most} seeds"
    noise = (
        "one seed each, so the noise of training is not told apart"
        if ranking.errors is None
        else "the noise of training is in the intervals of full training"
    )
    networks = counted(len(ranking.labels), "network")
    return (
        f"Over {networks} that were trained fully ({seeds}; {noise}) and that all of these know: 1 "
        "is the same order, 0 no agreement, -1 the reverse; with 95 % intervals. Full training: "
        "test top-1. Searches: the sum of the logarithms of their probabilities, or the validation "
        "accuracy with shared weights. The additive model, by which pfstudy design chooses, "
        "predicts the validation accuracy of a combination from all other networks. "
        f"{MACS} show what size alone tells."
    )


def ranking_data(ranking: Ranking) -> dict[str, Any]:
    """The rankings and how far they agree, for programs."""
    taus = []
    for first, second in combinations(ranking.scores, 2):
        found = correlate(ranking, first, second)
        taus.append({"first": first, "second": second, **(asdict(found) if found else {})})
    scores = {
        name: [float(value) if np.isfinite(value) else None for value in values]
        for name, values in ranking.scores.items()
    }
    return {
        "networks": list(ranking.labels),
        "scores": scores,
        "correlations": taus,
        "shares": [asdict(share) for share in ranking.shares],
    }


def _write(found: RankCorrelation | None) -> str:
    if found is None or found.tau is None:
        return "-"
    if found.low is None or found.high is None:
        return f"{found.tau:+.2f}"
    return f"{found.tau:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
