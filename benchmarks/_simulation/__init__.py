"""The simulation of `benchmarks/statistics.py`."""
