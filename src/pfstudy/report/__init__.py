"""Rows in, one self-contained page out."""
