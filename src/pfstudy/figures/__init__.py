"""Rows in, pictures out: SVG, PDF and PNG, fit for one column of a paper."""
