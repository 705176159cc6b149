"""Backbones, and the surgery that makes variants of them."""
