"""Quantizers, switchable layers, the supernet, and the extraction of standalone networks from it."""
