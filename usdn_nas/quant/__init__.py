"""Quantizers, switchable layers, the supernet, and what is materialized from it."""
