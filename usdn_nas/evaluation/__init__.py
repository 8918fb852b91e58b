"""Runs networks over data and gives cached per-exit outputs."""
