"""pfstudy: what happens to accuracy and speed when the spatial operation here becomes that?

The public interface; each name is imported when it is first used, so that ``import pfstudy`` costs
nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pfstudy.complexity import Cost, cost
    from pfstudy.errors import PfstudyError
    from pfstudy.network.checkpoint import load_checkpoint
    from pfstudy.network.restore import load_run
    from pfstudy.network.substitutions import check_network
    from pfstudy.network.surgery import build_network
    from pfstudy.ops.layer import Layer
    from pfstudy.schema.compose import compose
    from pfstudy.schema.config import Config
    from pfstudy.schema.operations import Operation, register

_PLACES = {
    "Config": "pfstudy.schema.config",
    "Cost": "pfstudy.complexity",
    "Layer": "pfstudy.ops.layer",
    "Operation": "pfstudy.schema.operations",
    "PfstudyError": "pfstudy.errors",
    "build_network": "pfstudy.network.surgery",
    "check_network": "pfstudy.network.substitutions",
    "compose": "pfstudy.schema.compose",
    "cost": "pfstudy.complexity",
    "load_checkpoint": "pfstudy.network.checkpoint",
    "load_run": "pfstudy.network.restore",
    "register": "pfstudy.schema.operations",
}

__all__ = [
    "Config",
    "Cost",
    "Layer",
    "Operation",
    "PfstudyError",
    "__version__",
    "build_network",
    "check_network",
    "compose",
    "cost",
    "load_checkpoint",
    "load_run",
    "register",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
