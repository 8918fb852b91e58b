"""A lock that lets only one worker of a study propose trials at a time, so that it sees all earlier proposals.

The lock only saves work. If two workers propose at the same moment, they may propose the same bits, which does no other
harm. A worker that has waited for a minute therefore continues without the lock, and reports it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages import BaseStorage

from usdn_nas.study.database import Database
from usdn_nas.study.patience import Say
from usdn_nas.study.storage import place_of

if sys.platform != "win32":
    import fcntl

__all__ = ["asking"]

_SAY_AFTER_S = 10.0
_GO_ON_AFTER_S = 60.0
_SECONDS_BETWEEN_TRIES = 0.02


@contextlib.contextmanager
def asking(storage: BaseStorage, say: Say = lambda text: None) -> Iterator[None]:
    """Holds the lock for proposing trials inside the block.

    PostgreSQL and MySQL keep the lock themselves, so that it works across machines. For a journal it is a lock on the
    journal file, and for SQLite a lock on a file beside the database. Other storages have no lock.
    """
    place = place_of(storage)
    if isinstance(place, Path):
        with _held_file(place, say):
            yield
    elif place is not None and place.engine.name == "sqlite":
        file = place.engine.url.database
        # The database file itself must not be opened here: closing it would end SQLite's own locks in this process.
        with _held_file(Path(f"{file}-asking"), say) if file and file != ":memory:" else contextlib.nullcontext():
            yield
    elif place is not None and place.engine.name in _IN_DATABASE:
        with _held_in_database(place, say):
            yield
    else:
        yield


@contextlib.contextmanager
def _held_file(path: Path, say: Say) -> Iterator[None]:
    if sys.platform == "win32":
        yield
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        say(f"search: {path} cannot be opened ({error.strerror}); goes on without a lock")
        yield
        return

    def locked() -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        _wait(locked, str(path), say)
        yield
    finally:
        os.close(handle)


_IN_DATABASE = {
    "postgresql": ("SELECT pg_try_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mysql": ("SELECT GET_LOCK(:key, 0)", "SELECT RELEASE_LOCK(:key)"),
    "mariadb": ("SELECT GET_LOCK(:key, 0)", "SELECT RELEASE_LOCK(:key)"),
}
"""Kind of database -> two queries. The first tries to take a lock for the connection, the second releases it.

If the connection is lost, the database releases the lock.
"""


@contextlib.contextmanager
def _held_in_database(database: Database, say: Say) -> Iterator[None]:
    from sqlalchemy import text

    take, release = (text(query) for query in _IN_DATABASE[database.engine.name])
    name = f"usdn-nas {database.engine.url.database}"
    key: Any = zlib.crc32(name.encode()) if database.engine.name == "postgresql" else name[:64]
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        _wait(lambda: bool(connection.execute(take, {"key": key}).scalar()), database.patience.place, say)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                connection.execute(release, {"key": key})


def _wait(locked: Any, what: str, say: Say) -> None:
    """Waits until ``locked()`` returns True, but for a limited time, and reports a long wait."""
    began, said = time.monotonic(), False
    while not locked():
        waited = time.monotonic() - began
        if waited >= _GO_ON_AFTER_S:
            say(f"search: goes on without the lock of {what}; two workers may propose the same bits")
            return
        if waited >= _SAY_AFTER_S and not said:
            said = True
            say(f"search: waits for another worker that holds the lock of {what}, at most {_GO_ON_AFTER_S:g} s")
        time.sleep(_SECONDS_BETWEEN_TRIES)
