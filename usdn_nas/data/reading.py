"""Opens and reads files of unknown kind, with bounded memory and without waiting for another process."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from usdn_nas._util.errors import UserError, reason

__all__ = ["check_memory", "file_size", "open_regular", "path_status", "read_regular"]


def path_status(path: Path) -> os.stat_result | None:
    """Returns the status of a file or folder; None if there is none.

    Raises:
        UserError: The path cannot be followed: permission is missing, it is too long, or links lead in a circle.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {reason(error)}", where=path) from None


def open_regular(path: Path | str) -> io.BufferedReader:
    """Opens a regular file for reading.

    A pipe, a socket or a device is refused, because reading from it could take for ever.

    Raises:
        UserError: The file is missing, unreadable, or not a regular file.
    """
    try:
        # Opening a pipe waits for its writer unless O_NONBLOCK is set. Regular files ignore the flag.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot be read: {reason(error)}", where=path) from None
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise UserError("expected a regular file, got a folder, pipe, socket or device", where=path)
    return os.fdopen(handle, "rb")


def file_size(file: io.BufferedReader) -> int:
    """Returns the size in bytes of an open regular file."""
    return os.fstat(file.fileno()).st_size


def read_regular(path: Path, limit: int) -> bytes:
    """Returns the content of a regular file of at most ``limit`` bytes.

    Raises:
        UserError: The file is larger, or cannot be read.
    """
    with open_regular(path) as file:
        if (size := file_size(file)) > limit:
            raise UserError(f"expected a file of at most {limit:,} bytes, got {size:,}", where=path)
        check_memory(size, path)
        try:
            return file.read(limit)
        except (OSError, MemoryError) as error:
            raise UserError(f"cannot be read: {reason(error)}", where=path) from None


def check_memory(size_bytes: int, where: object) -> None:
    """Refuses a size that cannot fit in this machine's memory, before anything is allocated.

    Raises:
        UserError: ``size_bytes`` is more than the whole memory of the machine.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size_bytes > machine:
        raise UserError(
            f"needs {size_bytes / 2**30:,.0f} GiB of memory, this machine has {machine / 2**30:,.0f} GiB", where=where
        )
