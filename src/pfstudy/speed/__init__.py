"""Measuring speed: side by side, in fresh processes, with an interval."""
