"""Simulated studies: how often the intervals and verdicts of tables, reports and figures are right.

    python benchmarks/statistics.py                 10,000 families a row, in two processes
    python benchmarks/statistics.py --quick         2,000 families or fewer
    python benchmarks/statistics.py --all           every row, also where tables show the worst
    python benchmarks/statistics.py --before DIR    times the build in the checkout DIR as well

Prints Markdown tables, and exits 1 if a bound is missed.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # a thread for each of the two processes
    from _simulation.command import main

    sys.exit(main(__doc__))

if __name__ == "statistics":
    # A script's folder comes first on sys.path, so Lightning and other scripts, which import the
    # standard library's module of that name, get this file instead: pass that module on to them.
    folder = Path(__file__).resolve().parent
    spec = PathFinder.find_spec(__name__, [p for p in sys.path if Path(p).resolve() != folder])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[__name__] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[__name__])
