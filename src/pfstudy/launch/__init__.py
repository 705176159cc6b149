"""Sweeps: phases, fresh processes, and what is shown meanwhile."""
