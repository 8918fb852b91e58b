"""Tells the C library to keep memory that a training step frees."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Options of glibc's ``mallopt``. Both are set, because setting one stops glibc from adjusting either."""
_VALUES = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30}
_OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Makes glibc keep freed memory for the next step, until the process ends.

    Otherwise glibc returns the top of the heap to the system after every path of a supernet's step, and the system then
    hands out the same pages again, one by one and filled with zeros. That is slow.

    Returns:
        True if glibc was told so. False if there is another C library, or if the environment sets glibc's own
        variables.
    """
    if any(name in os.environ for name in _OF_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have no mallopt, and Windows has no such library
        return False
    return all(mallopt(option, value) for option, value in _VALUES.items())
