"""What a search may propose: the operations of its space, within the budget."""

from __future__ import annotations

import numpy as np

from pfstudy.search.drawing import Limits
from pfstudy.searches import Times
from pfstudy.space import Space


def limits_of(space: Space, times: Times | None, budget: float | None) -> Limits:
    """Say what may be proposed at the sites of a space.

    Args:
        space: The space.
        times: What operations take; needed where there is a budget.
        budget: Most time, relative to the unsubstituted backbone; ``None`` for any.
    """
    offered = tuple(range(len(space.operations)))
    costs_SK = None if times is None else np.array(times.operations)
    rest = 0.0 if times is None else times.rest
    return Limits((offered,) * len(space.sites), costs_SK, rest, budget)
