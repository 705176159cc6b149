"""The configuration: its types, the block tree, and how Hydra composes it."""
