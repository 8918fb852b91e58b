"""What the C library does with memory that a training step frees."""

from __future__ import annotations

import ctypes
import os

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of glibc's ``mallopt``. Setting either stops glibc from adjusting both, hence both."""
_VALUES = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: 2**30}
_OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Makes glibc keep what is freed for the next step, for as long as the process runs.

    Else it gives the top of the heap back after every path of a supernet's step, and the system hands the same pages
    out again one by one, zeroed.

    Returns:
        Whether that was done: not under another C library, nor where the environment sets glibc's own variables.
    """
    if any(name in os.environ for name in _OF_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # macOS and musl have none, Windows no such library
        return False
    return all(mallopt(option, value) for option, value in _VALUES.items())
