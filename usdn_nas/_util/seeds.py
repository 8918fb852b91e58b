"""Seeds derived from one: every use has its own stream, a function of the study's seed and its name."""

from __future__ import annotations

import hashlib

__all__ = ["derive"]


def derive(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^32) for the use that ``names`` tell."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
