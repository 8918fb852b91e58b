"""Where studies are kept: a journal file by default, or any storage Optuna knows by URL."""

from __future__ import annotations

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from usdn_nas.errors import UserError

if sys.platform != "win32":
    import fcntl

__all__ = ["JournalLock", "open_storage", "quiet"]

_JOURNALS = (".journal", ".log")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it, Optuna logs errors alone, and does not warn of its experimental features."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


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


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(exist_ok=True)
    lock = JournalLock(path)
    lock.acquire()
    lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock_obj=lock))


def open_storage(url: str | None, default: Path) -> BaseStorage:
    """Opens a storage, creating it where it does not exist yet.

    Args:
        url: ``sqlite:///...``, ``postgresql://...`` and so on (SQLAlchemy's URLs), or the path of a journal file
            (``*.journal``, ``*.log``); None: ``default``.
        default: Path of the embedded journal.

    Raises:
        UserError: The storage cannot be opened, or is damaged.
    """
    if url is None or ("://" not in url and url.endswith(_JOURNALS)):
        path = default if url is None else Path(url)
        try:
            return _open_journal(path)
        except OSError as error:
            raise UserError(f"cannot open the journal: {error.strerror or error}", where=path) from None
        except ValueError as error:
            raise UserError(
                f"the journal is damaged: {error}", where=path, remedy="move it away and search again"
            ) from None
    if "://" not in url:
        raise UserError(
            f"expected a storage URL, or a path ending in {' or '.join(_JOURNALS)}, got '{url}'",
            where="search.storage",
            remedy="for example sqlite:///study.db",
        )
    try:
        with quiet():
            return optuna.storages.get_storage(url)
    except Exception as error:  # SQLAlchemy's, the driver's, Optuna's: whatever it is, the URL is what we were given
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"cannot open '{_without_password(url)}': {first}",
            where="search.storage",
            remedy="for example sqlite:///study.db",
        ) from None


def _without_password(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, at, host = rest.rpartition("@")
    return f"{scheme}://{credentials.partition(':')[0]}:***@{host}" if at and ":" in credentials else url
