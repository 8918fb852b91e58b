"""The embedded storage: Optuna's journal file, with a lock that dies with its owner and fewer waits for the disk."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.storages.journal._storage import JournalOperation

if sys.platform != "win32":
    import fcntl

__all__ = ["Journal", "JournalLock"]


class JournalLock(JournalFileOpenLock):
    """Lock of a journal that dies with its owner, and mends the journal on the way in.

    Optuna's own locks are files that a killed worker leaves behind; the next one then waits 30 seconds. This one is
    ``flock``, which the kernel gives back (on Windows, Optuna's serves). A last line without its end was torn by a
    kill: the next append would grow onto it and make the journal unreadable, so it is cut off, under the lock,
    before anything is written.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Waits for the lock, then mends the journal."""
        if sys.platform == "win32":
            super().acquire()
        else:
            handle = os.open(f"{self._path}.flock", os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except BaseException:
                os.close(handle)
                raise
            self._handle = handle
        _cut_torn_line(self._path)
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if sys.platform == "win32":
            super().release()
        elif self._handle is not None:
            handle, self._handle = self._handle, None
            os.close(handle)


class Journal(JournalFileBackend):
    """A journal file, in Optuna's format: optuna-dashboard opens it (``--storage-class JournalFileStorage``).

    A trial is some twenty writes. Optuna waits for the disk after each; here only a change of a trial's state does,
    which takes all writes before it along. A killed process loses nothing; a power cut, at most the trial under way.

    Args:
        path: An existing file. It is mended at once if its last line is torn.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._own_lock = JournalLock(path)
        self._own_lock.acquire()
        self._own_lock.release()
        super().__init__(str(path), lock_obj=self._own_lock)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends a line for each of ``logs``."""
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._own_lock.acquire()
        try:
            with self._path.open("ab") as file:
                file.write(lines.encode())
                file.flush()
                if any(log.get("op_code") == JournalOperation.SET_TRIAL_STATE_VALUES for log in logs):
                    os.fsync(file.fileno())
        finally:
            self._own_lock.release()


def _cut_torn_line(path: Path) -> None:
    with path.open("rb+") as file:
        end = position = file.seek(0, os.SEEK_END)
        while position:
            start = max(0, position - (1 << 16))
            file.seek(start)
            newline = file.read(position - start).rfind(b"\n")
            if newline >= 0:
                position = start + newline + 1
                break
            position = start
        if position < end:
            file.truncate(position)
            os.fsync(file.fileno())
