"""Repeats work on a database that cannot be reached, with growing pauses and for a limited time, and reports it."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from optuna.exceptions import StorageInternalError

from usdn_nas._util.errors import RunError

__all__ = ["BrokenTransactionError", "Patience", "Say", "cause_of", "is_passing"]

T = TypeVar("T")
Say = Callable[[str], None]

_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0
_QUIET_S = 1.0
"""An outage is reported only if it lasts longer than this."""

_PASSING_SQLITE = ("is locked", "busy", "already exists", "schema has changed")
"""Operational errors of SQLite that end if one waits. Others come from damaged files, full disks or missing rights."""


class BrokenTransactionError(Exception):
    """Raised if a change in a transaction failed and was rolled back. The whole transaction must then be repeated."""


def cause_of(error: BaseException) -> BaseException:
    """Returns the database's own error, which Optuna or a broken transaction may have wrapped."""
    while isinstance(error, StorageInternalError | BrokenTransactionError) and error.__cause__ is not None:
        error = error.__cause__
    return error


def is_passing(error: BaseException) -> bool:
    """True if the same work may succeed later.

    That is the case if the connection was lost, if the database is locked or starting, or if another process wrote the
    same row at the same moment.
    """
    from sqlalchemy import exc

    cause = cause_of(error)
    if isinstance(cause, exc.OperationalError) and isinstance(cause.orig, sqlite3.Error):
        return any(text in str(cause.orig) for text in _PASSING_SQLITE)
    if isinstance(cause, exc.OperationalError):
        return True
    if isinstance(cause, exc.DBAPIError) and cause.connection_invalidated:
        return True
    passing = (exc.InterfaceError, exc.IntegrityError, exc.PendingRollbackError, exc.TimeoutError)
    return isinstance(cause, (*passing, BrokenTransactionError))


class Patience:
    """Runs work on a database again until it succeeds or the time is over.

    Work that is called inside other work of the same thread is not repeated by itself. Its error passes to the
    outermost work, which is repeated as a whole. Work must therefore give the same result when it runs twice, even if
    its first run was committed and only the acknowledgement was lost.

    Args:
        seconds: Time for which it tries again after the first failure.
        place: Name of the database in messages, without a password.
        first_line: Function from an error to its first line, without a password.
        say: Called with each message.
    """

    def __init__(self, seconds: float, place: str, first_line: Callable[[BaseException], str], say: Say) -> None:
        self.seconds, self.place, self.first_line, self.say = seconds, place, first_line, say
        self._thread = threading.local()

    def run(self, work: Callable[[], T]) -> T:
        """Runs ``work`` until it succeeds, and returns its result.

        Raises:
            RunError: The database failed for longer than the patience lasts, or for a reason that will not pass.
        """
        if getattr(self._thread, "busy", False):
            return work()
        with self._busy():
            return self._repeat(work)

    @contextmanager
    def impatient(self) -> Iterator[None]:
        """Inside the block, this thread tries only once, and the database's own errors are raised."""
        with self._busy():
            yield

    @contextmanager
    def _busy(self) -> Iterator[None]:
        before = getattr(self._thread, "busy", False)
        self._thread.busy = True
        try:
            yield
        finally:
            self._thread.busy = before

    def _repeat(self, work: Callable[[], T]) -> T:
        began: float | None = None
        pause, said = _FIRST_PAUSE_S, False
        while True:
            try:
                found = work()
            except Exception as error:
                now = time.monotonic()
                began = now if began is None else began
                self._raise_lasting(error, now - began)
                if not said and now - began >= _QUIET_S:
                    self.say(
                        f"search: {self.place} cannot be reached ({self.first_line(error)}); "
                        f"trying again for up to {self.seconds:g} s"
                    )
                    said = True
                left = began + self.seconds - now
                time.sleep(min(left, pause * random.uniform(0.5, 1.5)))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                if said:
                    self.say(f"search: {self.place} is back, the search goes on")
                return found

    def _raise_lasting(self, error: Exception, waited: float) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        if not isinstance(cause_of(error), SQLAlchemyError | StorageInternalError | BrokenTransactionError):
            raise error
        if not is_passing(error):
            line = self.first_line(error)
            full = "disk is full" in line
            remedy = "; make room on its disk, then the same command goes on" if full else ""
            raise RunError(f"{self.place}: the database failed: {line}{remedy}") from None
        if waited >= self.seconds:
            raise RunError(
                f"{self.place}: the database could not be used for {self.seconds:g} s: {self.first_line(error)}; "
                "once it is back, the same command goes on (search.storage_patience_s: how long a search waits)"
            ) from None
