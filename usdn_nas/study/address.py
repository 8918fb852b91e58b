"""Opens the database that a URL names. Messages about it show no part of its password."""

from __future__ import annotations

import os
import random
import time
import warnings

from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage

from usdn_nas._util.errors import RunError, UserError
from usdn_nas._util.redact import MASK, masked_url, secrets_of
from usdn_nas.study.database import Database
from usdn_nas.study.patience import Patience, Say, cause_of

__all__ = ["open_database", "resolve"]

_WHERE = "search.storage"
_EXAMPLE = "for example sqlite:///study.db"
_VARIABLE = "env:"
_CREATING_S = 15.0
"""The creation of tables is tried again for this time if other processes create them at the same moment."""


def resolve(given: str) -> str:
    """Returns the URL or path that ``search.storage`` stands for.

    That is ``given`` itself, or the value of the environment variable that ``given`` names (``env:NAME``).

    Raises:
        UserError: There is no such variable, or the password is masked because passwords are not written to files.
    """
    url = given
    if given.startswith(_VARIABLE):
        name = given.removeprefix(_VARIABLE)
        if not os.environ.get(name):
            raise UserError(f"the environment variable '{name}' is not set", where=_WHERE)
        url = os.environ[name]
    if "://" in url and MASK in url:
        raise UserError(
            "the password of the storage is not kept in files",
            where=_WHERE,
            remedy="give the URL again (--set search.storage=...), or put it into an environment variable and set "
            "search.storage to env:NAME",
        )
    return url


def open_database(url: str, patience_s: float, say: Say) -> BaseStorage:
    """Opens a database and creates its tables if they are missing.

    Several processes may do this at the same moment. Most databases then let one of them create the tables and report
    an error to the others, which try again here.

    Args:
        url: URL in the form of SQLAlchemy.
        patience_s: Time in seconds for which an unreachable database is tried again.
        say: Called with messages about that.

    Raises:
        UserError: The database cannot be opened.
    """
    shown = masked_url(url)
    if "://" not in url:
        raise UserError(
            f"expected a storage URL, or a path ending in .journal or .log, got '{shown}'",
            where=_WHERE,
            remedy=_EXAMPLE,
        )
    if shown == MASK:
        raise UserError(
            "the storage URL cannot be read",
            where=_WHERE,
            remedy="write the characters @ / : ? of a password as %40 %2F %3A %3F",
        )

    def first_line(error: BaseException) -> str:
        return _first_line(error, secrets_of(url))

    patience = Patience(patience_s, shown, first_line, say)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _CachedStorage(patience.run(lambda: _created(url, patience)))
    except Exception as error:  # SQLAlchemy, the driver or Optuna may raise anything; the user's URL is the reason
        found = error.__context__ if isinstance(error, RunError) and error.__context__ else error
        raise UserError(f"cannot open '{shown}': {first_line(found)}", where=_WHERE, remedy=_EXAMPLE) from None


def _created(url: str, patience: Patience) -> Database:
    deadline = time.monotonic() + _CREATING_S
    while True:
        try:
            return Database(url, patience)
        except Exception as error:
            if not _by_another(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.05, 0.5))


def _by_another(error: Exception) -> bool:
    """True if another process may just have created the same table, type, index or row, or holds the lock for it."""
    from sqlalchemy import exc

    cause = cause_of(error)
    if isinstance(cause, exc.IntegrityError):
        return True
    text = str(getattr(cause, "orig", "")).lower()
    return isinstance(cause, exc.DBAPIError) and any(
        known in text for known in ("already exists", "locked", "deadlock", "concurrent", "duplicate")
    )


def _first_line(error: BaseException, secrets: tuple[str, ...]) -> str:
    cause = cause_of(error)
    text = str(getattr(cause, "orig", None) or cause).strip() or type(cause).__name__
    for secret in secrets:
        text = text.replace(secret, MASK)
    return text.splitlines()[0]
