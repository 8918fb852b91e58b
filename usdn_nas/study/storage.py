"""Storages of studies: a journal file by default, or a database that Optuna opens by its URL."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import optuna
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage

from usdn_nas._util.errors import UserError
from usdn_nas._util.writing import write_failure
from usdn_nas.study.address import open_database, resolve
from usdn_nas.study.database import Database
from usdn_nas.study.journal import StudyJournal
from usdn_nas.study.patience import Say

__all__ = ["one_write", "open_storage", "patiently", "place_of", "quiet", "sync"]

T = TypeVar("T")

_JOURNALS = (".journal", ".log")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside the block, Optuna logs only errors and does not warn of its experimental features."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # opening an existing file must not even change its date
        path.touch()
    return StudyJournal(path)


def _database(storage: BaseStorage) -> Database | None:
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    return backend if isinstance(backend, Database) else None


def one_write(storage: BaseStorage, change: Callable[[], T], *, impatient: bool = False) -> T:
    """Makes changes of existing trials, or of the study, in one write.

    That is one append to a journal, or one transaction of a database. Storages of other kinds write each change by
    itself.

    Args:
        storage: The storage, from `open_storage`.
        change: Function that makes the changes in this thread. If a database fails, it is called again, even if the
            first attempt may have been committed. It must therefore give the same result when it runs twice.
        impatient: Call ``change`` only once, and raise a database's own error.

    Raises:
        UpdateFinishedTrialError: One of the trials is finished.
        RunError: The database failed, or could not be reached for too long.
    """
    database = _database(storage)
    if isinstance(storage, StudyJournal):
        with storage.one_append():
            return change()
    if database is None:
        return change()

    def transaction() -> T:
        with database.one_transaction():
            return change()

    if impatient:
        with database.patience.impatient():
            return transaction()
    return database.patience.run(transaction)


def patiently(storage: BaseStorage, work: Callable[[], T]) -> T:
    """Runs ``work``, and runs it again as a whole if a database fails in the middle of it.

    Raises:
        RunError: The database failed, or could not be reached for too long.
    """
    database = _database(storage)
    return work() if database is None else database.patience.run(work)


def place_of(storage: BaseStorage) -> Path | Database | None:
    """Returns the file of a journal, or the database. None for storages of other kinds."""
    return storage.path if isinstance(storage, StudyJournal) else _database(storage)


def sync(storage: BaseStorage) -> None:
    """Waits until everything written survives a power cut. Databases take care of that themselves."""
    if isinstance(storage, StudyJournal):
        storage.sync()


def open_storage(
    given: str | None, default: Path, *, patience_s: float = 0, say: Say = lambda text: None
) -> BaseStorage:
    """Opens a storage, or creates it if it does not exist yet.

    Args:
        given: A URL in the form of SQLAlchemy (``sqlite:///...``, ``postgresql://...`` and so on), the path of a
            journal file (``*.journal``, ``*.log``), or ``env:NAME`` for an environment variable that holds one of
            them. None stands for ``default``.
        default: Path of the default journal file.
        patience_s: Time in seconds for which a database that cannot be reached is tried again, now and later.
        say: Called with messages about that.

    Raises:
        UserError: The storage cannot be opened, or is damaged.
    """
    url = None if given is None else resolve(given)
    if url is None or ("://" not in url and url.endswith(_JOURNALS)):
        path = default if url is None else Path(url)
        try:
            return _open_journal(path)
        except OSError as error:
            raise write_failure(error, path) from None
        except ValueError as error:
            raise UserError(
                f"the journal is damaged: {error}", where=path, remedy="move it away and search again"
            ) from None
    return open_database(url, patience_s, say)
