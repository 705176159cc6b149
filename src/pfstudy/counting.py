"""Conventions by which the cost of a network is counted, and their version."""

from __future__ import annotations

COUNTING = 2
"""Version of how activations and memory traffic are counted; it stands in every record.

1, which records before it do not name: linear layers on tokens counted their output again, fused
attention as its steps, and the indices of max-pools as output.
"""

RECOUNTED = ("activations", "memory_traffic_bytes")
"""The figures of a cost that depend on the version; parameters and MACs do not."""

MACS_CONVENTION = "multiply-accumulates of convolutions, linear layers and matrix products"

MACS_SENTENCE = f"MACs: {MACS_CONVENTION}, those of attention included."
"""For captions; docs/costs.md says why other tools count something else."""
