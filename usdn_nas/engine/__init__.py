"""Runs bit configurations over images. Parts are compiled, and configurations share the runs of common prefixes."""
