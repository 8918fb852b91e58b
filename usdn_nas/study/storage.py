"""Where studies are kept: a journal file by default, or any storage Optuna knows by URL."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage

from usdn_nas.errors import UserError
from usdn_nas.study.journal import StudyJournal
from usdn_nas.study.transaction import one_transaction
from usdn_nas.writing import write_failure

__all__ = ["one_write", "open_storage", "place_of", "quiet", "sync"]

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


def _open_journal(path: Path) -> BaseStorage:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():  # looking at a study changes nothing, not even a date
        path.touch()
    return StudyJournal(path)


def _database(storage: BaseStorage) -> RDBStorage | None:
    backend = storage._backend if isinstance(storage, _CachedStorage) else storage
    return backend if isinstance(backend, RDBStorage) else None


@contextlib.contextmanager
def one_write(storage: BaseStorage) -> Iterator[None]:
    """What this thread changes of existing trials within is written when it ends: one append to a journal, one
    transaction of a database; storages of other kinds write each change at once.

    Raises:
        UpdateFinishedTrialError: A trial among them is finished.
    """
    database = _database(storage)
    if isinstance(storage, StudyJournal):
        with storage.one_append():
            yield
    elif database is not None:
        with one_transaction(database):
            yield
    else:
        yield


def place_of(storage: BaseStorage) -> Path | str | None:
    """A journal's file, a database's URL; None of others."""
    database = _database(storage)
    if isinstance(storage, StudyJournal):
        return storage.path
    return database.url if database is not None else None


def sync(storage: BaseStorage) -> None:
    """Waits until what was written outlives a power cut; databases see to that themselves."""
    if isinstance(storage, StudyJournal):
        storage.sync()


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
            raise write_failure(error, path) from None
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
