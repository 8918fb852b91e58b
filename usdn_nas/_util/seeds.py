"""Derives seeds from the study's seed. Every use has a seed of its own, which depends only on that seed and a name."""

from __future__ import annotations

import hashlib

__all__ = ["derive"]


def derive(seed: int, *names: str | int) -> int:
    """Returns a seed in [0, 2^32) for the use that ``names`` describe."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
