"""Searches for operations: what is proposed, trained, evaluated and found."""
